//! A streamed answer on its way through: provider's frames in, client's frames out.
//!
//! Frames of another dialect are translated first; then, in the client's own dialect, originals are put back, what the
//! caller did not ask for is taken out, and the end is watched, so that a cut stream never looks complete.

use crate::refuse::{ErrorCode, Refusal};
use crate::transcript::Transcript;
use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use sluice_scrub::{Refused, Restorer, Vault};
use sluice_wire::event::{Chunk, Usage};
use sluice_wire::json::{Document, Kind, Value, decode, escape_into, without_member};
use sluice_wire::sse::{Frame, Frames};
use sluice_wire::{Dialect, Failure, Splices, translate};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// Longest event of a stream, in bytes.
const MAX_EVENT: usize = 32 << 20;

/// What a stream is made into.
pub struct Events {
    provider: Dialect,
    client: Dialect,
    frames: Frames,
    /// Present when the two dialects differ: the translation, and the frames that it makes.
    translation: Option<(translate::Stream, Frames)>,
    vault: Arc<Vault>,
    /// Whether usage was asked for on our own account.
    strip_usage: bool,
    /// What stands in Responses' `response.instructions`: the client's own, not the managed prompt.
    instructions: Option<String>,
    transcript: Option<Arc<Transcript>>,
    channels: HashMap<String, Restorer>,
    /// What the channels of calls begin with in which nothing is restored.
    outbound: Vec<String>,
    /// The last event of each Responses channel that holds something back, in whose image another is made.
    images: HashMap<String, (String, Range<usize>)>,
    /// The last event that was read.
    last: Chunk,
    /// How many events were put in, by which Responses' `sequence_number` is ahead of the provider's.
    added: u64,
    sequence: u64,
    pub usage: Usage,
    /// Whether the client would have something to show.
    pub content: bool,
    /// Whether the stream has said that it is over.
    pub over: bool,
    /// The provider's in-band error.
    pub error: Option<Failure<'static>>,
    /// What the client was told in band.
    pub failed: Option<ErrorCode>,
    /// What the answer said that its route refuses.
    pub withheld: Option<Refused>,
}

/// What an answer is to be made for.
pub struct Audience<'a> {
    pub provider: Dialect,
    pub client: Dialect,
    /// The client's own body.
    pub asked: &'a str,
    pub vault: Arc<Vault>,
    pub strip_usage: bool,
    pub instructions: Option<String>,
    /// What takes down what is said, where that is wanted.
    pub transcript: Option<Arc<Transcript>>,
}

impl Events {
    pub fn new(audience: &Audience<'_>) -> Events {
        let Audience { provider, client, asked, .. } = *audience;
        let translation =
            (provider != client).then(|| (translate::Stream::new(provider, client, asked), Frames::new(MAX_EVENT)));
        Events {
            provider,
            client,
            frames: Frames::new(MAX_EVENT),
            translation,
            vault: Arc::clone(&audience.vault),
            strip_usage: audience.strip_usage,
            instructions: audience.instructions.clone(),
            transcript: audience.transcript.clone(),
            channels: HashMap::new(),
            outbound: Vec::new(),
            images: HashMap::new(),
            last: Chunk::default(),
            added: 0,
            sequence: 0,
            usage: Usage::default(),
            content: false,
            over: false,
            error: None,
            failed: None,
            withheld: None,
        }
    }

