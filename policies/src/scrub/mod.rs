//! Personal data: found, replaced by placeholders, and put back into the answer.
//!
//! [`detect`] finds it in a text, [`Vault`] gives out placeholders and keeps the originals for one request, and
//! [`Restorer`] puts them back into text that arrives in pieces. Bodies and streams are the caller's concern: all
//! three work on decoded text.

mod detect;
mod restore;
mod url;
mod vault;

pub use detect::{Finding, Kind, detect};
pub use restore::Restorer;
pub use vault::{Series, Vault};
