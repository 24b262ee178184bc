//! The answer back to the client, as it comes, with originals put back.

use crate::dispatch::{Upstream, left, unless_departed};
use crate::head::{Notes, is_hop_by_hop};
use crate::refuse::{ErrorCode, Refusal};
use bytes::{Bytes, BytesMut};
use pingora_core::ErrorType;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use sluice_config::Provider;
use sluice_policies::scrub::{Restorer, Vault};
use sluice_wire::event::{Chunk, Usage, usage};
use sluice_wire::json::{Document, decode, escape_into};
use sluice_wire::sse::{Frame, Frames, data_event};
use sluice_wire::{Dialect, Splices};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Longest event of a stream, and longest answer that is held to restore it, in bytes.
const MAX_HELD: usize = 32 << 20;
/// Longest answer that is kept beside being relayed, to read its usage.
const MAX_USAGE: usize = 1 << 20;

/// How an answer went.
pub struct Relayed {
    pub usage: Option<Usage>,
    /// What went wrong after the head was sent.
    pub failure: Option<ErrorCode>,
    /// Whether the client's connection is in order.
    pub intact: bool,
}

/// What is done to a body that is passed on as it comes. One that is JSON with originals to put back is held instead.
enum Treatment {
    /// Passed on, read for its usage when it is JSON.
    Verbatim { json: bool },
    /// Passed on frame by frame, restored on the way.
    Events(Box<Events>),
}

/// Writes head and body. An error is one that happened before anything was written.
pub async fn relay(
    upstream: Upstream,
    session: &mut ServerSession,
    notes: &Notes,
) -> Result<(Relayed, HttpSession), Refusal> {
    let Upstream { scrubbed, session: mut answer, started } = upstream;
    let Some(header) = answer.response_header() else {
        return Err(Refusal::new(ErrorCode::UpstreamProtocolError, "The provider's answer has no head."));
    };
    let status = header.status;
    let plan = &scrubbed.composed.recalled.plan;
    let provider = &plan.route.provider;
    let media = header
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    let encoded =
        header.headers.get("content-encoding").is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    let dialect = match &plan.body {
        crate::intake::Body::Json(envelope) => envelope.dialect(),
        _ => Dialect::Other,
    };
    let vault = scrubbed.vault;
    let events = media == "text/event-stream";
    if encoded && !vault.is_empty() {
        return Err(Refusal::new(
            ErrorCode::UpstreamProtocolError,
            "The provider compressed its answer although it was asked not to, so originals cannot be put back.",
        ));
    }
    let restored = !events && media == "application/json" && !vault.is_empty();
    let length = match events || restored {
        true => None,
        false => header.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok()),
    };
    let mut head = response_header(header, session, notes, length)?;
    if restored {
        let held = hold(session, &mut answer, provider, started).await?;
        let body = restore_json(&held, &vault);
        head.remove_header("transfer-encoding");
        if head.insert_header("content-length", body.len()).is_err() {
            return Err(unsendable());
        }
        let written = write_all(session, head, Bytes::from(body)).await;
        let used = std::str::from_utf8(&held).ok().and_then(usage);
        let failure = (!written).then_some(ErrorCode::ClientDeparted);
        return Ok((Relayed { usage: used, failure, intact: written }, answer));
    }
    let terminated = matches!(dialect, Dialect::Chat | Dialect::Completions);
    let mut treatment = match (events && !encoded, terminated) {
        (true, true) => Treatment::Events(Box::new(Events::new(vault))),
        (true, false) if !vault.is_empty() => {
            return Err(Refusal::unscrubbable(
                "the event stream of this path",
                "Ask for the answer without `stream`, or use chat completions.",
            ));
        }
        _ => Treatment::Verbatim { json: media == "application/json" && !encoded },
    };
    let mut relayed = Relayed { usage: None, failure: None, intact: true };
    if session.write_response_header(head).await.is_err() {
        return Ok((Relayed { failure: Some(ErrorCode::ClientDeparted), intact: false, ..relayed }, answer));
    }
    let deadline = started + provider.total_timeout;
    let mut kept = BytesMut::new();
    loop {
        let read = match unless_departed(session, next(&mut answer, provider.idle_timeout, deadline)).await {
            None => {
                relayed = Relayed { failure: Some(ErrorCode::ClientDeparted), intact: false, ..relayed };
                break;
            }
            Some(read) => read,
        };
        let (out, over) = match (&mut treatment, read) {
            (Treatment::Events(events), Ok(Some(chunk))) => match events.push(&chunk) {
                Ok(out) => (out, false),
                Err(code) => {
                    relayed.failure = Some(code);
                    (events.fail(code), true)
                }
            },
            (Treatment::Events(events), Ok(None)) => {
                // Only a status of success promises a terminator.
                if events.done || !status.is_success() {
                    (events.rest(), true)
                } else {
                    relayed.failure = Some(ErrorCode::UpstreamStreamInterrupted);
                    (events.fail(ErrorCode::UpstreamStreamInterrupted), true)
                }
            }
            (Treatment::Events(events), Err(code)) => {
                relayed.failure = Some(code);
                (events.fail(code), true)
            }
            (Treatment::Verbatim { json }, Ok(Some(chunk))) => {
                if *json && kept.len() + chunk.len() <= MAX_USAGE {
                    kept.extend_from_slice(&chunk);
                }
                (chunk, false)
            }
            (_, Ok(None)) => (Bytes::new(), true),
            (_, Err(code)) => {
                // The answer's length cannot be kept any more; the client sees the connection break, not an end.
                relayed = Relayed { failure: Some(code), intact: false, ..relayed };
                break;
            }
        };
        if !out.is_empty() && session.write_response_body(out, false).await.is_err() {
            relayed = Relayed { failure: Some(ErrorCode::ClientDeparted), intact: false, ..relayed };
            break;
        }
        if over {
            break;
        }
    }
    relayed.usage = match &treatment {
        Treatment::Events(events) => events.usage,
        _ => std::str::from_utf8(&kept).ok().and_then(usage),
    };
    Ok((relayed, answer))
}

