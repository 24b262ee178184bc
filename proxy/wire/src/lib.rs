//! Bytes to [`Envelope`] and event frames, and back.
//!
//! Pure functions over bytes: this crate knows no sockets, no clocks and no policy. It keeps the original body and
//! the *spans* of what Sluice owns in it, so that everything else (number spelling, key order, unknown fields, white
//! space) reaches a provider untouched. That is why it has its own JSON scanner beside `serde_json`: a parsed value
//! forgets how it was written.

mod dialect;
mod envelope;
pub mod event;
mod failure;
pub mod json;
mod nested;
mod splice;
pub mod sse;
pub mod translate;

pub use dialect::{Dialect, Family, gemini_model};
pub use envelope::{Additions, Envelope, EnvelopeError, Exchange, TextSpan, Texts, Tool};
pub use failure::{Failure, kind_of_status};
pub use nested::NestedText;
pub use splice::Splices;
