//! A client's body, kept as it came, with the places in it that Sluice owns.

use crate::dialect::Dialect;
use crate::json::{Document, JsonError, Kind, Value};
use crate::splice::Splices;
use std::borrow::Cow;
use std::ops::Range;

/// Why a body cannot be an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the body is not valid UTF-8 (byte {0})")]
    NotUtf8(usize),
    #[error("the body is not valid JSON: {0}")]
    NotJson(JsonError),
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Parsers differ in which one wins, so what Sluice checked might not be what the provider obeys.
    #[error("`{0}` occurs more than once")]
    Duplicate(&'static str),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` must be {expected}")]
    WrongType { field: &'static str, expected: &'static str },
}

/// Members of the outermost object that Sluice reads or writes.
const OWNED: [&str; 7] = ["model", "messages", "stream", "stream_options", "sluice", "input", "prompt"];

/// A checked request body. The text never changes; edits are collected in [`Splices`] and made once, at the end.
#[derive(Clone, Debug)]
pub struct Envelope {
    text: String,
    document: Document,
    dialect: Dialect,
}

/// Where a message can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before the first message.
    Start,
    /// Directly before the last message whose role is `user`, which stays its place through that turn's tool loop.
    BeforeLastUser,
}

/// A string that leaves to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpan {
    /// The bytes between its quotes.
    pub range: Range<usize>,
    /// Whether the string is itself JSON (tool-call arguments).
    pub nested: bool,
}

/// Everything that leaves, as [`Envelope::texts`] found it.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// In document order.
    pub spans: Vec<TextSpan>,
    /// Content that holds no readable text (images, audio, files, token ids): the part's type.
    pub opaque: Vec<String>,
}

impl Envelope {
    /// Checks a body; `dialect` says which members it must have.
    pub fn parse(dialect: Dialect, body: Vec<u8>) -> Result<Envelope, EnvelopeError> {
        let text = String::from_utf8(body).map_err(|error| EnvelopeError::NotUtf8(error.utf8_error().valid_up_to()))?;
        let document = Document::parse(&text).map_err(EnvelopeError::NotJson)?;
        let root = document.root(&text);
        if root.kind() != Kind::Object {
            return Err(EnvelopeError::NotAnObject);
        }
        let mut seen = [false; OWNED.len()];
        for member in root.children() {
            if let Some(which) = OWNED.iter().position(|name| member.key_is(name))
                && std::mem::replace(&mut seen[which], true)
            {
                return Err(EnvelopeError::Duplicate(OWNED[which]));
            }
        }
        if root.get("model").is_some_and(|model| model.kind() != Kind::String) {
            return Err(EnvelopeError::WrongType { field: "model", expected: "a string" });
        }
        if dialect == Dialect::Chat {
            let messages = root.get("messages").ok_or(EnvelopeError::Missing("messages"))?;
            let are_objects = messages.children().all(|message| message.kind() == Kind::Object);
            if messages.kind() != Kind::Array || !are_objects || messages.holds_bare_values() {
                return Err(EnvelopeError::WrongType { field: "messages", expected: "an array of objects" });
            }
            if messages.children().next().is_none() {
                return Err(EnvelopeError::WrongType { field: "messages", expected: "at least one message" });
            }
        }
        Ok(Envelope { text, document, dialect })
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The body as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn root(&self) -> Value<'_> {
        self.document.root(&self.text)
    }