/// The whole of an answer that is to be restored.
async fn hold(
    session: &mut ServerSession,
    answer: &mut HttpSession,
    provider: &Provider,
    started: Instant,
) -> Result<BytesMut, Refusal> {
    let mut held = BytesMut::new();
    let deadline = started + provider.total_timeout;
    loop {
        match unless_departed(session, next(answer, provider.idle_timeout, deadline)).await {
            None => return Err(left()),
            Some(Ok(None)) => return Ok(held),
            Some(Ok(Some(chunk))) if held.len() + chunk.len() <= MAX_HELD => held.extend_from_slice(&chunk),
            Some(Ok(Some(_))) => {
                return Err(Refusal::new(
                    ErrorCode::UpstreamProtocolError,
                    "The provider's answer is too large to put originals back into it.",
                ));
            }
            Some(Err(code)) => return Err(Refusal::new(code, "The provider's answer broke off.")),
        }
    }
}

/// The next piece of the answer; `None` at its end.
async fn next(answer: &mut HttpSession, idle: Duration, deadline: Instant) -> Result<Option<Bytes>, ErrorCode> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(ErrorCode::UpstreamTimeout);
    }
    answer.set_read_timeout(Some(idle.min(remaining)));
    answer.read_response_body().await.map_err(|error| match error.etype() {
        ErrorType::ReadTimedout => ErrorCode::UpstreamTimeout,
        _ => ErrorCode::UpstreamStreamInterrupted,
    })
}

/// The provider's head for the client: its own fields, and what Sluice has to say.
fn response_header(
    header: &ResponseHeader,
    session: &ServerSession,
    notes: &Notes,
    length: Option<usize>,
) -> Result<Box<ResponseHeader>, Refusal> {
    let build = || {
        let mut out = ResponseHeader::build_no_case(header.status, Some(header.headers.len() + notes.len() + 2))?;
        for (name, value) in &header.headers {
            if *name != http::header::CONTENT_LENGTH && !is_hop_by_hop(name.as_str(), &header.headers) {
                out.append_header(name, value.clone())?;
            }
        }
        for (name, value) in notes {
            out.insert_header(name, value.as_str())?;
        }
        match length {
            Some(length) => out.insert_header("content-length", length)?,
            None if session.is_http2() || session.req_header().version != http::Version::HTTP_11 => {}
            None => out.insert_header("transfer-encoding", "chunked")?,
        }
        Ok(Box::new(out))
    };
    build().map_err(|_: Box<pingora_core::Error>| unsendable())
}

fn unsendable() -> Refusal {
    Refusal::new(ErrorCode::UpstreamProtocolError, "The provider's answer has a header that cannot be sent on.")
}

/// Writes a whole response; `false` when the client is gone.
pub async fn write_all(session: &mut ServerSession, head: Box<ResponseHeader>, body: Bytes) -> bool {
    session.write_response_header(head).await.is_ok()
        && (body.is_empty() || session.write_response_body(body, false).await.is_ok())
}

