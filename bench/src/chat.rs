//! Chats as the measurements of single steps need them: a body with personal data, and the events of an answer.

use serde_json::{Value, json};
use sluice_scrub::{Restorer, Rules, Series, Vault};
use sluice_wire::event::Chunk;
use sluice_wire::json::decode;
use sluice_wire::{Dialect, Envelope, Splices};
use std::hint::black_box;

/// A body of about `size` bytes whose turns are cut from `text`, over and over.
pub fn body(size: usize, text: &str) -> String {
    let turns: Vec<Value> = pieces(&repeated(text, size - size / 10), 700)
        .into_iter()
        .enumerate()
        .map(|(place, text)| {
            let role = if place % 2 == 0 { "user" } else { "assistant" };
            json!({ "role": role, "content": text })
        })
        .collect();
    json!({ "model": "m", "messages": turns, "temperature": 0.2 }).to_string()
}

/// `body` parsed, walked, scrubbed and put together again, as an edge does it.
pub fn scrubbed(body: Vec<u8>, rules: &Rules) -> String {
    let Ok(envelope) = Envelope::parse(Dialect::Chat, body) else { return String::new() };
    let texts = envelope.texts(&[]);
    let mut vault = Vault::default();
    let mut splices = Splices::default();
    for span in &texts.spans {
        let written = &envelope.text()[span.range.clone()];
        if written.contains('\\') {
            // Offsets of escaped text are the proxy's concern; the work is the same.
            black_box(vault.scrub(&decode(written), rules, Series::Conversation).map_or(0, |edits| edits.len()));
            continue;
        }
        for (range, placeholder) in vault.scrub(written, rules, Series::Conversation).unwrap_or_default() {
            splices.replace(span.range.start + range.start..span.range.start + range.end, placeholder);
        }
    }
    splices.apply(envelope.text())
}

/// The events of a stream without a placeholder, and the vault of its request, which has some.
pub struct Stream {
    vault: Vault,
    events: Vec<String>,
}

impl Stream {
    pub fn of(events: usize, rules: &Rules) -> Stream {
        let mut vault = Vault::default();
        let _ = vault.scrub("a@x.com +1 415-555-0132 4111 1111 1111 1111", rules, Series::Conversation);
        let event = |number| {
            format!(
                "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{number}\"}},\"finish_reason\":null}}]}}"
            )
        };
        Stream { vault, events: (0..events).map(event).collect() }
    }

    /// Restores every event: how many bytes the last showed, and whether any was held back.
    pub fn restore(&self) -> (usize, bool) {
        let mut restorer = Restorer::text();
        let mut shown = String::new();
        let mut held = false;
        for event in &self.events {
            let Some(chunk) = Chunk::read(Dialect::Chat, event) else { continue };
            for delta in &chunk.deltas {
                shown.clear();
                restorer.push(&decode(&event[delta.range.clone()]), &self.vault, &mut shown);
                held |= restorer.holds();
            }
        }
        (shown.len(), held)
    }
}

/// Whether a line of the labelled corpus is source code, a configuration or the like.
pub fn is_code(line: &Value) -> bool {
    matches!(line["kind"].as_str(), Some("code" | "neg-code" | "neg-lock" | "neg-cfg" | "env"))
}

/// `text` as often as it takes for `size` bytes.
pub fn repeated(text: &str, size: usize) -> String {
    let mut out = text.repeat(size / text.len().max(1) + 1);
    out.truncate(out.floor_char_boundary(size));
    out
}

/// `text` cut into pieces of `size` bytes, at borders of characters.
pub fn pieces(text: &str, size: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(size));
        pieces.push(piece.to_owned());
        rest = behind;
    }
    pieces
}
