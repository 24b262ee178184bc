//! The one mutable object of a snapshot location: a signed list of everything else.
//!
//! Magic, version, the signer's key and an Ed25519 signature (RFC 8032) stand before a JSON payload.
//! The signature covers all other bytes, so neither version nor key can be exchanged.

use crate::ObjectHash;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"SLUICEMF";
/// Of the payload and the frame around it.
pub const MANIFEST_FORMAT: u32 = 2;
const KEY_AT: usize = 12;
const SIGNATURE_AT: usize = KEY_AT + 32;
const PAYLOAD_AT: usize = SIGNATURE_AT + 64;

/// A published snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Rises with every publication, roll-backs included.
    pub epoch: u64,
    /// Microseconds since the Unix epoch; renewed while the publisher lives.
    pub published_at: i64,
    pub registry: ObjectRef,
    /// A hash over the prompts and experiments in the registry: what one goes back to is told apart by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompts: String,
    pub collections: Vec<CollectionEntry>,
    /// Subjects of whom edges forget what they keep, before they look at anything else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased: Vec<Erasure>,
}

/// A subject that was erased.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Erasure {
    /// [`unit_hash`](crate::unit_hash) of the subject, in hexadecimal.
    pub unit: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
}

/// An object and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    #[serde(with = "hex_hash")]
    pub hash: ObjectHash,
    pub bytes: u64,
}

/// A tenant's collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionEntry {
    /// The tenant's id in hexadecimal.
    pub tenant: String,
    pub name: String,
    /// In order of the passages' sequence numbers; no number is in two of them.
    pub segments: Vec<SegmentEntry>,
    /// Sequence numbers of passages that are in a segment but no longer in the collection: eight bytes each, rising.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<ObjectRef>,
}

/// An immutable part of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Hash of what the segment was built from; equal ids hold equal passages.
    pub id: String,
    /// The formats and models that it depends on.
    pub maker: String,
    pub passages: u64,
    /// The first and the last sequence number of the range that it covers.
    pub first: u64,
    pub last: u64,
    pub files: Vec<FileEntry>,
}

/// A file of a segment's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// A plain file name, without any folder.
    pub name: String,
    #[serde(flatten)]
    pub object: ObjectRef,
}

impl Manifest {
    /// Every object that the snapshot needs.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let files =
            self.collections.iter().flat_map(|collection| &collection.segments).flat_map(|segment| &segment.files);
        let dead = self.collections.iter().filter_map(|collection| collection.dead.as_ref());
        std::iter::once(&self.registry).chain(files.map(|file| &file.object)).chain(dead)
    }

    /// The manifest's bytes, signed.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, serde_json::Error> {
        let payload = serde_json::to_vec(self)?;
        let mut bytes = Vec::with_capacity(PAYLOAD_AT + payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&MANIFEST_FORMAT.to_le_bytes());
        bytes.extend_from_slice(key.verifying_key().as_bytes());
        let signature = key.sign(&signed_part(&bytes, &payload));
        bytes.extend_from_slice(&signature.to_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }

    /// Reads a manifest that one of `trusted` signed.
    pub fn verify(bytes: &[u8], trusted: &[VerifyingKey]) -> Result<Manifest, ManifestError> {
        let (Some(frame), Some(payload)) = (bytes.get(..PAYLOAD_AT), bytes.get(PAYLOAD_AT..)) else {
            return Err(ManifestError::NotOurs);
        };
        if frame[..8] != *MAGIC {
            return Err(ManifestError::NotOurs);
        }
        let format = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]);
        if format != MANIFEST_FORMAT {
            return Err(ManifestError::Version(format));
        }
        let signer = &frame[KEY_AT..SIGNATURE_AT];
        let key = trusted
            .iter()
            .find(|key| key.as_bytes() == signer)
            .ok_or_else(|| ManifestError::Untrusted(hex::encode(signer)))?;
        let signature = Signature::from_slice(&frame[SIGNATURE_AT..]).map_err(|_| ManifestError::Forged)?;
        key.verify_strict(&signed_part(&frame[..SIGNATURE_AT], payload), &signature)
            .map_err(|_| ManifestError::Forged)?;
        let manifest: Manifest = serde_json::from_slice(payload).map_err(ManifestError::Payload)?;
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        for segment in manifest.collections.iter().flat_map(|collection| &collection.segments) {
            for name in segment.files.iter().map(|file| file.name.as_str()).chain([segment.id.as_str()]) {
                if !plain(name) {
                    return Err(ManifestError::Name(name.to_owned()));
                }
            }
        }
        Ok(manifest)
    }
}

fn signed_part(frame: &[u8], payload: &[u8]) -> Vec<u8> {
    [frame, payload].concat()
}

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("it is not a Sluice manifest, or it is cut")]
    NotOurs,
    #[error(
        "it has format version {0}, this program reads {MANIFEST_FORMAT}; use a program of the publisher's version"
    )]
    Version(u32),
    #[error(
        "it is signed by {0}, which is not a trusted key; add it to `snapshot.trusted_keys` if it is your publisher's"
    )]
    Untrusted(String),
    #[error("its signature does not fit its content")]
    Forged,
    #[error("its payload cannot be read")]
    Payload(#[source] serde_json::Error),
    #[error("it names a file `{0}`, which is not a plain name")]
    Name(String),
}

mod hex_hash {
    use crate::ObjectHash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &ObjectHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        ObjectHash::of_hex(&text).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let object = ObjectRef { hash: ObjectHash::of(b"x"), bytes: 1 };
        let file = FileEntry { name: "passages".into(), object: object.clone() };
        let segment =
            SegmentEntry { id: "ab".into(), maker: "m".into(), passages: 3, first: 1, last: 3, files: vec![file] };
        Manifest {
            epoch: 7,
            published_at: 1,
            registry: object,
            prompts: "ab".into(),
            collections: vec![CollectionEntry {
                tenant: "00".into(),
                name: "c".into(),
                segments: vec![segment],
                dead: None,
            }],
            erased: vec![Erasure { unit: "0f".into(), at: 5 }],
        }
    }

    #[test]
    fn only_an_unchanged_manifest_of_a_trusted_signer_is_read() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let bytes = sample().sign(&key).unwrap();
        assert_eq!(Manifest::verify(&bytes, &[key.verifying_key()]).unwrap(), sample());
        assert!(matches!(Manifest::verify(&bytes, &[]), Err(ManifestError::Untrusted(_))));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Manifest::verify(&changed, &[key.verifying_key()]).is_err(), "{at}");
            assert!(Manifest::verify(&bytes[..at], &[key.verifying_key()]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_file_name_cannot_leave_its_folder() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut manifest = sample();
        manifest.collections[0].segments[0].files[0].name = "../evil".into();
        let bytes = manifest.sign(&key).unwrap();
        assert!(matches!(Manifest::verify(&bytes, &[key.verifying_key()]), Err(ManifestError::Name(_))));
    }
}
