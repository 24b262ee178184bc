//! A client's request in its provider's dialect.
//!
//! A decoder for each client's dialect reads the body into one neutral form, an encoder for each provider's dialect
//! writes it: seven pieces for nine pairs. Decoders report what no other dialect can say, encoders what theirs cannot.

mod encode;
mod from_chat;
mod from_gemini;
mod from_messages;
mod from_responses;
mod neutral;
mod openai;
mod read;
mod schema;
mod to_chat;
mod to_gemini;
mod to_messages;
pub(super) mod write;

#[cfg(test)]
mod tests;

use super::{Target, Translated, Untranslatable};
use crate::Dialect;
use crate::json::{Document, Value};
use neutral::{Conversation, Part, Role};
use read::{Lost, Read, fault};

/// Translates a request of a client that speaks `from` for a provider that speaks `to`.
///
/// Whatever the provider's dialect cannot say is named in [`Translated::lost`]; what is left out without being named
/// has no bearing on the answer, and the decoders' lists say why.
pub fn request(from: Dialect, to: Dialect, body: &str, target: &Target<'_>) -> Result<Translated, Untranslatable> {
    let document = Document::parse(body)
        .map_err(|error| Untranslatable { field: String::new(), reason: format!("is not JSON: {error}") })?;
    let root = document.root(body);
    let mut lost = Lost::default();
    let written = translate(from, to, root, target, &mut lost)
        .map_err(|fault| Untranslatable { field: fault.field(root), reason: fault.reason.clone().into_owned() })?;
    Ok(Translated { body: written, lost: lost.paths(root) })
}

fn translate<'d>(
    from: Dialect,
    to: Dialect,
    root: Value<'d>,
    target: &Target<'_>,
    lost: &mut Lost,
) -> Read<'d, String> {
    let (conversation, turns) = match from {
        Dialect::Chat => (from_chat::decode(root, lost)?, "messages"),
        Dialect::Responses => (from_responses::decode(root, lost)?, "input"),
        Dialect::Messages => (from_messages::decode(root, lost)?, "messages"),
        Dialect::Gemini => (from_gemini::decode(root, lost)?, "contents"),
        _ => return fault(root, "is of a dialect that is not translated"),
    };
    let encode = match to {
        Dialect::Chat => to_chat::encode,
        Dialect::Messages => to_messages::encode,
        Dialect::Gemini => to_gemini::encode,
        _ => return fault(root, "has no translation into that dialect"),
    };
    if to != Dialect::Chat && is_silent(&conversation) {
        return fault(root.get(turns).unwrap_or(root), "holds nothing that the user or the model said");
    }
    encode(&conversation, target, lost)
}

fn is_silent(conversation: &Conversation<'_>) -> bool {
    let mut parts = conversation.turns.iter().filter(|turn| turn.role != Role::System).flat_map(|turn| &turn.parts);
    parts.all(|part| matches!(part, Part::Text(text) if text.text.is_blank()))
}
