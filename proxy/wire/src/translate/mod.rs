//! One dialect's conversation in another's words.
//!
//! Everything here is a pure function of text. Values that mean the same in both dialects (numbers, JSON schemas, tool
//! arguments) are copied as they were written, by span. What the other dialect has no words for is never dropped in
//! silence: its path is reported, and the caller decides between refusing and telling.

mod answer;
mod request;
mod said;
mod stream;

pub use answer::answer;
pub use request::request;
pub use stream::Stream;

/// An event or answer that is not what its dialect allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not what the dialect allows")]
pub struct Malformed;

/// What a request is to become at its target.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The provider's model. For Gemini it stands in the path and not in the body.
    pub model: &'t str,
    /// The most tokens that the model can answer with; what the request asks beyond it is reduced to it.
    pub max_output_tokens: Option<u32>,
    /// Whether the client asked for a stream, which Gemini's clients say in the path.
    pub stream: bool,
}

/// A request in another dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The provider's JSON body.
    pub body: String,
    /// Paths of what the other dialect cannot express, as the client wrote them: `logit_bias`, `messages.2.name`.
    pub lost: Vec<String>,
}

/// Why a request has no translation at all, whatever were dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct Untranslatable {
    /// Path of the field in the client's body.
    pub field: String,
    pub reason: String,
}