    /// Writes what can be shown after `chunk`, before an error too. Nothing is shown of what comes after the end.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), ErrorCode> {
        self.frames.push(chunk);
        while let Some(frame) = self.frames.next_frame().map_err(|_| ErrorCode::UpstreamProtocolError)? {
            match self.translation.take() {
                None => self.show(&frame, out)?,
                Some((mut stream, mut frames)) => {
                    self.meter(&frame);
                    let mut said = Vec::new();
                    stream.frame(&frame, &mut said).map_err(|_| ErrorCode::UpstreamProtocolError)?;
                    self.show_all(&mut frames, &said, out)?;
                    self.translation = Some((stream, frames));
                }
            }
        }
        Ok(())
    }

    fn take_down(&self, transcript: &Transcript, chunk: &Chunk, data: &str) {
        for (call, tool) in &chunk.tools {
            transcript.name(&format!("{call}name"), tool);
        }
        // Sound is no text.
        for delta in chunk.deltas.iter().filter(|delta| !delta.channel.contains("/audio/")) {
            transcript.hear(&delta.channel, &decode(&data[delta.range.clone()]));
        }
        // Responses says whole what it has said in pieces; the others, what comes in no pieces.
        for whole in chunk.wholes.iter().filter(|_| self.client != Dialect::Responses) {
            let call = whole.tool.as_ref().map_or("whole".to_owned(), |tool| format!("call/{tool}"));
            transcript.hear(&call, &decode(&data[whole.range.clone()]));
        }
    }

    /// What is left to show when the provider's answer has ended; an error when it ended before its end.
    pub fn end(&mut self, out: &mut BytesMut) -> Result<(), ErrorCode> {
        if let Some((mut stream, mut frames)) = self.translation.take() {
            let mut said = Vec::new();
            let complete = stream.end(&mut said);
            self.show_all(&mut frames, &said, out)?;
            self.over |= complete;
        }
        match self.over {
            true => {
                self.flush(|_| true, out);
                self.check()
            }
            false => Err(ErrorCode::UpstreamStreamInterrupted),
        }
    }

    /// Whether nothing that matters can follow the end. Gemini's usage may.
    pub fn ends_at_once(&self) -> bool {
        self.provider != Dialect::Gemini
    }

    /// Ends a stream that cannot go on: what is held, then the dialect's in-band error, and no terminator.
    pub fn fail(&mut self, code: ErrorCode) -> Bytes {
        let mut out = BytesMut::new();
        self.flush(|_| true, &mut out);
        let message = match code {
            ErrorCode::UpstreamTimeout => "The provider stopped sending; the answer is incomplete.",
            ErrorCode::AnswerWithheld => "The provider said what this route refuses; the answer ends here.",
            ErrorCode::UpstreamProtocolError => {
                "The provider sent what is no event of its dialect; the answer is incomplete."
            }
            _ => "The provider's stream broke off; the answer is incomplete.",
        };
        let sequence = if self.content { self.sequence + 1 } else { self.sequence };
        out.extend_from_slice(Refusal::new(code, message).failure().event(self.client, sequence).as_bytes());
        self.over = true;
        self.failed = Some(code);
        out.freeze()
    }

    fn show_all(&mut self, frames: &mut Frames, said: &[u8], out: &mut BytesMut) -> Result<(), ErrorCode> {
        frames.push(said);
        while let Some(frame) = frames.next_frame().map_err(|_| ErrorCode::UpstreamProtocolError)? {
            self.show(&frame, out)?;
        }
        Ok(())
    }

    /// Reads what a frame that is to be translated says of usage: the client may not have asked for it.
    fn meter(&mut self, frame: &Frame) {
        let Some(data) = frame.data().filter(|data| data.contains("sage")) else { return };
        if let Some(chunk) = Chunk::read(self.provider, &data) {
            self.usage = self.usage.and(chunk.usage);
        }
    }

    fn show(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), ErrorCode> {
        // Gemini's last words may follow the event that says it is finished.
        if self.over && self.client != Dialect::Gemini {
            return Ok(());
        }
        let Some(data) = frame.data() else {
            if frame.has_data() {
                return Err(ErrorCode::UpstreamProtocolError);
            }
            out.extend_from_slice(frame.raw());
            return Ok(());
        };
        if self.content && self.added == 0 && self.vault.leaves_answers() && self.transcript.is_none() {
            let cut = self.cut_of_plain(&data);
            if let Some([before, behind]) = cut.and_then(|cut| frame.around(cut)) {
                out.extend_from_slice(before);
                out.extend_from_slice(behind);
                return Ok(());
            }
        }
        let Some(chunk) = Chunk::read(self.client, &data) else {
            return if self.over { Ok(()) } else { Err(ErrorCode::UpstreamProtocolError) };
        };
        // After the end only the counts are of interest.
        if self.over && (chunk.content || chunk.usage == Usage::default()) {
            return Ok(());
        }
        if let Some(transcript) = &self.transcript {
            self.take_down(transcript, &chunk, &data);
        }
        let mut splices = Splices::default();
        if !self.vault.leaves_answers() {
            self.restore(&chunk, &data, &mut splices);
            self.check()?;
        }
        if self.translation_is_metered() {
            self.usage = self.usage.and(chunk.usage);
        }
        self.content |= chunk.content;
        if chunk.error.is_some() {
            self.error.clone_from(&chunk.error);
        }
        self.over |= chunk.over;
        let ends = chunk.ends.clone();
        let sequence = chunk.sequence.clone();
        let instructions = chunk.instructions.clone();
        let usage = chunk.usage_member.clone().filter(|_| self.strip_usage);
        let is_usage = chunk.only_usage && self.strip_usage;
        self.last = chunk;
        if let Some((_, number)) = &sequence {
            self.sequence = number + self.added;
        }
        // What is still held of a channel comes before the event that ends it.
        if !ends.is_empty() {
            self.flush(|channel| ends.iter().any(|end| channel.starts_with(end.as_str())), out);
            self.check()?;
        }
        if is_usage {
            return Ok(());
        }
        if let Some(member) = usage {
            splices.replace(without_member(&data, member), "");
        }
        if let (Some(own), Some(range)) = (&self.instructions, instructions) {
            splices.replace(range, own.as_str());
        }
        if let Some((range, number)) = sequence.filter(|_| self.added > 0) {
            self.sequence = number + self.added;
            splices.replace(range, self.sequence.to_string());
        }
        match splices.is_empty() {
            true => out.extend_from_slice(frame.raw()),
            false => out.extend_from_slice(&frame.with_data(&splices.apply(&data))),
        }
        Ok(())
    }

    /// Whether what was just heard may be said.
    fn check(&mut self) -> Result<(), ErrorCode> {
        match self.vault.take_refused() {
            None => Ok(()),
            refused => {
                self.withheld = refused;
                Err(ErrorCode::AnswerWithheld)
            }
        }
    }

    /// Whether usage is read from the client's frames, and not from the provider's before they are translated.
    fn translation_is_metered(&self) -> bool {
        self.provider == self.client
    }

    /// What is left out of an event after the first content that says nothing which Sluice has to know, and looks
    /// whole: an empty range, or that there is no usage yet, where the caller did not ask for usage. Most events of a
    /// stream are such.
    fn cut_of_plain(&self, data: &str) -> Option<Range<usize>> {
        const NOTHING: Range<usize> = 0..0;
        if !(data.starts_with('{') && data.ends_with('}')) {
            return None;
        }
        // An unescaped quote cannot stand inside a string, so these are names and never the model's words.
        match self.client {
            Dialect::Chat | Dialect::Completions if holds(data, &ERROR) => None,
            Dialect::Chat | Dialect::Completions => match USAGE.find(data.as_bytes()) {
                None => Some(NOTHING),
                Some(at) => no_usage_yet(data, at).map(|cut| if self.strip_usage { cut } else { NOTHING }),
            },
            Dialect::Messages => data.contains("\"content_block_delta\"").then_some(NOTHING),
            Dialect::Responses => data.contains(".delta\"").then_some(NOTHING),
            _ => None,
        }
    }

    /// Puts originals into the strings of an event.
    fn restore(&mut self, chunk: &Chunk, data: &str, splices: &mut Splices) {
        let named = chunk.tools.iter().filter(|(_, tool)| self.vault.is_outbound(tool));
        self.outbound.extend(named.map(|(start, _)| start.clone()));
        let stays = |channel: &str| self.outbound.iter().any(|start| channel.starts_with(start.as_str()));
        if self.vault.guards_answers() && data.contains("logprobs") {
            mute_in(data, splices);
        }
        for delta in &chunk.deltas {
            // Sound is no text.
            if self.vault.guards_answers() && delta.channel.contains("/audio/") {
                continue;
            }
            let said = decode(&data[delta.range.clone()]);
            let make = || restorer(delta.nested, stays(&delta.channel));
            let restorer = self.channels.entry(delta.channel.clone()).or_insert_with(make);
            let mut shown = String::with_capacity(said.len());
            restorer.push(&said, &self.vault, &mut shown);
            // An event that ends its own channel says the rest itself.
            if chunk.ends.iter().any(|end| delta.channel.starts_with(end.as_str())) {
                restorer.finish(&self.vault, &mut shown);
            }
            if self.client == Dialect::Responses && restorer.holds() {
                self.images.insert(delta.channel.clone(), (data.to_owned(), delta.range.clone()));
            }
            if shown != said {
                splices.replace(delta.range.clone(), escaped(&shown));
            }
        }
        for whole in &chunk.wholes {
            let is_outbound = whole.tool.as_ref().is_some_and(|tool| self.vault.is_outbound(tool));
            let keeps = is_outbound || whole.nested && stays(&chunk.item);
            if let Some(shown) = restored(&data[whole.range.clone()], whole.nested, keeps, &self.vault) {
                splices.replace(whole.range.clone(), shown);
            }
        }
    }

    /// Says what is held back on the channels that `which` names, as events of their own.
    fn flush(&mut self, which: impl Fn(&str) -> bool, out: &mut BytesMut) {
        let holding = |(channel, restorer): &(&String, &Restorer)| restorer.holds() && which(channel);
        let mut held: Vec<String> = self.channels.iter().filter(holding).map(|(channel, _)| channel.clone()).collect();
        held.sort_unstable();
        for channel in held {
            let mut text = String::new();
            if let Some(restorer) = self.channels.get_mut(&channel) {
                restorer.finish(&self.vault, &mut text);
            }
            let frame = match self.images.remove(&channel) {
                Some((data, range)) => self.again(&data, range, &text),
                None => self.last.synthesise(self.client, &channel, &text),
            };
            out.extend_from_slice(frame.as_bytes());
        }
    }

    /// A Responses event like `data`, with another text and the next number.
    fn again(&mut self, data: &str, range: Range<usize>, text: &str) -> String {
        let mut said = Chunk::again(data, range, text);
        let read = Chunk::read(Dialect::Responses, &said).unwrap_or_default();
        if let Some((place, _)) = read.sequence {
            said.replace_range(place, &self.sequence.to_string());
        }
        self.added += 1;
        let kind = said.split("\"type\"").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap_or_default().to_owned();
        format!("event: {kind}\ndata: {said}\n\n")
    }
}

