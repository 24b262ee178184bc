//! What is said in an exchange, kept where its tenant wants that: sealed here, and opened by the store alone.
//!
//! It is what the provider gets to know: with placeholders where personal data stood, with the managed prompt and what
//! was retrieved.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use sluice_segment::{Content, Contents, Record, Run, Said, seal};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One attempt's request and its answer as far as it came.
pub struct Transcript {
    contents: Contents,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    said: Said,
    /// Of a stream: its texts by their channels, and how many bytes they have.
    channels: BTreeMap<String, String>,
    bytes: usize,
}

impl Transcript {
    pub fn new(contents: Contents, request: &str) -> Transcript {
        let (kept, is_cut) = cut(request, contents.max_bytes as usize);
        let said = Said { request: kept.to_owned(), answer: String::new(), is_cut };
        Transcript { contents, heard: Mutex::new(Heard { said, ..Heard::default() }) }
    }

    /// The provider's whole answer.
    pub fn answer(&self, body: &str) {
        let (kept, is_cut) = cut(body, self.contents.max_bytes as usize);
        let said = &mut self.heard.lock().said;
        kept.clone_into(&mut said.answer);
        said.is_cut |= is_cut;
    }

    /// A piece of the text of one channel of a streamed answer.
    pub fn hear(&self, channel: &str, text: &str) {
        let mut heard = self.heard.lock();
        let (kept, is_cut) = cut(text, (self.contents.max_bytes as usize).saturating_sub(heard.bytes));
        heard.bytes += kept.len();
        heard.said.is_cut |= is_cut;
        match heard.channels.get_mut(channel) {
            Some(known) => known.push_str(kept),
            None if kept.is_empty() => {}
            None => {
                heard.bytes += channel.len();
                heard.channels.insert(channel.to_owned(), kept.to_owned());
            }
        }
    }

    /// The text of a channel that is said once, and may be repeated.
    pub fn name(&self, channel: &str, text: &str) {
        if !self.heard.lock().channels.contains_key(channel) {
            self.hear(channel, text);
        }
    }

    /// The record of `run`; `sender` is a secret of this edge, of which and of the content the seal follows.
    pub fn record(&self, run: &Run<'_>, sender: &[u8; 32]) -> Option<Vec<u8>> {
        let mut heard = std::mem::take(&mut *self.heard.lock());
        if !heard.channels.is_empty() {
            heard.said.answer = serde_json::to_string(&heard.channels).ok()?;
        }
        let text = serde_json::to_vec(&heard.said).ok()?;
        let sealed = seal(&self.contents.key, sender, &Contents::context(&run.tenant, &run.id), &text)?;
        let content = Content {
            run: Cow::Borrowed(&run.id),
            tenant: Cow::Borrowed(&run.tenant),
            at: run.at,
            subject: Cow::Borrowed(&run.subject),
            sealed: Cow::Owned(STANDARD.encode(sealed)),
        };
        serde_json::to_vec(&Record::Content(content)).ok()
    }
}

/// As much of `text` as has room, in whole characters, and whether something is missing.
fn cut(text: &str, room: usize) -> (&str, bool) {
    let end = text.floor_char_boundary(room);
    (&text[..end], end < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_an_end_and_whole_characters() {
        let transcript = Transcript::new(Contents { key: [9; 32], max_bytes: 4 }, "zürich");
        transcript.hear("a", "日");
        transcript.hear("a", "本");
        transcript.hear("b", "x");
        let heard = transcript.heard.into_inner();
        assert_eq!((heard.said.request.as_str(), heard.said.is_cut), ("zür", true));
        assert_eq!(heard.channels.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "日".to_owned())]);
    }
}
