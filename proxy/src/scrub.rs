//! Personal data out of everything that leaves. [`Scrubbed`] is the only type that dispatch accepts.

use crate::compose::Composed;
use crate::intake::Body;
use crate::refuse::Refusal;
use sluice_policies::scrub::{Kind, Series, Vault, detect};
use sluice_wire::chat::message_before_another;
use sluice_wire::json::{decode, decode_pieces};
use sluice_wire::{Envelope, NestedText, Position, Splices, TextSpan};
use std::borrow::Cow;
use std::ops::Range;

/// A request that may leave.
pub struct Scrubbed {
    pub composed: Composed,
    pub vault: Vault,
    payload: Payload,
}

enum Payload {
    /// The client's body and the edits to it, but for `model`, which depends on the target.
    Edited(Splices),
    Empty,
    Unread,
}

/// What is sent to one target.
pub enum Encoded {
    Body(String),
    Empty,
    /// Still at the client.
    Unread,
}

pub fn scrub(composed: Composed) -> Result<Scrubbed, Refusal> {
    let plan = &composed.recalled.plan;
    let kinds = plan.route.scrub.clone();
    let mut vault = Vault::default();
    let listed = plan.route.route.unscrubbable_paths.iter().any(|prefix| plan.path.starts_with(prefix.as_str()));
    if !kinds.is_empty() && !listed {
        check_target(&plan.path, &plan.query, &kinds)?;
    }
    let payload = match &plan.body {
        Body::Empty => Payload::Empty,
        Body::Unread if kinds.is_empty() || listed => Payload::Unread,
        Body::Unread => {
            return Err(Refusal::unscrubbable(
                "a body that is not JSON",
                "List the path in the route's `unscrubbable_paths` if it may leave as it is.",
            ));
        }
        Body::Json(envelope) => {
            let mut splices = Splices::default();
            envelope.remove_steering(&mut splices);
            let texts = if kinds.is_empty() || listed {
                Default::default()
            } else {
                envelope.texts(&plan.route.route.unscrubbable_parts)
            };
            if let Some(part) = texts.opaque.first() {
                return Err(Refusal::unscrubbable(
                    &format!("a part of type `{part}`"),
                    "List it in the route's `unscrubbable_parts` if it may leave as it is.",
                ));
            }
            for span in &texts.spans {
                reserve(&mut vault, &envelope.text()[span.range.clone()]);
            }
            for added in composed.system.iter().map(|message| message.text.as_str()).chain(composed.block.as_deref()) {
                vault.reserve(added);
            }
            for span in &texts.spans {
                scrub_span(envelope, span, &kinds, &mut vault, &mut splices);
            }
            insert(envelope, &composed, &kinds, &mut vault, &mut splices);
            Payload::Edited(splices)
        }
    };
    Ok(Scrubbed { composed, vault, payload })
}

impl Scrubbed {
    /// The request as the target is to get it.
    pub fn encode(&self) -> Encoded {
        let plan = &self.composed.recalled.plan;
        match (&self.payload, &plan.body) {
            (Payload::Edited(splices), Body::Json(envelope)) => {
                let mut splices = splices.clone();
                let named = envelope.model();
                if let Some(model) = plan.model.as_deref().filter(|model| Some(*model) != named.as_deref()) {
                    envelope.set_model(model, &mut splices);
                }
                Encoded::Body(splices.apply(envelope.text()))
            }
            (Payload::Unread, _) => Encoded::Unread,
            _ => Encoded::Empty,
        }
    }
}

fn reserve(vault: &mut Vault, written: &str) {
    // A typed placeholder may itself be written with escapes.
    if written.contains('<') || written.contains('\\') {
        let decoded = decode(written);
        vault.reserve(&decoded);
        if decoded.contains('\\') {
            vault.reserve(&decode(&decoded));
        }
    }
}

/// Puts the rendered prompt and the recalled block in, themselves scrubbed.
fn insert(envelope: &Envelope, composed: &Composed, kinds: &[Kind], vault: &mut Vault, splices: &mut Splices) {
    let mut managed = |text: &str| match kinds.is_empty() {
        true => text.to_owned(),
        false => replace(text, vault.scrub(text, kinds, Series::Managed)),
    };
    // Prompt first, then block: the prompt is the same from turn to turn, and so are its numbers.
    let system: String =
        composed.system.iter().map(|message| message_before_another(&message.role, &managed(&message.text))).collect();
    if let (false, Some(place)) = (system.is_empty(), envelope.place(Position::Start)) {
        splices.insert(place, system);
    }
    if let (Some(block), Some(place)) = (&composed.block, envelope.place(Position::BeforeLastUser)) {
        splices.insert(place, message_before_another("user", &managed(block)));
    }
}

fn replace(text: &str, edits: Vec<(Range<usize>, String)>) -> String {
    let mut splices = Splices::default();
    for (range, placeholder) in edits {
        splices.replace(range, placeholder);
    }
    splices.apply(text)
}

