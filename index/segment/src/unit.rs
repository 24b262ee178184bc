//! What records and sessions call a tenant's sessions and subjects: keyed hashes, the same at the store and at all its
//! edges, that tell nothing to who has no key.

/// The key of the hashes, which follows from the pepper of a fleet.
pub fn unit_key(pepper: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("sluice 2026-11 units of records", pepper)
}

/// The hash under which a tenant's unit is known; `kind` is `session`, `subject` or `key`.
pub fn unit_hash(key: &[u8; 32], tenant: &[u8; 16], kind: &str, unit: &str) -> [u8; 16] {
    let mut hash = [0; 16];
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(tenant).update(kind.as_bytes()).update(&[0]).update(unit.as_bytes()).finalize_xof().fill(&mut hash);
    hash
}
