//! What a streamed chunk of OpenAI's chat (or completions) dialect carries.
//!
//! Channels are found by shape, not by a list of field names: every string below a choice belongs to the model's
//! answer, except a few that are enumerations or ids. So a field that a provider adds tomorrow is restored too.

use crate::json::{Document, Kind, Value, escape_into};
use std::ops::Range;

/// A string of a chunk that continues the same string of earlier chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Names the channel within the answer, for example `0/delta/tool_calls/1/function/arguments`.
    pub channel: String,
    /// Which choice it belongs to.
    pub choice: u32,
    /// The bytes between the string's quotes in the chunk's data.
    pub range: Range<usize>,
    /// Whether the channel's text is JSON (tool-call arguments).
    pub nested: bool,
}

/// A read chunk.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub deltas: Vec<Delta>,
    /// Choices that this chunk ends.
    pub finished: Vec<u32>,
    pub usage: Option<Usage>,
    /// Whether the chunk is an in-band error.
    pub error: bool,
    /// The chunk's members other than choices and usage, as written, for synthesised chunks.
    head: String,
}

/// Token counts as a provider states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Strings of a choice that are not the model's text.
const NOT_TEXT: [&str; 7] = ["role", "type", "id", "name", "finish_reason", "logprobs", "stop_reason"];

impl Chunk {
    /// Reads a chunk's data; `None` when it is not a JSON object.
    pub fn read(data: &str) -> Option<Chunk> {
        let document = Document::parse(data).ok()?;
        let root = document.root(data);
        if root.kind() != Kind::Object {
            return None;
        }
        let mut chunk = Chunk { error: root.get("error").is_some_and(|error| !error.is_null()), ..Chunk::default() };
        for member in root.children() {
            if member.key_is("choices") {
                for (position, choice) in member.children().enumerate() {
                    chunk.read_choice(choice, position);
                }
            } else if member.key_is("usage") {
                chunk.usage = usage_of(member);
            } else if let (Some(key), Kind::String | Kind::Number | Kind::Literal) = (member.key_span(), member.kind())
            {
                chunk.head.push_str(&data[key]);
                chunk.head.push(':');
                chunk.head.push_str(member.raw());
                chunk.head.push(',');
            }
        }
        Some(chunk)
    }

    fn read_choice(&mut self, choice: Value<'_>, position: usize) {
        let index = index_of(choice).unwrap_or(position as u32);
        if choice.get("finish_reason").is_some_and(|reason| !reason.is_null()) {
            self.finished.push(index);
        }
        self.visit(choice, &mut index.to_string(), index, false);
    }

    fn visit(&mut self, value: Value<'_>, path: &mut String, choice: u32, nested: bool) {
        if let Some(range) = value.inner_span() {
            self.deltas.push(Delta { channel: path.clone(), choice, range, nested });
            return;
        }
        for (position, child) in value.children().enumerate() {
            let length = path.len();
            path.push('/');
            match child.key() {
                Some(key) if NOT_TEXT.contains(&key.as_ref()) => {
                    path.truncate(length);
                    continue;
                }
                Some(key) => path.push_str(&key),
                None => path.push_str(&index_of(child).unwrap_or(position as u32).to_string()),
            }
            self.visit(child, path, choice, child.key_is("arguments"));
            path.truncate(length);
        }
    }

    /// Data of a chunk of the same answer that says only `text` on `channel`.
    pub fn synthesise(&self, channel: &str, text: &str) -> String {
        let mut steps = channel.split('/');
        let choice = steps.next().unwrap_or("0");
        let mut open = String::new();
        let mut close = String::new();
        let mut steps = steps.peekable();
        while let Some(step) = steps.next() {
            let inside_array = steps.peek().is_some_and(|next| next.bytes().all(|byte| byte.is_ascii_digit()));
            open.push('"');
            escape_into(step, &mut open);
            open.push_str("\":");
            match (inside_array, steps.peek()) {
                (true, Some(_)) => {
                    let index = steps.next().unwrap_or("0");
                    open.push_str(&format!("[{{\"index\":{index},"));
                    close.insert_str(0, "}]");
                }
                (false, Some(_)) => {
                    open.push('{');
                    close.insert(0, '}');
                }
                (_, None) => {
                    open.push('"');
                    escape_into(text, &mut open);
                    open.push('"');
                }
            }
        }
        format!("{{{}\"choices\":[{{\"index\":{choice},{open}{close},\"finish_reason\":null}}]}}", self.head)
    }
}

/// The `usage` of a whole answer or of a chunk's data, if it states one.
pub fn usage(data: &str) -> Option<Usage> {
    let document = Document::parse(data).ok()?;
    usage_of(document.root(data).get("usage")?)
}

fn usage_of(usage: Value<'_>) -> Option<Usage> {
    let number = |name| usage.get(name).and_then(|value| value.raw().parse().ok());
    Some(Usage { prompt_tokens: number("prompt_tokens")?, completion_tokens: number("completion_tokens").unwrap_or(0) })
}

fn index_of(value: Value<'_>) -> Option<u32> {
    value.get("index").and_then(|index| index.raw().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_names_its_channels() {
        let data = r#"{"id":"c","object":"o","choices":[{"index":1,"delta":{"role":"assistant","content":"a","tool_calls":[{"index":2,"id":"x","type":"function","function":{"name":"f","arguments":"{\"k"}}]},"finish_reason":null}],"usage":null}"#;
        let chunk = Chunk::read(data).unwrap();
        let channels: Vec<_> = chunk
            .deltas
            .iter()
            .map(|delta| (delta.channel.as_str(), &data[delta.range.clone()], delta.nested))
            .collect();
        assert_eq!(
            channels,
            [("1/delta/content", "a", false), ("1/delta/tool_calls/2/function/arguments", "{\\\"k", true)]
        );
        let said = chunk.synthesise("1/delta/tool_calls/2/function/arguments", "\"z");
        assert_eq!(
            said,
            r#"{"id":"c","object":"o","choices":[{"index":1,"delta":{"tool_calls":[{"index":2,"function":{"arguments":"\"z"}}]},"finish_reason":null}]}"#
        );
        assert_eq!(Chunk::read(&said).unwrap().deltas[0].channel, channels[1].0);
        assert!(serde_json::from_str::<serde_json::Value>(&chunk.synthesise("0/text", "é\n")).is_ok());
    }

    #[test]
    fn usage_and_ends_are_seen() {
        let chunk = Chunk::read(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#).unwrap();
        assert_eq!(chunk.finished, [0]);
        assert_eq!(chunk.usage, Some(Usage { prompt_tokens: 3, completion_tokens: 4 }));
        assert!(Chunk::read(r#"{"error":{"message":"x"}}"#).unwrap().error);
    }
}
