//! What is sent.

use super::client::Target;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Bodies of chat completions.
#[derive(Clone, Debug)]
pub struct Workload {
    bodies: Arc<[Map<String, Value>]>,
    /// Whether answers are asked for as streams; `None` leaves it as a recorded body has it.
    stream: Option<bool>,
    /// Whether every request gets a number of its own, so that no cache can answer two of them.
    distinct: bool,
}

/// Bodies that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("cannot read {path}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}:{line}: {reason}")]
    Line { path: String, line: usize, reason: String },
}

/// An English filler without personal data, cut to fit.
const FILLER: &str = "Before we begin, keep the answers short and say what they rest on. When two sources disagree, \
say which of them is larger and how they differ. If a question has two parts, judge each part by itself, and do not \
guess at numbers that no source gives. Thank you, and please go on in the same way for all that follows here. ";

impl Workload {
    /// Conversations of `turns` turns of the user's and about `bytes` bytes in all.
    pub fn conversation(bytes: usize, turns: usize, max_tokens: Option<u32>, stream: bool, distinct: bool) -> Workload {
        let turns = turns.max(1);
        let mut messages = vec![json!({ "role": "system", "content": "You are a careful assistant." })];
        // What stands around the texts takes some fifty bytes a message.
        let room = bytes.saturating_sub(150 + 100 * turns) / (2 * turns - 1).max(1);
        let text = |length: usize| FILLER.chars().cycle().take(length.max(1)).collect::<String>();
        for turn in 1..=turns {
            messages.push(json!({ "role": "user", "content": text(room) }));
            if turn < turns {
                messages.push(json!({ "role": "assistant", "content": text(room) }));
            }
        }
        let mut body = Map::new();
        body.insert("messages".to_owned(), Value::Array(messages));
        if let Some(max_tokens) = max_tokens {
            body.insert("max_tokens".to_owned(), max_tokens.into());
        }
        Workload { bodies: [body].into(), stream: Some(stream), distinct }
    }

    /// Recorded bodies, one JSON object a line, sent in order and from the beginning again.
    pub fn recorded(file: &Path, stream: Option<bool>, distinct: bool) -> Result<Workload, WorkloadError> {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|source| WorkloadError::Io { path: path.clone(), source })?;
        let fault = |line: usize, reason: String| WorkloadError::Line { path: path.clone(), line, reason };
        let mut bodies = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Value::Object(body)) if body.get("messages").is_some_and(Value::is_array) => bodies.push(body),
                Ok(_) => return Err(fault(number + 1, "a body is an object with an array `messages`".to_owned())),
                Err(error) => return Err(fault(number + 1, error.to_string())),
            }
        }
        match bodies.is_empty() {
            true => Err(fault(1, "there are no bodies".to_owned())),
            false => Ok(Workload { bodies: bodies.into(), stream, distinct }),
        }
    }

    /// The body of request `number` for `target`.
    pub(super) fn body(&self, number: u64, target: &Target) -> Bytes {
        let mut body = self.bodies[number as usize % self.bodies.len()].clone();
        if let Some(model) = &target.model {
            body.insert("model".to_owned(), model.as_str().into());
        } else if !body.contains_key("model") {
            body.insert("model".to_owned(), "gpt-4o-mini".into());
        }
        if let Some(stream) = self.stream {
            body.insert("stream".to_owned(), stream.into());
            if stream {
                body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
            }
        }
        let last = body.get_mut("messages").and_then(Value::as_array_mut).and_then(|messages| messages.last_mut());
        if let (true, Some(Value::String(content))) = (self.distinct, last.and_then(|last| last.get_mut("content"))) {
            content.push_str(&format!(" (question {number})"));
        }
        serde_json::to_vec(&body).unwrap_or_default().into()
    }

    /// Whether answers are streams.
    pub fn streams(&self) -> bool {
        let recorded = || self.bodies.iter().any(|body| body.get("stream") == Some(&Value::Bool(true)));
        self.stream.unwrap_or_else(recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_size_that_was_asked_for() {
        let target = "a=http://127.0.0.1:1/v1".parse().unwrap();
        for (bytes, turns) in [(600, 1), (4_000, 3), (60_000, 10)] {
            let body = Workload::conversation(bytes, turns, Some(8), false, true).body(3, &target);
            assert!((body.len() as f64 / bytes as f64 - 1.0).abs() < 0.25, "{bytes}: {}", body.len());
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["messages"].as_array().unwrap().len(), 2 * turns);
            assert!(value["messages"][2 * turns - 1]["content"].as_str().unwrap().ends_with("(question 3)"));
        }
    }
}
