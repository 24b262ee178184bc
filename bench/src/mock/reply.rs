//! What the mock says, before any dialect: the thoughts, text and calls that the script chooses from the request, and
//! the pieces they are streamed in.

use super::script::{Fault, Reply, Script, ToolCall};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::num::NonZeroUsize;

/// What one answer is made to.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) script: &'a Script,
    /// The script's fault, or none when it has hit often enough.
    pub(super) fault: Fault,
    /// Numbers the answers, so that each has ids of its own.
    pub(super) serial: u64,
}

impl Order<'_> {
    /// The id of the part `index` of the answer; the first part's has no suffix.
    pub(super) fn id(&self, prefix: &str, index: usize) -> String {
        let serial = self.serial;
        match index {
            0 => format!("{prefix}_mock{serial:012}"),
            _ => format!("{prefix}_mock{serial:012}_{index}"),
        }
    }
}

/// A message of the request, free of its dialect.
pub(super) struct Turn {
    /// Whether the user speaks; the results of tools are nobody's speech.
    pub(super) user: bool,
    /// Absent in a message of images alone.
    pub(super) text: Option<String>,
}

/// What is said. There is a text or there are calls.
pub(super) struct Said<'a> {
    pub(super) reasoning: Option<Spoken<'a>>,
    pub(super) text: Option<Spoken<'a>>,
    pub(super) calls: Vec<Call<'a>>,
}

/// A tool call with the arguments that are emitted.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: Spoken<'a>,
}

impl<'a> Said<'a> {
    /// `turns` reads the request's messages; it is called only when the answer depends on them.
    pub(super) fn new(
        order: Order<'a>,
        body: &'a [u8],
        turns: impl Fn() -> serde_json::Result<Vec<Turn>>,
    ) -> serde_json::Result<Said<'a>> {
        let script = order.script;
        let limit = script.tokens.unwrap_or(usize::MAX);
        let mark = order.fault == Fault::InvalidUtf8;
        let mut calls = Vec::new();
        for call in script.calls() {
            let mut arguments = Spoken::new(arguments(call, &turns)?, limit, script.split);
            if mark {
                arguments.mark(|text| text.rfind('"').unwrap_or_default());
            }
            calls.push(Call { name: &call.name, arguments });
        }
        let mut text = match calls.is_empty() {
            true => Some(Spoken::new(text(script, body, &turns)?, limit, script.split)),
            false => None,
        };
        if let (true, Some(text)) = (mark, &mut text) {
            text.mark(|text| text.floor_char_boundary(text.len() / 2));
        }
        let thought = script.reasoning.as_deref().filter(|thought| !thought.is_empty());
        let reasoning = thought.map(|thought| Spoken::new(Cow::Borrowed(thought), usize::MAX, script.split));
        Ok(Said { reasoning, text, calls })
    }

    /// Whether the script's bound on the tokens has left something out.
    pub(super) fn is_cut(&self) -> bool {
        self.spoken().any(|spoken| spoken.cut)
    }

    pub(super) fn reasoning_tokens(&self) -> usize {
        self.reasoning.as_ref().map_or(0, |reasoning| reasoning.tokens)
    }

    /// All tokens that are emitted, those of the reasoning too.
    pub(super) fn tokens(&self) -> usize {
        self.reasoning_tokens() + self.spoken().map(|spoken| spoken.tokens).sum::<usize>()
    }

    fn spoken(&self) -> impl Iterator<Item = &Spoken<'a>> {
        self.text.iter().chain(self.calls.iter().map(|call| &call.arguments))
    }
}

fn text<'a>(
    script: &'a Script,
    body: &'a [u8],
    turns: impl Fn() -> serde_json::Result<Vec<Turn>>,
) -> serde_json::Result<Cow<'a, str>> {
    match script.reply.as_ref().unwrap_or(&Reply::Last) {
        Reply::Text(text) => Ok(Cow::Borrowed(text)),
        Reply::Json => Ok(String::from_utf8_lossy(body)),
        Reply::Echo => {
            let texts: Vec<String> = turns()?.into_iter().filter_map(|turn| turn.text).collect();
            Ok(Cow::Owned(texts.join("\n")))
        }
        Reply::Last => last_user_text(turns).map(Cow::Owned),
    }
}

fn arguments<'a>(
    call: &'a ToolCall,
    turns: impl Fn() -> serde_json::Result<Vec<Turn>>,
) -> serde_json::Result<Cow<'a, str>> {
    if call.arguments != "echo" {
        return Ok(Cow::Borrowed(&call.arguments));
    }
    let text = last_user_text(turns)?;
    Ok(Cow::Owned(serde_json::json!({ "text": text }).to_string()))
}

