//! Secrets on their way to a fleet's edges: sealed to its public key, so that whoever holds a snapshot holds nothing.
//!
//! X25519 with a key pair of one message, BLAKE3 to derive the key, AES-256-GCM. The pair follows from the content and
//! a key of the sender's alone, so that sealing the same again gives the same bytes and nothing new to publish.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use x25519_dalek::{PublicKey, StaticSecret};

const PUBLIC: usize = 32;

/// The public key of a fleet's secret key.
pub fn fleet_public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// Seals `secret` to `fleet`. `context` says what it is for, and opens it only for that; `sender` is a secret of the
/// sender's. `None` for a public key that is no key.
pub fn seal(fleet: &[u8; 32], sender: &[u8; 32], context: &str, secret: &[u8]) -> Option<Vec<u8>> {
    let seed = blake3::Hasher::new_keyed(&blake3::derive_key("sluice 2026-11 sender of sealed secrets", sender))
        .update(fleet)
        .update(&(context.len() as u64).to_le_bytes())
        .update(context.as_bytes())
        .update(secret)
        .finalize();
    let own = StaticSecret::from(*seed.as_bytes());
    let public = PublicKey::from(&own);
    let shared = own.diffie_hellman(&PublicKey::from(*fleet));
    if !shared.was_contributory() {
        return None;
    }
    let key = message_key(shared.as_bytes(), public.as_bytes(), fleet);
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(key));
    // The key serves one message, so its nonce may be the same for all.
    let payload = Payload { msg: secret, aad: context.as_bytes() };
    let sealed = cipher.encrypt(&Nonce::from([0; 12]), payload).ok()?;
    Some([public.as_bytes().as_slice(), &sealed].concat())
}

/// Opens what [`seal`] made for `fleet`'s secret key and this context.
pub fn unseal(fleet: &[u8; 32], context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (public, sealed) = sealed.split_at_checked(PUBLIC)?;
    let public: [u8; 32] = public.try_into().ok()?;
    let secret = StaticSecret::from(*fleet);
    let shared = secret.diffie_hellman(&PublicKey::from(public));
    let key = message_key(shared.as_bytes(), &public, &fleet_public(fleet));
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(key));
    cipher.decrypt(&Nonce::from([0; 12]), Payload { msg: sealed, aad: context.as_bytes() }).ok()
}

fn message_key(shared: &[u8], public: &[u8], fleet: &[u8]) -> [u8; 32] {
    blake3::derive_key("sluice 2026-11 sealed secret", &[shared, public, fleet].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fleet_opens_a_secret_and_only_for_its_context() {
        let (fleet, other, sender) = ([1; 32], [2; 32], [3; 32]);
        let public = fleet_public(&fleet);
        let sealed = seal(&public, &sender, "tenant/openai", b"sk-secret").unwrap();
        assert_eq!(unseal(&fleet, "tenant/openai", &sealed).as_deref(), Some(&b"sk-secret"[..]));
        assert_eq!(sealed, seal(&public, &sender, "tenant/openai", b"sk-secret").unwrap());
        assert_ne!(sealed[..32], seal(&public, &sender, "tenant/openai", b"sk-secreu").unwrap()[..32]);
        assert_eq!(unseal(&other, "tenant/openai", &sealed), None);
        assert_eq!(unseal(&fleet, "tenant/other", &sealed), None);
        for at in [0, 33, sealed.len() - 1] {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert_eq!(unseal(&fleet, "tenant/openai", &broken), None);
        }
        assert_eq!(unseal(&fleet, "tenant/openai", &sealed[..20]), None);
        assert_eq!(seal(&[0; 32], &sender, "x", b"y"), None);
    }
}