/// Every string of a JSON answer with its originals; what is not JSON stays.
fn restore_json(held: &[u8], vault: &Vault) -> Vec<u8> {
    let Some((text, document)) =
        std::str::from_utf8(held).ok().and_then(|text| Some((text, Document::parse(text).ok()?)))
    else {
        return held.to_vec();
    };
    let mut splices = Splices::default();
    for value in document.root(text).descendants() {
        let Some(range) = value.inner_span() else { continue };
        let written = &text[range.clone()];
        if !may_hold_placeholder(written) {
            continue;
        }
        let mut restorer = if value.key_is("arguments") { Restorer::json() } else { Restorer::text() };
        let said = decode(written);
        let mut shown = String::with_capacity(said.len());
        restorer.push(&said, vault, &mut shown);
        restorer.finish(&mut shown);
        if shown != said {
            let mut escaped = String::with_capacity(shown.len());
            escape_into(&shown, &mut escaped);
            splices.replace(range, escaped);
        }
    }
    splices.apply(text).into_bytes()
}

fn may_hold_placeholder(written: &str) -> bool {
    written.contains('<') || written.contains("\\u003")
}

/// A stream of chat chunks on its way through.
struct Events {
    frames: Frames,
    vault: Vault,
    channels: HashMap<String, Restorer>,
    /// The last chunk that was read, in whose image others are made.
    model: Chunk,
    usage: Option<Usage>,
    /// Whether `[DONE]` or an in-band error was seen.
    done: bool,
}

impl Events {
    fn new(vault: Vault) -> Events {
        Events {
            frames: Frames::new(MAX_HELD),
            vault,
            channels: HashMap::new(),
            model: Chunk::default(),
            usage: None,
            done: false,
        }
    }

    /// What can be shown after `chunk`.
    fn push(&mut self, chunk: &[u8]) -> Result<Bytes, ErrorCode> {
        self.frames.push(chunk);
        let mut out = BytesMut::with_capacity(chunk.len() + 64);
        while let Some(frame) = self.frames.next_frame().map_err(|_| ErrorCode::UpstreamProtocolError)? {
            self.show(&frame, &mut out);
        }
        Ok(out.freeze())
    }

    fn show(&mut self, frame: &Frame, out: &mut BytesMut) {
        if frame.is_done() {
            self.flush(|_| true, out);
            self.done = true;
            out.extend_from_slice(frame.raw());
            return;
        }
        let Some(data) = frame.data() else {
            out.extend_from_slice(frame.raw());
            return;
        };
        // With nothing to restore only usage and errors matter, and most chunks have neither.
        if self.vault.is_empty() && !data.contains("\"usage\"") && !data.contains("\"error\"") {
            out.extend_from_slice(frame.raw());
            return;
        }
        let Some(chunk) = Chunk::read(&data) else {
            out.extend_from_slice(frame.raw());
            return;
        };
        self.usage = chunk.usage.or(self.usage);
        self.done |= chunk.error;
        if self.vault.is_empty() {
            out.extend_from_slice(frame.raw());
            return;
        }
        let mut splices = Splices::default();
        for delta in &chunk.deltas {
            let said = decode(&data[delta.range.clone()]);
            let make = || if delta.nested { Restorer::json() } else { Restorer::text() };
            let restorer = self.channels.entry(delta.channel.clone()).or_insert_with(make);
            let mut shown = String::with_capacity(said.len());
            restorer.push(&said, &self.vault, &mut shown);
            if shown != said {
                let mut escaped = String::with_capacity(shown.len());
                escape_into(&shown, &mut escaped);
                splices.replace(delta.range.clone(), escaped);
            }
        }
        let finished = chunk.finished.clone();
        self.model = chunk;
        if self.model.error {
            self.flush(|_| true, out);
        } else if !finished.is_empty() {
            // What is still held of a choice comes before the event that ends it.
            let ended: Vec<String> = finished.iter().map(|choice| format!("{choice}/")).collect();
            self.flush(|channel| ended.iter().any(|prefix| channel.starts_with(prefix.as_str())), out);
        }
        match splices.is_empty() {
            true => out.extend_from_slice(frame.raw()),
            false => out.extend_from_slice(&frame.with_data(&splices.apply(&data))),
        }
    }

    /// Says what is held back on the channels that `which` names, as events of their own.
    fn flush(&mut self, which: impl Fn(&str) -> bool, out: &mut BytesMut) {
        let mut held: Vec<&String> = self
            .channels
            .iter()
            .filter(|(channel, restorer)| restorer.holds() && which(channel))
            .map(|(channel, _)| channel)
            .collect();
        held.sort_unstable();
        let held: Vec<String> = held.into_iter().cloned().collect();
        for channel in held {
            let mut text = String::new();
            if let Some(restorer) = self.channels.get_mut(&channel) {
                restorer.finish(&mut text);
            }
            out.extend_from_slice(&data_event(&self.model.synthesise(&channel, &text)));
        }
    }

