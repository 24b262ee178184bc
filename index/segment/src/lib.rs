//! What a publisher writes and an edge maps: formats, hashes, signatures, memory maps.
//!
//! The workspace's only `unsafe` is here, where files are mapped. This crate knows nothing of queries, ranking or networks.
//! The formats are drawn byte by byte in `docs/formats.md`.

mod archive;
mod columns;
mod journal;
mod manifest;
mod passages;
mod registry;
mod sealed;
mod unit;

pub use archive::{Archived, FormatError, Mapped, encode};
pub use columns::{ArchivedColumn, ArchivedColumns, ArchivedNumberAt, Column, Columns, NumberAt, Word};
pub use journal::{Content, Feedback, JournalFile, Record, Run, Said, is_journal, journal_records};
pub use manifest::{
    CollectionEntry, Erasure, FileEntry, MANIFEST_FORMAT, Manifest, ManifestError, ObjectRef, SegmentEntry,
};
pub use passages::{About, Passage, PassageTable, PassageWriter};
pub use registry::{
    ArchivedArm, ArchivedExperiment, ArchivedKey, ArchivedPartial, ArchivedPrompt, ArchivedPromptMessage,
    ArchivedPromptVersion, ArchivedTenant, Arm, Contents, Example, Experiment, Key, Partial, Prompt, PromptMessage,
    PromptVersion, Registry, Rule, SealedSecret, Tenant, Tool, Variable,
};

pub use sealed::{fleet_public, seal, unseal};
pub use unit::{unit_hash, unit_key};

pub use ed25519_dalek::{SigningKey, VerifyingKey};

/// The name of an object: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectHash(pub [u8; 32]);

impl ObjectHash {
    pub fn of(bytes: &[u8]) -> ObjectHash {
        ObjectHash(*blake3::hash(bytes).as_bytes())
    }

    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    pub fn of_hex(text: &str) -> Option<ObjectHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(ObjectHash(bytes))
    }
}

impl std::fmt::Display for ObjectHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl std::fmt::Debug for ObjectHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
