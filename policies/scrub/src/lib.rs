//! Personal data and secrets: found, replaced by placeholders, and put back into the answer.
//!
//! [`find`] finds them in a text, [`Vault`] gives out placeholders and keeps the originals for one request, and
//! [`Restorer`] puts them back into text that arrives in pieces. Bodies and streams are the caller's concern: all
//! three work on decoded text. Pure: no files, no clock, no network.

mod detect;
mod fold;
mod guard;
mod kind;
mod restore;
mod rules;
mod url;
mod vault;

pub use detect::{Finding, find, warm};
pub use kind::Kind;
pub use restore::Restorer;
pub use rules::{Action, DEFAULT_THRESHOLD, MAX_PATTERNS, PatternError, Rules};
pub use vault::{Refused, Series, Vault};
