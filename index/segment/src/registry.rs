//! The configuration snapshot: everything an edge must know of keys and prompts, small and shipped whole.

use crate::archive::Archived;
use rkyv::{Archive, Serialize};

/// All tenants.
#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Registry {
    pub tenants: Vec<Tenant>,
}

#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Tenant {
    pub id: [u8; 16],
    pub name: String,
    pub keys: Vec<Key>,
    pub prompts: Vec<Prompt>,
}

/// An API key. Revoked keys are not published.
#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Key {
    pub id: [u8; 16],
    pub name: String,
    /// BLAKE3 of the key, keyed with the pepper, which is never in a snapshot.
    pub hash: [u8; 32],
    /// 0 = the configuration's default.
    pub requests_per_minute: u32,
    /// Microseconds since the Unix epoch; 0 = never.
    pub expires_at: i64,
    /// Names, or `*`.
    pub routes: Vec<String>,
    pub models: Vec<String>,
    pub asserts: Vec<String>,
}

/// A deployed prompt version.
#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Prompt {
    pub alias: String,
    pub environment: String,
    pub version: u32,
    pub messages: Vec<PromptMessage>,
    pub variables: Vec<Variable>,
}

#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct PromptMessage {
    pub role: String,
    pub template: String,
}

/// A declared variable; required when it has no default.
#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Variable {
    pub name: String,
    /// JSON.
    pub default: Option<String>,
}

impl Archived for Registry {
    const KIND: [u8; 4] = *b"REGY";
    const VERSION: u32 = 1;
}
