//! What is done with text, the same at the edge and in the store: analysing it into search terms, cutting it into
//! chunks, counting its tokens, embedding it, and rendering templates.
//!
//! It knows no tenants and opens no files: its model is part of the binary.

mod analyse;
mod chunk;
mod count;
mod embed;
mod pieces;
mod print;
mod render;

pub use analyse::{ANALYSER_ID, QueryAnalyser, analyser, term_hashes};
pub use chunk::{Chunk, chunk};
pub use count::{ENCODING, about_tokens, count_tokens, is_warm as token_counter_is_warm, warm as warm_token_counter};
pub use embed::{EmbedError, Embedder, Model, unit};
pub use print::print;
pub use render::{
    Condition, HISTORY, Message, PLACEHOLDER, PROFILE, Partials, RenderError, Template, TemplateError, Variable,
    Variables, includes,
};

/// What both the lexical index and the embedder see of a passage: its title, the headings above it, its text.
pub fn searchable(title: &str, heading: &str, text: &str) -> String {
    [title, heading, text].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(". ")
}
