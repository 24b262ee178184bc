//! Credentials to who is asking.

use crate::head::{CREDENTIALS, split_key};
use crate::live::{KeyEntry, Live, Prepared};
use crate::refuse::{ErrorCode, Refusal};
use crate::websocket::KEY_PROTOCOL;
use pingora_http::RequestHeader;
use std::sync::Arc;

/// A known caller, and the state that its whole exchange believes.
pub struct Principal {
    pub prepared: Arc<Prepared>,
    pub key: Arc<KeyEntry>,
}

/// Looks up the caller's key. One hash and one look-up; no database, no slow hash, as keys are 256-bit random.
///
/// `now` is in microseconds since the Unix epoch.
pub fn identify(head: &RequestHeader, live: &Live, prepared: Arc<Prepared>, now: i64) -> Result<Principal, Refusal> {
    if prepared.snapshot.is_none() {
        return Err(Refusal::new(
            ErrorCode::SnapshotUnavailable,
            "This edge has no snapshot yet. Run `sluice publish`, or wait for its first sync.",
        ));
    }
    if prepared.is_stale(now) {
        return Err(Refusal::new(
            ErrorCode::SnapshotUnavailable,
            "This edge's snapshot is too old to admit keys. Check its snapshot location.",
        ));
    }
    let credential = credential(head).ok_or_else(Refusal::invalid_key)?;
    let hash = *blake3::keyed_hash(&live.pepper, credential.as_bytes()).as_bytes();
    let key = prepared.keys.get(&hash).filter(|key| !key.grant.is_expired(now));
    let key = Arc::clone(key.ok_or_else(Refusal::invalid_key)?);
    Ok(Principal { prepared, key })
}

/// The key in whichever place its client puts it.
fn credential(head: &RequestHeader) -> Option<&str> {
    for name in CREDENTIALS {
        let Some(value) = head.headers.get(name).and_then(|value| value.to_str().ok()) else { continue };
        let value = match name {
            "authorization" => match value.split_once(' ') {
                Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key,
                _ => continue,
            },
            _ => value,
        };
        return Some(value.trim());
    }
    if let Some(key) = head.uri.query().and_then(|query| split_key(query).0) {
        return Some(key);
    }
    let protocols = head.headers.get("sec-websocket-protocol")?.to_str().ok()?;
    protocols.split(',').find_map(|name| name.trim().strip_prefix(KEY_PROTOCOL))
}
