//! The key's limits.

use crate::identify::Principal;
use crate::live::Live;
use crate::refuse::Refusal;
use sluice_policies::limits::{Moment, Standing};

/// A caller within its limits.
pub struct Admitted {
    pub principal: Principal,
    pub standing: Standing,
}

/// Counts the request against its key, as one of `now`.
pub fn admit(principal: Principal, now: Moment, live: &Live) -> Result<Admitted, Refusal> {
    let default = principal.prepared.config.limits.requests_per_minute;
    let limit = principal.key.grant.requests_per_minute.unwrap_or(default);
    match live.limits.check(principal.key.id, limit, now) {
        Ok(standing) => Ok(Admitted { principal, standing }),
        Err(too_many) => Err(Refusal::too_many(too_many)),
    }
}
