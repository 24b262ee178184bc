//! The key's limits.

use crate::identify::Principal;
use crate::live::Live;
use crate::refuse::Refusal;
use sluice_policies::limits::Standing;

/// A caller within its limits.
pub struct Admitted {
    pub principal: Principal,
    pub standing: Standing,
}

/// Counts the request against its key.
pub fn admit(principal: Principal, live: &Live) -> Result<Admitted, Refusal> {
    let default = principal.prepared.config.limits.requests_per_minute;
    let limit = principal.key.grant.requests_per_minute.unwrap_or(default);
    match live.limits.check(principal.key.id, limit, live.moment()) {
        Ok(standing) => Ok(Admitted { principal, standing }),
        Err(too_many) => Err(Refusal::too_many(too_many)),
    }
}
