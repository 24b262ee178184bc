//! The answer back to the client, as it comes.

use crate::answer::Reader;
use crate::attempt::{Answer, Content, media_type};
use crate::dispatch::{Outcome, Upstream, Watched, watch};
use crate::events::Events;
use crate::head::{Notes, hop_by_hop, note};
use crate::live::Live;
use crate::refuse::{ErrorCode, Refusal};
use crate::timer;
use bytes::{Bytes, BytesMut};
use http::HeaderName;
use http::header::CONTENT_LENGTH;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use sluice_wire::Failure;
use sluice_wire::event::Usage;
use std::time::{Duration, Instant};

/// Longest answer that is kept beside being relayed, to read its usage.
const MAX_USAGE: usize = 1 << 20;

/// How often in a stream it is seen whether the provider is silent for too long and whether the client is still there.
/// A timer for each event and each limit was a tenth of what an event cost.
const PULSE: Duration = Duration::from_millis(40);

/// What keeps an idle connection open: a comment, which readers of event streams pass over.
const KEEPALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// How an answer went.
pub struct Relayed {
    pub usage: Usage,
    /// What went wrong after the head was sent.
    pub failure: Option<ErrorCode>,
    /// Whether the client's connection is in order.
    pub intact: bool,
}

impl Relayed {
    fn departed(usage: Usage) -> Relayed {
        Relayed { usage, failure: Some(ErrorCode::ClientDeparted), intact: false }
    }
}

/// Sends the head of an event stream before there is anything to show, or a comment when it was sent before. `false`
/// when the client is gone.
pub async fn begin_events(session: &mut ServerSession, notes: &Notes, begun: bool) -> bool {
    if !begun {
        let Ok(mut header) = ResponseHeader::build_no_case(200, Some(notes.len() + 3)) else { return false };
        let framed = header.insert_header("content-type", "text/event-stream; charset=utf-8").is_ok()
            && header.insert_header("cache-control", "no-cache").is_ok()
            && frame(&mut header, session, None).is_ok();
        for (name, value) in notes {
            let _ = header.insert_header(name, value);
        }
        if !framed || session.write_response_header(Box::new(header)).await.is_err() {
            return false;
        }
    }
    session.write_response_body(KEEPALIVE, false).await.is_ok()
}

/// Writes head and body. An error is one that happened before anything was written.
pub async fn relay(
    upstream: Upstream,
    session: &mut ServerSession,
    live: &Live,
    notes: &Notes,
) -> Result<Relayed, Refusal> {
    let Upstream { scrubbed, outcome, begun, .. } = upstream;
    let client = scrubbed.dialect();
    let keepalive = scrubbed.composed.recalled.plan.route.route.keepalive_comment;
    let Answer { mut reader, header, content, usage, .. } = match outcome {
        Outcome::Answer(answer) => *answer,
        Outcome::Error { header, body } if begun => {
            let status = header.status.as_u16();
            let text = String::from_utf8_lossy(&body);
            let frame = Failure::read(status, &text).map(|failure| failure.event(client, 0));
            let written = session.write_response_body(Bytes::from(frame.unwrap_or_default()), false).await.is_ok();
            return Ok(Relayed { usage: Usage::default(), failure: None, intact: written });
        }
        Outcome::Error { header, body } => {
            let head = response_header(*header, session, notes, Some(body.len()))?;
            let written = write_all(session, head, body).await;
            return Ok(Relayed { usage: Usage::default(), failure: None, intact: written });
        }
    };
    match content {
        Content::Whole(body) => {
            let head = response_header(header, session, notes, Some(body.len()))?;
            let written = write_all(session, head, body).await;
            reader.release(live).await;
            match written {
                true => Ok(Relayed { usage, failure: None, intact: true }),
                false => Ok(Relayed::departed(usage)),
            }
        }
        Content::Events(mut events, held) => {
            if !begun {
                let mut head = response_header(header, session, notes, None)?;
                let _ = head.insert_header("content-type", "text/event-stream; charset=utf-8");
                if session.write_response_header(head).await.is_err() {
                    return Ok(Relayed::departed(usage));
                }
            }
            let relayed = relay_events(&mut reader, &mut events, held, session, keepalive).await;
            finish(reader, live, relayed.failure).await;
            Ok(relayed)
        }
        Content::Verbatim => {
            let length = header.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
            let is_json = media_type(&header) == "application/json";
            let head = response_header(header, session, notes, length)?;
            if session.write_response_header(head).await.is_err() {
                return Ok(Relayed::departed(usage));
            }
            let relayed = relay_bytes(&mut reader, is_json, session, client).await;
            finish(reader, live, relayed.failure).await;
            Ok(relayed)
        }
    }
}

/// The connection back into the pool, or the failure to the target's record.
async fn finish(mut reader: Reader, live: &Live, failure: Option<ErrorCode>) {
    match failure {
        None => {
            reader.settle().await;
            reader.release(live).await;
        }
        // Neither is the provider's failure.
        Some(ErrorCode::ClientDeparted | ErrorCode::AnswerWithheld) => {}
        Some(_) => reader.permit.fail(live.moment()),
    }
}