    /// Ends a stream that cannot go on: what is held, then the dialect's in-band error, and no `[DONE]`.
    fn fail(&mut self, code: ErrorCode) -> Bytes {
        let mut out = BytesMut::new();
        self.flush(|_| true, &mut out);
        let message = match code {
            ErrorCode::UpstreamTimeout => "The provider stopped sending; the answer is incomplete.",
            _ => "The provider's stream broke off; the answer is incomplete.",
        };
        let body = Refusal::new(code, message).body();
        out.extend_from_slice(&data_event(&String::from_utf8_lossy(&body)));
        self.done = true;
        out.freeze()
    }

    /// After a proper end: an unterminated rest, which readers ignore, is passed as it came.
    fn rest(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        self.flush(|_| true, &mut out);
        out.extend_from_slice(&std::mem::replace(&mut self.frames, Frames::new(0)).remainder());
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_policies::scrub::{Kind, Series};

    fn vault() -> Vault {
        let mut vault = Vault::default();
        assert_eq!(vault.scrub("a@x.com 4111111111111111", &Kind::ALL, Series::Conversation).len(), 2);
        vault
    }

    /// The text of every channel after relaying `stream` in chunks of `size` bytes.
    fn relay(stream: &str, size: usize) -> (HashMap<String, String>, String, bool) {
        let mut events = Events::new(vault());
        let mut shown = Vec::new();
        for chunk in stream.as_bytes().chunks(size) {
            shown.extend_from_slice(&events.push(chunk).unwrap());
        }
        shown.extend_from_slice(&events.rest());
        let shown = String::from_utf8(shown).unwrap();
        let mut said: HashMap<String, String> = HashMap::new();
        for data in shown.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
            for delta in Chunk::read(data).unwrap().deltas {
                said.entry(delta.channel).or_default().push_str(&decode(&data[delta.range]));
            }
        }
        (said, shown, events.done)
    }

    #[test]
    fn a_stream_is_restored_whatever_its_chunks() {
        // Every character of the content and of the arguments is an event of its own.
        let content = "to <EMAIL_1>, <EMAIL_9> https://evil.example/<EMAIL_1> <CREDIT_CARD_1> <EMA";
        let arguments = r#"{"to":"<EMAIL_1>","n":<CREDIT_CARD_1>}"#;
        let mut stream = String::from(": hello\n\n");
        let mut event = |delta: String, finish: &str| {
            stream.push_str(&format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
            ))
        };
        for character in content.chars() {
            let mut escaped = String::new();
            escape_into(&character.to_string(), &mut escaped);
            event(format!("{{\"content\":\"{escaped}\"}}"), "null");
        }
        for character in arguments.chars() {
            let mut escaped = String::new();
            escape_into(&character.to_string(), &mut escaped);
            event(format!("{{\"tool_calls\":[{{\"index\":1,\"function\":{{\"arguments\":\"{escaped}\"}}}}]}}"), "null");
        }
        event("{}".to_owned(), "\"stop\"");
        stream.push_str("data: [DONE]\n\n");
        for size in [1, 2, 3, 7, 64, 1 << 20] {
            let (said, shown, done) = relay(&stream, size);
            assert!(done);
            assert_eq!(
                said["0/delta/content"],
                "to a@x.com, <EMAIL_9> https://evil.example/<EMAIL_1> 4111111111111111 <EMA"
            );
            assert_eq!(said["0/delta/tool_calls/1/function/arguments"], r#"{"to":"a@x.com","n":4111111111111111}"#);
            let held = shown.find("<EMA").unwrap();
            assert!(held < shown.find("\"stop\"").unwrap(), "what was held comes before the end");
        }
    }

    #[test]
    fn an_event_without_placeholders_passes_byte_for_byte() {
        let stream = "data:{ \"choices\" : [ {\"delta\":{\"content\":\"caf\\u00e9\"}} ] , \"x\":1e2}\r\n\r\n";
        assert_eq!(relay(stream, 5).1, stream);
    }

    #[test]
    fn a_whole_answer_is_restored() {
        let answer = br#"{"choices":[{"message":{"content":"hi <EMAIL_1>","tool_calls":[{"function":{"arguments":"{\"a\":\"\\u003cEMAIL_1\\u003e\"}"}}]}}], "n": 1.0}"#;
        let restored = String::from_utf8(restore_json(answer, &vault())).unwrap();
        assert_eq!(
            restored,
            r#"{"choices":[{"message":{"content":"hi a@x.com","tool_calls":[{"function":{"arguments":"{\"a\":\"a@x.com\"}"}}]}}], "n": 1.0}"#
        );
    }
}