    /// What the client named as `model`.
    pub fn model(&self) -> Option<Cow<'_, str>> {
        self.root().get("model").and_then(|model| model.string())
    }

    /// Whether the client asked for a stream.
    pub fn stream(&self) -> bool {
        self.root().get("stream").is_some_and(|stream| stream.raw() == "true")
    }

    /// The raw value of the member `sluice`.
    pub fn steering(&self) -> Option<&str> {
        self.root().get("sluice").map(|steering| steering.raw())
    }

    /// The text of the last message with role `user`, parts joined by a line break.
    pub fn last_user_text(&self) -> Option<String> {
        let message = self.last_user()?;
        let content = message.get("content")?;
        match content.kind() {
            Kind::String => content.string().map(Cow::into_owned),
            Kind::Array => {
                let parts = content.children().filter_map(|part| part.get("text")?.string());
                Some(parts.collect::<Vec<_>>().join("\n"))
            }
            _ => None,
        }
    }

    fn last_user(&self) -> Option<Value<'_>> {
        let is_user =
            |message: &Value<'_>| message.get("role").and_then(|role| role.string()).is_some_and(|role| role == "user");
        self.root().get("messages")?.children().filter(is_user).last()
    }

    /// Where `position` is in this body; `None` when there is no such message.
    pub fn place(&self, position: Position) -> Option<usize> {
        match position {
            Position::Start => self.root().get("messages")?.children().next().map(|first| first.span().start),
            Position::BeforeLastUser => self.last_user().map(|message| message.span().start),
        }
    }

    /// Takes the member `sluice` out.
    pub fn remove_steering(&self, splices: &mut Splices) {
        let Some(member) = self.root().get("sluice") else { return };
        let Some(key) = member.key_span() else { return };
        let bytes = self.text.as_bytes();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let skip = |from: usize| from + bytes[from..].iter().take_while(|byte| is_space(byte)).count();
        let after = skip(member.span().end);
        let range = if bytes.get(after) == Some(&b',') {
            key.start..skip(after + 1)
        } else {
            let before = key.start - bytes[..key.start].iter().rev().take_while(|byte| is_space(byte)).count();
            let comma = before > 0 && bytes[before - 1] == b',';
            (if comma { before - 1 } else { key.start })..member.span().end
        };
        splices.replace(range, "");
    }

    /// Gives the body another `model`; a body that named none gets one.
    pub fn set_model(&self, model: &str, splices: &mut Splices) {
        let mut written = String::with_capacity(model.len() + 2);
        crate::json::escape_into(model, &mut written);
        match self.root().get("model") {
            Some(member) => splices.replace(member.span(), format!("\"{written}\"")),
            None => {
                let others = self.root().children().any(|member| !member.key_is("sluice"));
                let comma = if others { "," } else { "" };
                splices.insert(self.root().span().start + 1, format!("\"model\":\"{written}\"{comma}"));
            }
        }
    }

    /// Every string that leaves, member names included, except what Sluice itself reads or removes. Parts whose
    /// type is in `unread` pass without being looked at.
    pub fn texts(&self, unread: &[String]) -> Texts {
        let mut texts = Texts::default();
        for member in self.root().children() {
            if member.key_is("model") || member.key_is("sluice") {
                continue;
            }
            let token_ids = (member.key_is("input") && self.dialect == Dialect::Embeddings)
                || (member.key_is("prompt") && self.dialect == Dialect::Completions);
            if token_ids && member.descendants().any(|value| value.holds_bare_values()) && !allows(unread, "tokens") {
                texts.opaque.push("tokens".to_owned());
            }
            push_key(member, &mut texts);
            self.visit(member, false, unread, &mut texts);
        }
        texts
    }

    fn visit(&self, value: Value<'_>, in_arguments: bool, unread: &[String], texts: &mut Texts) {
        if let Some(range) = value.inner_span() {
            let written = &self.text[range.clone()];
            if written.starts_with("data:") && written.contains(";base64,") && !allows(unread, "data_uri") {
                texts.opaque.push("data_uri".to_owned());
            }
            texts.spans.push(TextSpan { range, nested: in_arguments });
            return;
        }
        let parts = value.kind() == Kind::Array && (value.key_is("content") || value.key_is("input"));
        for child in value.children() {
            let part = child.get("type").filter(|_| parts).and_then(|part| part.string());
            if let Some(part) = part.filter(|part| self.is_opaque(part)) {
                if !allows(unread, &part) {
                    texts.opaque.push(part.into_owned());
                }
                continue;
            }
            push_key(child, texts);
            self.visit(child, child.key_is("arguments"), unread, texts);
        }
    }

    /// Whether a content part of that type holds something other than text. In a chat every type that is not known
    /// to be text counts, as a new kind of part may hold anything.
    fn is_opaque(&self, part: &str) -> bool {
        match self.dialect {
            Dialect::Chat => !matches!(part, "text" | "refusal"),
            _ => ["image", "audio", "file", "video"].iter().any(|kind| part.contains(kind)),
        }
    }
}

fn allows(unread: &[String], part: &str) -> bool {
    unread.iter().any(|listed| listed == part)
}