async fn relay_events(
    reader: &mut Reader,
    events: &mut Events,
    mut out: BytesMut,
    session: &mut ServerSession,
    keepalive: Option<Duration>,
) -> Relayed {
    let mut pulse = Box::pin(timer::sleep(PULSE));
    loop {
        if !out.is_empty() && session.write_response_body(out.split().freeze(), false).await.is_err() {
            return Relayed::departed(events.usage);
        }
        // Gemini's usage may follow the event that says it is finished.
        if events.failed.is_some() || (events.over && events.ends_at_once()) {
            break;
        }
        let read = {
            let (idle, deadline) = (reader.idle(), reader.deadline);
            let mut read = std::pin::pin!(reader.next_unlimited());
            // The beats since the last piece, of which the first may have been cut short; those since the last write.
            let (mut silent, mut unwritten) = (0, 0);
            loop {
                tokio::select! {
                    biased;
                    read = &mut read => break read,
                    // Between two beats the client is not looked at, which would be a system call for every event.
                    _ = session.read_body_or_idle(true), if silent > 0 => return Relayed::departed(events.usage),
                    () = &mut pulse => {}
                }
                pulse = Box::pin(timer::sleep(PULSE));
                silent += 1;
                unwritten += 1;
                if PULSE * (silent - 1) >= idle || Instant::now() >= deadline {
                    break Err(ErrorCode::UpstreamTimeout);
                }
                if keepalive.is_some_and(|keepalive| PULSE * unwritten >= keepalive) {
                    unwritten = 0;
                    if session.write_response_body(KEEPALIVE, false).await.is_err() {
                        return Relayed::departed(events.usage);
                    }
                }
            }
        };
        let pushed = match read {
            Ok(Some(chunk)) => events.push(&chunk, &mut out),
            Ok(None) => match events.end(&mut out) {
                Ok(()) => {
                    let written = out.is_empty() || session.write_response_body(out.freeze(), false).await.is_ok();
                    return Relayed { usage: events.usage, failure: None, intact: written };
                }
                Err(code) => Err(code),
            },
            // What was complete already is not spoilt by how its connection ends.
            Err(_) if events.over => break,
            Err(code) => Err(code),
        };
        if let Err(code) = pushed {
            let end = events.fail(code);
            out.extend_from_slice(&end);
        }
    }
    let failure = events.failed.or(events.error.as_ref().map(|_| ErrorCode::UpstreamStreamInterrupted));
    Relayed { usage: events.usage, failure, intact: true }
}

async fn relay_bytes(
    reader: &mut Reader,
    is_json: bool,
    session: &mut ServerSession,
    client: sluice_wire::Dialect,
) -> Relayed {
    let mut kept = BytesMut::new();
    let usage = |kept: &[u8]| std::str::from_utf8(kept).map_or(Usage::default(), |text| Usage::of_answer(client, text));
    loop {
        let read = {
            let read = std::pin::pin!(reader.next(None));
            match watch(session, read, None).await {
                Watched::Done(read) => read,
                Watched::Departed | Watched::Tick => return Relayed::departed(usage(&kept)),
            }
        };
        match read {
            Ok(Some(chunk)) => {
                if is_json && kept.len() + chunk.len() <= MAX_USAGE {
                    kept.extend_from_slice(&chunk);
                }
                if session.write_response_body(chunk, false).await.is_err() {
                    return Relayed::departed(usage(&kept));
                }
            }
            Ok(None) => return Relayed { usage: usage(&kept), failure: None, intact: true },
            // The answer's length cannot be kept any more; the client sees the connection break, not an end.
            Err(code) => return Relayed { usage: usage(&kept), failure: Some(code), intact: false },
        }
    }
}

/// The provider's head for the client: its own fields, and what Sluice has to say.
fn response_header(
    header: ResponseHeader,
    session: &ServerSession,
    notes: &Notes,
    length: Option<usize>,
) -> Result<Box<ResponseHeader>, Refusal> {
    let mut parts = http::response::Parts::from(header);
    let left_out: Vec<HeaderName> = {
        let hops = hop_by_hop(&parts.headers);
        let is_ours = |name: &str| name.starts_with("access-control-") || name == CONTENT_LENGTH;
        parts.headers.keys().filter(|name| is_ours(name.as_str()) || hops(name.as_str())).cloned().collect()
    };
    for name in left_out {
        parts.headers.remove(name);
    }
    for (name, value) in notes {
        if *name == note::VARY {
            parts.headers.append(name.clone(), value.clone());
        } else {
            parts.headers.insert(name.clone(), value.clone());
        }
    }
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    let mut out = Box::new(ResponseHeader::from(parts));
    frame(&mut out, session, length).map_err(|_| {
        Refusal::new(ErrorCode::UpstreamProtocolError, "The provider's answer has a header that cannot be sent on.")
    })?;
    Ok(out)
}

/// Says how the body is framed.
fn frame(header: &mut ResponseHeader, session: &ServerSession, length: Option<usize>) -> pingora_core::Result<()> {
    match length {
        Some(length) => header.insert_header("content-length", length),
        None if session.is_http2() || session.req_header().version != http::Version::HTTP_11 => Ok(()),
        None if matches!(header.status.as_u16(), 204 | 304) => Ok(()),
        None => header.insert_header("transfer-encoding", "chunked"),
    }
}

/// Writes a whole response; `false` when the client is gone.
pub async fn write_all(session: &mut ServerSession, head: Box<ResponseHeader>, body: Bytes) -> bool {
    session.write_response_header(head).await.is_ok()
        && (body.is_empty() || session.write_response_body(body, false).await.is_ok())
}
