//! What the mock says: the text that the script chooses from the request, and the pieces it is streamed in.

use super::script::{Reply, Script};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::num::NonZeroUsize;

/// A message as far as the mock reads it.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
    /// Left alone, so that an odd message does not hide what the others say.
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Part {
    /// Absent in images, files and audio.
    #[serde(default)]
    text: Option<String>,
}

impl Message {
    fn into_text(self) -> Option<String> {
        match self.content? {
            Content::Text(text) => Some(text),
            Content::Parts(parts) => {
                let texts: Vec<String> = parts.into_iter().filter_map(|part| part.text).collect();
                (!texts.is_empty()).then(|| texts.join("\n"))
            }
            Content::Other(_) => None,
        }
    }
}

/// The text that `script` answers to a chat with. The messages are parsed only when the answer depends on them.
pub(super) fn to_chat<'a>(
    script: &'a Script,
    body: &'a [u8],
    messages: Option<&RawValue>,
) -> serde_json::Result<Cow<'a, str>> {
    match script.reply.as_ref().unwrap_or(&Reply::Last) {
        Reply::Text(text) => Ok(Cow::Borrowed(text)),
        Reply::Json => Ok(String::from_utf8_lossy(body)),
        Reply::Echo => {
            let texts: Vec<String> = parse(messages)?.into_iter().filter_map(Message::into_text).collect();
            Ok(Cow::Owned(texts.join("\n")))
        }
        Reply::Last => last_user_text(messages).map(Cow::Owned),
    }
}

/// The text of the last message of the role `user`; empty when there is none.
pub(super) fn last_user_text(messages: Option<&RawValue>) -> serde_json::Result<String> {
    let last = parse(messages)?.into_iter().rfind(|message| message.role == "user");
    Ok(last.and_then(Message::into_text).unwrap_or_default())
}

/// The text that `script` answers to the prompts of a legacy completion with.
pub(super) fn to_prompts<'a>(script: &'a Script, body: &'a [u8], prompts: &[String]) -> Cow<'a, str> {
    match script.reply.as_ref().unwrap_or(&Reply::Last) {
        Reply::Text(text) => Cow::Borrowed(text),
        Reply::Json => String::from_utf8_lossy(body),
        Reply::Echo => Cow::Owned(prompts.join("\n")),
        Reply::Last => Cow::Owned(prompts.last().cloned().unwrap_or_default()),
    }
}

fn parse(messages: Option<&RawValue>) -> serde_json::Result<Vec<Message>> {
    messages.map_or_else(|| Ok(Vec::new()), |messages| serde_json::from_str(messages.get()))
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
