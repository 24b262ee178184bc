//! A provider's answer in its client's dialect.
//!
//! A decoder for each provider's dialect tells the answer in neutral events, an encoder for each client's dialect
//! writes them: seven pieces for nine pairs, and the same pieces for whole answers and streams. Unlike requests,
//! answers may lose what the client's dialect has no field for; each piece's first paragraph says what.

pub mod from_chat;
pub mod from_gemini;
pub mod from_messages;
pub mod to_chat;
pub mod to_gemini;
pub mod to_messages;
pub mod to_responses;

#[cfg(test)]
mod tests;

use super::said::{Answer, Event};
use crate::Dialect;
use crate::json::{Document, Kind};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Translates a whole successful answer of a provider that speaks `from` for a client that speaks `to`.
///
/// `asked` is the client's own request body, of which some answers repeat members. `None` when `body` is not an answer
/// in that dialect.
pub fn answer(from: Dialect, to: Dialect, body: &str, asked: &str) -> Option<String> {
    let document = Document::parse(body).ok()?;
    let root = document.root(body);
    if root.kind() != Kind::Object {
        return None;
    }
    let events = match from {
        Dialect::Chat => from_chat::whole(root, &name_of(asked)),
        Dialect::Messages => from_messages::whole(root),
        Dialect::Gemini => from_gemini::whole(root, &name_of(asked)),
        _ => None,
    }?;
    if events.iter().any(|event| matches!(event, Event::Error(_))) {
        return None;
    }
    let answer = Answer::of(&events);
    match to {
        Dialect::Chat => Some(to_chat::whole(&answer)),
        Dialect::Responses => Some(to_responses::whole(&answer, asked)),
        Dialect::Messages => Some(to_messages::whole(&answer)),
        Dialect::Gemini => Some(to_gemini::whole(&answer)),
        _ => None,
    }
}

/// An id for an answer that has none: made of its request, which in a conversation never comes twice.
pub fn name_of(asked: &str) -> String {
    let mut hasher = DefaultHasher::new();
    asked.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Appends a frame without a name. Line breaks of JSON stand between its tokens only, and would end the data.
fn data(json: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend(json.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
    out.extend_from_slice(b"\n\n");
}

/// Appends a named frame.
fn event(name: &str, json: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(json, out);
}