fn scrub_span(envelope: &Envelope, span: &TextSpan, kinds: &[Kind], vault: &mut Vault, splices: &mut Splices) {
    let written = &envelope.text()[span.range.clone()];
    if !may_hold_data(written) {
        return;
    }
    let text = Decoded::of(written);
    let pieces = if span.nested { NestedText::pieces(&text.text) } else { None };
    let Some(pieces) = pieces else {
        for (range, placeholder) in vault.scrub(&text.text, kinds, Series::Conversation) {
            splices.replace(text.written(range, span.range.start), placeholder);
        }
        return;
    };
    for piece in pieces {
        let source = &text.text[piece.range.clone()];
        let inner = if piece.in_string { Decoded::of(source) } else { Decoded::verbatim(source) };
        for (range, placeholder) in vault.scrub(&inner.text, kinds, Series::Conversation) {
            let range = inner.written(range, piece.range.start);
            // Outside a string stands a number; a placeholder has to be a string to be JSON.
            let placeholder = if piece.in_string { placeholder } else { format!("\\\"{placeholder}\\\"") };
            splices.replace(text.written(range, span.range.start), placeholder);
        }
    }
}

/// A quick look: everything that is found has a digit or an at sign, or an escape that may be one.
fn may_hold_data(written: &str) -> bool {
    written.bytes().any(|byte| byte == b'@' || byte == b'\\' || byte.is_ascii_digit())
}

/// Decoded text that knows where each of its characters was written.
struct Decoded<'t> {
    text: Cow<'t, str>,
    /// Where a run of decoded text begins, where it was written, and how long it was written; empty = verbatim.
    runs: Vec<(usize, Range<usize>)>,
}

impl<'t> Decoded<'t> {
    fn verbatim(text: &'t str) -> Decoded<'t> {
        Decoded { text: Cow::Borrowed(text), runs: Vec::new() }
    }

    fn of(written: &'t str) -> Decoded<'t> {
        if !written.contains('\\') {
            return Decoded::verbatim(written);
        }
        let mut text = String::with_capacity(written.len());
        let mut runs = Vec::new();
        decode_pieces(written, |piece, range| {
            runs.push((text.len(), range));
            text.push_str(piece);
        });
        Decoded { text: Cow::Owned(text), runs }
    }

    /// The bytes in which `range` was written, counted from `base`.
    fn written(&self, range: Range<usize>, base: usize) -> Range<usize> {
        if self.runs.is_empty() {
            return base + range.start..base + range.end;
        }
        let place = |at: usize, end: bool| {
            let run =
                self.runs.partition_point(|(start, _)| if end { *start < at } else { *start <= at }).saturating_sub(1);
            let (start, written) = &self.runs[run];
            let next = self.runs.get(run + 1).map_or(self.text.len(), |(next, _)| *next);
            let verbatim = written.len() == next - start;
            match (verbatim, end) {
                (true, _) => written.start + (at - start),
                (false, true) => written.end,
                (false, false) => written.start,
            }
        };
        base + place(range.start, false)..base + place(range.end, true)
    }
}

/// Paths and queries leave too, and nothing in them can be put back.
fn check_target(path: &str, query: &str, kinds: &[Kind]) -> Result<(), Refusal> {
    for text in [path, query] {
        let decoded = percent_decode(text);
        if let Some(finding) = detect(&decoded, kinds).first() {
            return Err(Refusal::unscrubbable(
                &format!("a URL that holds a value of kind {}", finding.kind.name()),
                "Send it in the body.",
            ));
        }
    }
    Ok(())
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()).flatten();
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::Dialect;

    fn scrub_body(body: &str) -> String {
        let envelope = Envelope::parse(Dialect::Chat, body.as_bytes().to_vec()).unwrap();
        let mut vault = Vault::default();
        let mut splices = Splices::default();
        for span in &envelope.texts(&[]).spans {
            scrub_span(&envelope, span, &Kind::ALL, &mut vault, &mut splices);
        }
        splices.apply(envelope.text())
    }

    #[test]
    fn every_depth_of_escaping_is_seen_through() {
        let body = r#"{"messages":[{"role":"user","content":"a\n\u0062@x.com\u0040 é\td@x.com"},{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"to\":\"c\\nd@x.com\",\"n\":4111111111111111,\"l\":[4111111111111111]}"}}]}],"user":"e@x.com"}"#;
        let sent = scrub_body(body);
        assert_eq!(
            sent,
            r#"{"messages":[{"role":"user","content":"a\n<EMAIL_1>\u0040 é\t<EMAIL_2>"},{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"to\":\"c\\n<EMAIL_2>\",\"n\":\"<CREDIT_CARD_1>\",\"l\":[\"<CREDIT_CARD_1>\"]}"}}]}],"user":"<EMAIL_3>"}"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&sent).is_ok());
    }

    #[test]
    fn urls_that_hold_data_are_refused() {
        assert!(check_target("/v1/x", "u=a%40x.com", &Kind::ALL).is_err());
        assert!(check_target("/v1/files/file-123", "limit=20", &Kind::ALL).is_ok());
    }
}