fn push_key(member: Value<'_>, texts: &mut Texts) {
    if let Some(key) = member.key_span() {
        texts.spans.push(TextSpan { range: key.start + 1..key.end - 1, nested: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chat(body: &str) -> Envelope {
        Envelope::parse(Dialect::Chat, body.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn owned_members_are_edited_and_the_rest_is_untouched() {
        let body = r#"{ "temperature": 1.0e0, "model":"bot", "sluice" : {"variables":{"a":1}} , "seed": 12345678901234567890, "messages":[{"role":"system","content":"s"},{"role":"user","content":"hi \u00e9"},{"role":"assistant","content":null}], "x": [1, 2] }"#;
        let envelope = chat(body);
        let mut splices = Splices::default();
        envelope.remove_steering(&mut splices);
        envelope.set_model("gpt", &mut splices);
        splices.insert(envelope.place(Position::BeforeLastUser).unwrap(), "R,");
        splices.insert(envelope.place(Position::Start).unwrap(), "S,");
        let sent = splices.apply(envelope.text());
        assert_eq!(
            sent,
            r#"{ "temperature": 1.0e0, "model":"gpt", "seed": 12345678901234567890, "messages":[S,{"role":"system","content":"s"},R,{"role":"user","content":"hi \u00e9"},{"role":"assistant","content":null}], "x": [1, 2] }"#
        );
        assert_eq!(envelope.last_user_text().unwrap(), "hi é");
        assert_eq!(envelope.steering().unwrap(), r#"{"variables":{"a":1}}"#);
    }

    #[test]
    fn steering_is_removed_wherever_it_stands() {
        for (body, sent) in [
            (r#"{"messages":[{}],"sluice":1}"#, r#"{"messages":[{}]}"#),
            (r#"{"messages":[{}] , "sluice":1 }"#, r#"{"messages":[{}]  }"#),
            (r#"{"sluice":1,"messages":[{}]}"#, r#"{"messages":[{}]}"#),
            (r#"{"slu\u0069ce":{"a":[]}, "messages":[{}]}"#, r#"{"messages":[{}]}"#),
        ] {
            let envelope = chat(body);
            let mut splices = Splices::default();
            envelope.remove_steering(&mut splices);
            let result = splices.apply(envelope.text());
            assert_eq!(result.replace(' ', ""), sent.replace(' ', ""));
            assert!(serde_json::from_str::<serde_json::Value>(&result).is_ok(), "{result}");
        }
    }

    #[test]
    fn a_body_of_steering_alone_becomes_a_body_of_a_model_alone() {
        // Found by fuzzing: the model was to be inserted where the steering was to be removed.
        let envelope = Envelope::parse(Dialect::Other, b"{\"sluice\":\",\"\t}".to_vec()).unwrap();
        let mut splices = Splices::default();
        envelope.remove_steering(&mut splices);
        envelope.set_model("m", &mut splices);
        assert_eq!(splices.apply(envelope.text()), "{\"model\":\"m\"\t}");
    }

    #[test]
    fn an_owned_member_that_occurs_twice_is_refused() {
        let body = br#"{"model":"a","messages":[{}],"m\u006fdel":"b"}"#.to_vec();
        assert_eq!(Envelope::parse(Dialect::Chat, body).unwrap_err(), EnvelopeError::Duplicate("model"));
    }

    #[test]
    fn every_string_leaves_through_texts_and_unreadable_parts_are_named() {
        let body = r#"{"model":"m","user":"u","messages":[{"role":"user","content":[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"data:x"}}]},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}"#;
        let envelope = chat(body);
        let texts = envelope.texts(&[]);
        let strings: Vec<_> = texts.spans.iter().map(|span| &body[span.range.clone()]).collect();
        assert_eq!(
            strings,
            [
                "user",
                "u",
                "messages",
                "role",
                "user",
                "content",
                "type",
                "text",
                "text",
                "t",
                "role",
                "assistant",
                "tool_calls",
                "function",
                "name",
                "f",
                "arguments",
                "{}"
            ]
        );
        assert_eq!(texts.spans.iter().filter(|span| span.nested).count(), 1);
        assert_eq!(texts.opaque, ["image_url"]);
        assert!(envelope.texts(&["image_url".to_owned()]).opaque.is_empty());
        let tokens = Envelope::parse(Dialect::Embeddings, br#"{"model":"m","input":[[1,2]]}"#.to_vec()).unwrap();
        assert_eq!(tokens.texts(&[]).opaque, ["tokens"]);
    }

    /// Any JSON value, written with the freedoms that JSON gives: white space, escapes, big numbers, repeated keys.
    fn any_json() -> impl Strategy<Value = String> {
        let space = "[ \n\t]{0,2}";
        let string = "\"([a-z<@. é漢🙂]|\\\\n|\\\\u00e9|\\\\\"|\\\\/|\\\\ud83d\\\\ude00){0,8}\"";
        let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?";
        let leaf = prop_oneof![
            string.prop_map(|s| s),
            number.prop_map(|s| s),
            Just("true".to_owned()),
            Just("null".to_owned())
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            let spaced = (space, inner, space).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
            prop_oneof![
                proptest::collection::vec(spaced.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
                proptest::collection::vec(("[a-c]{1,2}", spaced), 0..6).prop_map(|items| {
                    let members: Vec<_> = items.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn splicing_leaves_every_byte_that_sluice_does_not_own(before in any_json(), after in any_json(), element in any_json(), model in "\\PC{0,8}") {
            let mut written = String::new();
            crate::json::escape_into(&model, &mut written);
            let frame = |model: &str, steering: &str, inserted: &str| format!(
                "{{\"x\": {before},\"model\":{model}, {steering}\"messages\" :[ {{\"role\":\"assistant\",\"content\":\"\",\"e\":{element}}},{inserted}{{\"role\":\"user\",\"content\":\"q\"}} ],\"y\":{after}}}"
            );
            let envelope = chat(&frame("\"route\"", &format!("\"sluice\": {element} , "), ""));
            let mut splices = Splices::default();
            envelope.set_model(&model, &mut splices);
            envelope.remove_steering(&mut splices);
            splices.insert(envelope.place(Position::BeforeLastUser).unwrap(), "{\"role\":\"user\"},");
            let sent = splices.apply(envelope.text());
            prop_assert_eq!(&sent, &frame(&format!("\"{written}\""), "", "{\"role\":\"user\"},"));
            prop_assert_eq!(Splices::default().apply(envelope.text()), envelope.text());
        }

        #[test]
        fn no_input_makes_the_envelope_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Envelope::parse(Dialect::Chat, body);
        }
    }
}