/// The text of the last message of the user; empty when there is none.
fn last_user_text(turns: impl Fn() -> serde_json::Result<Vec<Turn>>) -> serde_json::Result<String> {
    let last = turns()?.into_iter().rfind(|turn| turn.user);
    Ok(last.and_then(|turn| turn.text).unwrap_or_default())
}

/// A text that is emitted: all of it, or its beginning when the script bounds the tokens.
pub(super) struct Spoken<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) tokens: usize,
    split: Option<NonZeroUsize>,
    cut: bool,
}

/// Stands for the byte 0xFF until the answer has become bytes; no text holds this last code point of Unicode.
pub(super) const MARK: char = '\u{10ffff}';

impl<'a> Spoken<'a> {
    pub(super) fn new(text: Cow<'a, str>, limit: usize, split: Option<NonZeroUsize>) -> Spoken<'a> {
        let (mut tokens, mut length) = (0, 0);
        for piece in Pieces::new(&text, split).take(limit) {
            tokens += 1;
            length += piece.len();
        }
        let cut = length < text.len();
        let text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..length]),
            Cow::Owned(mut text) => {
                text.truncate(length);
                Cow::Owned(text)
            }
        };
        Spoken { text, tokens, split, cut }
    }

    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces::new(&self.text, self.split)
    }

    fn mark(&mut self, place: impl Fn(&str) -> usize) {
        let place = place(&self.text);
        self.text.to_mut().insert(place, MARK);
    }
}

/// A message's content as every dialect but Gemini's spells it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
    /// Left alone, so that an odd message does not hide what the others say.
    Other(IgnoredAny),
}

#[derive(Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    r#type: String,
    /// Absent in images, files and audio.
    #[serde(default)]
    text: Option<String>,
    /// What a tool gave back, where results are parts of a message.
    #[serde(default)]
    content: Option<Box<Content>>,
}

impl Content {
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Content::Text(text) => Some(text),
            Content::Parts(parts) => {
                let texts: Vec<String> = parts.into_iter().filter_map(Part::into_text).collect();
                (!texts.is_empty()).then(|| texts.join("\n"))
            }
            Content::Other(_) => None,
        }
    }

    /// Whether there is nothing but what tools gave back.
    pub(super) fn is_results(&self) -> bool {
        let Content::Parts(parts) = self else {
            return false;
        };
        !parts.is_empty() && parts.iter().all(|part| part.r#type == "tool_result")
    }
}

impl Part {
    fn into_text(self) -> Option<String> {
        self.text.or_else(|| self.content?.into_text())
    }
}

/// Reads a list that a request may leave out.
pub(super) fn list<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> serde_json::Result<Vec<T>> {
    raw.map_or_else(|| Ok(Vec::new()), |raw| serde_json::from_str(raw.get()))
}

/// How many bytes of JSON `parts` are, which the usage is made from.
pub(super) fn bytes(parts: &[Option<&RawValue>]) -> usize {
    parts.iter().flatten().map(|part| part.get().len()).sum()
}

/// Tokens of the prompt: four bytes are taken for one, as the mock has no vocabulary and nobody is billed.
pub(super) fn prompt_tokens(bytes: usize) -> usize {
    bytes.div_ceil(4)
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Arguments where a dialect has an object for them: as they are, or an empty object when they are cut or no object.
pub(super) fn object(arguments: &str) -> &str {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(arguments) {
        Ok(_) => arguments,
        Err(_) => "{}",
    }
}

/// The pieces of a text: `split` bytes each, rounded up to whole characters, or words with the space before them.
pub(super) struct Pieces<'a> {
    rest: &'a str,
    split: Option<NonZeroUsize>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(text: &'a str, split: Option<NonZeroUsize>) -> Pieces<'a> {
        Pieces { rest: text, split }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let end = match self.split {
            Some(split) => self.rest.ceil_char_boundary(split.get()),
            None => {
                let word = self.rest.find(|character: char| !character.is_whitespace()).unwrap_or(self.rest.len());
                let after = self.rest[word..].find(char::is_whitespace);
                after.map_or(self.rest.len(), |length| word + length)
            }
        };
        let (piece, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, split: usize, pieces: &[&str]) {
        let found: Vec<&str> = Pieces::new(text, NonZeroUsize::new(split)).collect();
        assert_eq!(found, pieces);
    }

    #[test]
    fn words_keep_the_space_before_them_so_that_the_pieces_join_to_the_text() {
        check("one two\n three ", 0, &["one", " two", "\n three", " "]);
        check("  ", 0, &["  "]);
        check("", 0, &[]);
    }

    #[test]
    fn bytes_are_rounded_up_to_whole_characters() {
        check("aé日b", 1, &["a", "é", "日", "b"]);
        check("aé日b", 2, &["aé", "日", "b"]);
        check("abc", 9, &["abc"]);
    }
}