const NO_USAGE: &str = "\"usage\":null";

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

/// The event's own member `usage` at `at`, with the comma before it, if it is null, as in every event but the last of a
/// provider that was asked for usage, and no other follows.
fn no_usage_yet(data: &str, at: usize) -> Option<Range<usize>> {
    let end = at + NO_USAGE.len();
    // Behind the choices, or the last member of all: so it is the event's own.
    let rest = data.get(end..)?;
    let is_own = rest == "}" || data[..at].ends_with("],") && rest.starts_with(',');
    let is_null = data[at..].starts_with(NO_USAGE) && data[..at].ends_with(',');
    (is_null && is_own && !holds(rest, &USAGE)).then_some(at - 1..end)
}

fn holds(data: &str, finder: &Finder<'_>) -> bool {
    finder.find(data.as_bytes()).is_some()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape_into(text, &mut out);
    out
}

/// For text, or for tool-call arguments if `nested`, in which placeholders stay if it `keeps` them.
fn restorer(nested: bool, keeps: bool) -> Restorer {
    let restorer = if nested { Restorer::json() } else { Restorer::text() };
    if keeps { restorer.keeping() } else { restorer }
}

/// A longer string of base64's letters alone is no text.
const MAX_WORD: usize = 1_024;

/// Where an answer says its words once more, token by token. Where the words are masked it has to go, as nothing of it
/// can be told apart.
pub fn told_twice(root: Value<'_>) -> Vec<(Range<usize>, &'static str)> {
    let mut found: Vec<(Range<usize>, &'static str)> = Vec::new();
    for value in root.descendants() {
        let is_inside = found.last().is_some_and(|(last, _)| last.contains(&value.span().start));
        let is_it = ["logprobs", "logprobsResult", "logprobs_result"].iter().any(|name| value.key_is(name));
        if is_it && !is_inside && !value.is_null() {
            found.push((value.span(), if value.kind() == Kind::Array { "[]" } else { "null" }));
        }
    }
    found
}

fn mute_in(data: &str, splices: &mut Splices) {
    let Ok(document) = Document::parse(data) else { return };
    told_twice(document.root(data)).into_iter().for_each(|(range, empty)| splices.replace(range, empty));
}

/// A complete string with its originals, escaped again; `None` when it has none.
pub fn restored(written: &str, nested: bool, keeps: bool, vault: &Vault) -> Option<String> {
    let may_hold = vault.is_forgiving() || written.contains('<') || written.contains("\\u003");
    if !vault.guards_answers() && (keeps || !may_hold) {
        return None;
    }
    // Images and vectors in base64 are no text, and hold no placeholder.
    let is_binary = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
    if written.len() > MAX_WORD && written.bytes().all(is_binary) {
        return None;
    }
    let mut restorer = restorer(nested, keeps);
    let said = decode(written);
    let mut shown = String::with_capacity(said.len());
    restorer.push(&said, vault, &mut shown);
    restorer.finish(vault, &mut shown);
    (shown != said).then(|| escaped(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_scrub::{Rules, Series};

    fn audience(dialect: Dialect, vault: Vault) -> Audience<'static> {
        Audience {
            provider: dialect,
            client: dialect,
            asked: "{}",
            vault: Arc::new(vault),
            strip_usage: false,
            instructions: None,
            transcript: None,
        }
    }

    fn vault() -> Vault {
        let mut vault = Vault::default();
        assert_eq!(vault.scrub("a@x.com 4111111111111111", &Rules::default(), Series::Conversation).unwrap().len(), 2);
        vault
    }

    /// What a client is shown of `stream` in chunks of `size` bytes.
    fn relay(audience: &Audience<'_>, stream: &str, size: usize) -> (String, bool) {
        let mut events = Events::new(audience);
        let mut shown = BytesMut::new();
        for chunk in stream.as_bytes().chunks(size) {
            events.push(chunk, &mut shown).unwrap();
        }
        let whole = events.end(&mut shown).is_ok();
        (String::from_utf8(shown.to_vec()).unwrap(), whole)
    }

    /// The text of every channel.
    fn said(dialect: Dialect, shown: &str) -> HashMap<String, String> {
        let mut said: HashMap<String, String> = HashMap::new();
        for data in shown.lines().filter_map(|line| line.strip_prefix("data: ")) {
            for delta in Chunk::read(dialect, data).unwrap().deltas {
                said.entry(delta.channel).or_default().push_str(&decode(&data[delta.range]));
            }
        }
        said
    }

    const CONTENT: &str = "to <EMAIL_1>, <EMAIL_9> https://evil.example/<EMAIL_1> <CREDIT_CARD_1> <EMA";
    const RESTORED: &str = "to a@x.com, <EMAIL_9> https://evil.example/<EMAIL_1> 4111111111111111 <EMA";
    const ARGUMENTS: &str = r#"{"to":"<EMAIL_1>","n":<CREDIT_CARD_1>}"#;

    fn check(dialect: Dialect, stream: &str, text: &str, arguments: Option<&str>, before: &str) {
        for size in [1, 2, 3, 7, 64, 1 << 20] {
            let (shown, whole) = relay(&audience(dialect, vault()), stream, size);
            assert!(whole);
            let said = said(dialect, &shown);
            assert_eq!(said[text], RESTORED, "{shown}");
            if let Some(arguments) = arguments {
                assert_eq!(said[arguments], r#"{"to":"a@x.com","n":4111111111111111}"#);
            }
            let held = shown.find("<EMA\"").unwrap();
            assert!(held < shown.find(before).unwrap(), "what was held comes before the end");
        }
    }

    #[test]
    fn usage_that_the_caller_did_not_ask_for_is_cut_out() {
        let mut audience = audience(Dialect::Chat, Vault::default());
        audience.strip_usage = true;
        let event = |text: &str, rest: &str| {
            format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]{rest}}}\n\n"
            )
        };
        let stream = [
            event("a", r#","usage":null"#),
            event("b", r#","usage":null"#),
            event("c", r#","usage":null,"obfuscation":"xx""#),
            event(r#"\"usage\":null"#, r#","usage":null"#),
            event("d", r#","usage": null"#),
            r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#.to_owned() + "\n\n",
            "data: [DONE]\n\n".to_owned(),
        ];
        let expected = [
            event("a", ""),
            event("b", ""),
            event("c", r#","obfuscation":"xx""#),
            event(r#"\"usage\":null"#, ""),
            event("d", ""),
            "data: [DONE]\n\n".to_owned(),
        ];
        let mut events = Events::new(&audience);
        let mut shown = BytesMut::new();
        events.push(stream.concat().as_bytes(), &mut shown).unwrap();
        assert_eq!(String::from_utf8(shown.to_vec()).unwrap(), expected.concat());
        assert_eq!(events.usage, Usage { input: Some(3), output: Some(4) });
    }

    #[test]
    fn usage_that_the_caller_asked_for_stays() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}],\"usage\":null}\r\n\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";
        let mut events = Events::new(&audience(Dialect::Chat, Vault::default()));
        let mut shown = BytesMut::new();
        events.push(stream.as_bytes(), &mut shown).unwrap();
        assert_eq!(shown, stream);
        assert_eq!(events.usage, Usage { input: Some(3), output: Some(4) });
    }

    #[test]
    fn a_chat_is_restored_whatever_its_chunks() {
        // Every character of the content and of the arguments is an event of its own.
        let mut stream = String::from(": hello\n\n");
        let mut event = |delta: String, finish: &str| {
            stream.push_str(&format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
            ))
        };
        for character in CONTENT.chars() {
            event(format!("{{\"content\":\"{}\"}}", escaped(&character.to_string())), "null");
        }
        for character in ARGUMENTS.chars() {
            let escaped = escaped(&character.to_string());
            event(format!("{{\"tool_calls\":[{{\"index\":1,\"function\":{{\"arguments\":\"{escaped}\"}}}}]}}"), "null");
        }
        event("{}".to_owned(), "\"stop\"");
        stream.push_str("data: [DONE]\n\n");
        check(Dialect::Chat, &stream, "0/delta/content", Some("0/delta/tool_calls/1/function/arguments"), "\"stop\"");
    }

    #[test]
    fn messages_are_restored_whatever_their_chunks() {
        let mut stream = String::from("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n");
        let mut delta = |index: u32, kind: &str, name: &str, text: &str| {
            for character in text.chars() {
                let escaped = escaped(&character.to_string());
                stream.push_str(&format!("event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{{\"type\":\"{kind}\",\"{name}\":\"{escaped}\"}}}}\n\n"));
            }
            stream.push_str(&format!(
                "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n"
            ));
        };
        delta(0, "text_delta", "text", CONTENT);
        delta(1, "input_json_delta", "partial_json", ARGUMENTS);
        stream.push_str("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
        check(Dialect::Messages, &stream, "0/text", Some("1/partial_json"), "content_block_stop");
    }

    #[test]
    fn responses_are_restored_and_numbered_on() {
        let mut stream = String::new();
        let mut number = 0;
        let mut event = |kind: &str, rest: String| {
            stream.push_str(&format!(
                "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{rest}}}\n\n"
            ));
            number += 1;
        };
        for character in CONTENT.chars() {
            let escaped = escaped(&character.to_string());
            event(
                "response.output_text.delta",
                format!("\"output_index\":0,\"content_index\":0,\"delta\":\"{escaped}\""),
            );
        }
        event(
            "response.output_text.done",
            format!("\"output_index\":0,\"content_index\":0,\"text\":\"{}\"", escaped(CONTENT)),
        );
        event(
            "response.completed",
            format!(
                "\"response\":{{\"instructions\":\"managed\",\"output\":[{{\"content\":[{{\"text\":\"{}\"}}]}}]}}",
                escaped(CONTENT)
            ),
        );
        check(Dialect::Responses, &stream, "0/0//response.output_text", None, "output_text.done");
        let audience = Audience { instructions: Some("null".to_owned()), ..audience(Dialect::Responses, vault()) };
        let (shown, _) = relay(&audience, &stream, 5);
        let numbers: Vec<u64> = shown
            .lines()
            .filter_map(|line| Some(Chunk::read(Dialect::Responses, line.strip_prefix("data: ")?)?.sequence?.1))
            .collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        assert_eq!(shown.matches(RESTORED).count(), 2, "done and completed repeat the text");
        assert!(!shown.contains("managed") && shown.contains("\"instructions\":null"));
    }

    #[test]
    fn gemini_is_restored_although_its_last_event_has_text() {
        let mut stream = String::new();
        let characters: Vec<char> = CONTENT.chars().collect();
        for (position, character) in characters.iter().enumerate() {
            let finish = if position + 1 == characters.len() { ",\"finishReason\":\"STOP\"" } else { "" };
            let escaped = escaped(&character.to_string());
            stream.push_str(&format!(
                "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{escaped}\"}}]}}{finish}}}]}}\r\n\r\n"
            ));
        }
        for size in [1, 7, 1 << 20] {
            let (shown, whole) = relay(&audience(Dialect::Gemini, vault()), &stream, size);
            assert!(whole);
            assert_eq!(said(Dialect::Gemini, &shown)["0/text"], RESTORED);
        }
    }

    #[test]
    fn what_is_refused_ends_a_stream_although_it_was_held_to_the_end() {
        let mut rules = Rules::of(&[]);
        rules.want(sluice_scrub::Kind::Email, 0.5, sluice_scrub::Action::Refuse);
        let rules = Arc::new(rules);
        for (dialect, stream) in [
            (
                Dialect::Gemini,
                "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"It is bob@example.com\"}]}}]}\n\ndata: {\"candidates\":[{\"content\":{\"role\":\"model\"},\"finishReason\":\"STOP\"}]}\n\n",
            ),
            (
                Dialect::Chat,
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"It is bob@example.com\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
            ),
        ] {
            let mut vault = Vault::default();
            vault.guard_answers(Arc::clone(&rules));
            let mut events = Events::new(&audience(dialect, vault));
            let mut shown = BytesMut::new();
            let ended = events.push(stream.as_bytes(), &mut shown).and_then(|()| events.end(&mut shown));
            assert_eq!(ended, Err(ErrorCode::AnswerWithheld));
            assert_eq!(events.withheld.as_ref().map(|refused| refused.0.as_str()), Some("EMAIL"));
            let shown = String::from_utf8(shown.to_vec()).unwrap();
            assert!(!shown.contains("bob@") && !shown.contains("stop") && !shown.contains("STOP"), "{shown}");
        }
    }

    #[test]
    fn an_event_without_placeholders_passes_byte_for_byte() {
        let stream =
            "data:{ \"choices\" : [ {\"delta\":{\"content\":\"caf\\u00e9\"}} ] , \"x\":1e2}\r\n\r\ndata: [DONE]\n\n";
        assert_eq!(relay(&audience(Dialect::Chat, vault()), stream, 5), (stream.to_owned(), true));
    }

    #[test]
    fn usage_that_nobody_asked_for_is_taken_out_and_counted() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\ndata: {\"usage\":null,\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let audience = Audience { strip_usage: true, ..audience(Dialect::Chat, Vault::default()) };
        let mut events = Events::new(&audience);
        let mut shown = BytesMut::new();
        events.push(stream.as_bytes(), &mut shown).unwrap();
        assert_eq!(
            shown,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n"
        );
        assert_eq!(events.usage, Usage { input: Some(1), output: Some(2) });
    }

    #[test]
    fn what_is_no_event_and_what_comes_after_the_end_is_not_shown() {
        let mut events = Events::new(&audience(Dialect::Chat, Vault::default()));
        let mut shown = BytesMut::new();
        let done = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
        events.push(done.as_bytes(), &mut shown).unwrap();
        events.push(b"data: {\"choices\":[{\"delta\":{\"content\":\"again\"}}]}\n\n", &mut shown).unwrap();
        assert_eq!(shown, done);
        let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".as_bytes();
        for garbage in [&b"data: {\"choices\":[{\n\n"[..], b"data: {\"a\":\"\xff\"}\n\n"] {
            let mut events = Events::new(&audience(Dialect::Chat, Vault::default()));
            let mut shown = BytesMut::new();
            let pushed = events.push(&[first, garbage].concat(), &mut shown);
            assert_eq!(pushed.unwrap_err(), ErrorCode::UpstreamProtocolError);
            assert_eq!(shown, first, "what came before is shown");
        }
    }
}
