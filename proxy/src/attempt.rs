//! One attempt at one target: encode, connect, send, and wait until the answer has something to show.
//!
//! Nothing of an attempt has reached the client before it is [`Answer`]ed, so one that [`Miss`]es leaves the way open
//! for another.

use crate::answer::{Hop, Reader, read_head, with_path};
use crate::events::{Audience, Events, restored, told_twice};
use crate::head::{CREDENTIALS, hop_by_hop};
use crate::http1::{Exchange, stale};
use crate::live::{Live, now_microseconds};
use crate::refuse::{ErrorCode, Refusal};
use crate::scrub::{Encoded, EncodedBody, Scrubbed};
use crate::timer;
use crate::transcript::Transcript;
use crate::upstreams::{Closed, Peer, Target, credential};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::{Error, ErrorType, OrErr, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use sluice_config::ProviderKind;
use sluice_policies::upstream::retry_after;
use sluice_scrub::{Refused, Vault};
use sluice_wire::event::{Usage, wholes};
use sluice_wire::json::{Document, Value};
use sluice_wire::{Dialect, Failure, Family, Splices, kind_of_status, translate};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Most bytes of metadata that are held back from the client while fall-back is still possible.
const MAX_METADATA: usize = 64 << 10;
/// Longest answer that is held whole, in bytes.
const MAX_WHOLE: usize = 32 << 20;
/// Longest error of a provider that is read.
const MAX_ERROR: usize = 1 << 20;

/// What all attempts for one request share.
pub struct Outgoing<'a> {
    pub scrubbed: &'a Scrubbed,
    pub live: &'a Live,
    /// The client's header without what belongs to it alone; each attempt adds what belongs to its target.
    pub header: Parts,
    /// The caller's own provider credential, where the route passes it on.
    pub credential: Option<String>,
}

/// An answer that has something to show.
pub struct Answer {
    pub reader: Reader,
    pub header: ResponseHeader,
    pub content: Content,
    pub encoded: Encoded,
    pub usage: Usage,
    /// What was said, where the key's tenant keeps it.
    pub transcript: Option<Arc<Transcript>>,
}

pub enum Content {
    /// An event stream; what is to be shown first is held.
    Events(Box<Events>, BytesMut),
    /// The whole body, as the client gets it.
    Whole(Bytes),
    /// A body that is passed on as it comes.
    Verbatim,
}

/// An attempt without an answer.
pub struct Miss {
    pub reply: Reply,
    pub again: Again,
    /// Whether the target failed, and not the request.
    pub is_failure: bool,
    /// Whether the provider surely did nothing, so that even what must not happen twice can be tried again.
    pub is_unsent: bool,
    /// What the attempt counts as.
    pub outcome: &'static str,
}

/// What the client is told if no other attempt is made.
pub enum Reply {
    Refusal(Box<Refusal>),
    /// The provider's own error, in the client's dialect.
    Error {
        header: Box<ResponseHeader>,
        body: Bytes,
    },
}

/// Where another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    Nowhere,
    /// At another target.
    Elsewhere,
    /// At a target with a larger context window.
    Larger,
    /// At this one too, when it has had its rest.
    Anywhere(Option<Duration>),
}

impl Miss {
    fn of(refusal: Refusal, again: Again) -> Miss {
        let outcome = refusal.code.row().name;
        Miss { reply: Reply::Refusal(Box::new(refusal)), again, is_failure: true, is_unsent: false, outcome }
    }

    /// The request cannot be put for this target.
    fn unfit(refusal: Refusal) -> Miss {
        Miss { is_failure: false, is_unsent: true, ..Miss::of(refusal, Again::Elsewhere) }
    }

    /// The answer says what the route refuses; asking again would cost as much and say the same.
    fn withheld(refusal: Refusal) -> Miss {
        Miss { is_failure: false, ..Miss::of(refusal, Again::Nowhere) }
    }

    fn unsent(self) -> Miss {
        Miss { is_unsent: true, ..self }
    }

    fn closed(target: &Target, closed: Closed) -> Miss {
        let name = &target.provider.name;
        let refusal = match closed {
            Closed::Broken(wait) => Refusal::unavailable(
                format!("The provider `{name}` failed several times in a row and is left alone for a moment."),
                wait,
            ),
            Closed::Full => Refusal::unavailable(
                format!("The provider `{name}` has as many requests as `max_concurrent_requests` allows."),
                Duration::from_secs(1),
            ),
        };
        Miss { is_failure: false, ..Miss::of(refusal, Again::Elsewhere).unsent() }
    }

    /// Whether nothing was tried at all.
    pub fn is_closed(&self) -> bool {
        matches!(&self.reply, Reply::Refusal(refusal) if refusal.code == ErrorCode::UpstreamUnavailable)
    }

    fn broken(code: ErrorCode, message: impl Into<String>) -> Miss {
        Miss::of(Refusal::new(code, message), Again::Anywhere(None))
    }
}

impl Outgoing<'_> {
    /// Tries `target` once.
    pub async fn attempt(&self, target: &Arc<Target>) -> Result<Box<Answer>, Miss> {
        let encoded = self.scrubbed.encode(target).map_err(Miss::unfit)?;
        let started = Instant::now();
        let mut permit = target.enter(self.live.moment_at(started)).map_err(|closed| Miss::closed(target, closed))?;
        let deadline = started + target.provider.config.total_timeout;
        let (hop, peer, header) = match self.open(target, &encoded, started, deadline).await {
            Ok(opened) => opened,
            Err(miss) => {
                self.tell_miss(&miss, target, Some(&mut permit));
                return Err(miss);
            }
        };
        let mut reader = Reader::new(hop, peer, Arc::clone(target), permit, deadline);
        let transcript = self.transcript(&encoded);
        match self.read(&mut reader, header, &encoded, transcript.as_ref(), started).await {
            Ok((header, content, usage)) => {
                let now = Instant::now();
                reader.permit.succeed(now - started, self.live.moment_at(now));
                Ok(Box::new(Answer { reader, header, content, encoded, usage, transcript }))
            }
            Err(miss) => {
                self.tell_miss(&miss, target, Some(&mut reader.permit));
                if let Reply::Error { .. } = &miss.reply {
                    reader.release(self.live).await;
                }
                Err(miss)
            }
        }
    }

    fn transcript(&self, encoded: &Encoded) -> Option<Arc<Transcript>> {
        let contents = self.scrubbed.composed.recalled.plan.admitted.principal.key.contents?;
        let is_text = encoded.dialect.is_conversation() || encoded.dialect == Dialect::Completions;
        match &encoded.body {
            EncodedBody::Json(body) if is_text && self.live.contents.is_some() => {
                Some(Arc::new(Transcript::new(contents, body)))
            }
            _ => None,
        }
    }

    fn tell_miss(&self, miss: &Miss, target: &Target, permit: Option<&mut crate::upstreams::Permit>) {
        let now = self.live.moment();
        self.live.metrics.attempt_failed(&target.provider.name, miss.outcome);
        if let (true, Some(permit)) = (miss.is_failure, permit) {
            permit.fail(now);
        }
        if let Again::Anywhere(Some(rest)) = miss.again {
            target.state.breaker.rest(now, rest);
        }
    }

    /// Connects, sends the request and waits for the answer's head. A connection from the pool that fails before any
    /// byte of an answer had gone stale, and the request is sent again on another one.
    async fn open(
        &self,
        target: &Arc<Target>,
        encoded: &Encoded,
        mut now: Instant,
        deadline: Instant,
    ) -> Result<(Hop, Arc<Peer>, ResponseHeader), Miss> {
        let header = self.header_for(target, encoded)?;
        let body = match &encoded.body {
            EncodedBody::Json(body) => body.as_bytes(),
            EncodedBody::Empty | EncodedBody::Unread => &[],
        };
        let config = &target.provider.config;
        let peers = target.provider.peers();
        let mut address = 0;
        // Whether a kept connection had gone stale: the request is sent once more, on a new one where that can be said.
        let mut again = false;
        loop {
            let Some(peer) = peers.get(address) else {
                return Err(Miss::broken(ErrorCode::UpstreamConnectFailed, "The provider has no address.").unsent());
            };
            let left = deadline.saturating_duration_since(now).max(Duration::from_millis(1));
            let waited = config.header_timeout.min(left);
            let (sent, reused) = match config.http2 {
                false => match self.connect(target, peer, again).await {
                    Ok((stream, reused)) => {
                        let sent_at = if reused { now } else { Instant::now() };
                        let limits = (waited, (sent_at + config.header_timeout).min(deadline));
                        (send_whole(stream, &header, &encoded.path, body, config.idle_timeout, limits).await, reused)
                    }
                    Err(_) if address + 1 < peers.len() => {
                        address += 1;
                        now = Instant::now();
                        continue;
                    }
                    Err(error) => return Err(connect_failed(&error, target)),
                },
                true => match Box::pin(self.live.http2.get_http_session(&peer.http)).await {
                    Ok((session, reused)) => (
                        Box::pin(send_parts(session, &header, &encoded.path, body, config.idle_timeout, waited)).await,
                        reused,
                    ),
                    Err(_) if address + 1 < peers.len() => {
                        address += 1;
                        now = Instant::now();
                        continue;
                    }
                    Err(error) => return Err(connect_failed(&error, target)),
                },
            };
            match sent {
                Ok((hop, header)) => return Ok((hop, Arc::clone(peer), header)),
                Err(error) => match error.etype() {
                    ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                        return Err(timed_out("waiting for the answer's header", waited));
                    }
                    _ if reused
                        && !again
                        && matches!(error.retry, RetryType::ReusedOnly)
                        && Instant::now() < deadline =>
                    {
                        again = true;
                        now = Instant::now();
                    }
                    ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => {
                        return Err(Miss::broken(
                            ErrorCode::UpstreamProtocolError,
                            "The provider closed the connection without an answer.",
                        ));
                    }
                    _ => {
                        return Err(Miss::broken(
                            ErrorCode::UpstreamProtocolError,
                            "The provider's answer is not HTTP.",
                        ));
                    }
                },
            }
        }
    }

    /// A connection to `peer`: a kept one (`true`), or a new one, as it has to be where `afresh` says so.
    async fn connect(&self, target: &Target, peer: &Peer, afresh: bool) -> pingora_core::Result<(Stream, bool)> {
        let kept = if afresh { None } else { target.provider.state.connections.take(peer.key) };
        match kept {
            Some(stream) => Ok((stream, true)),
            None => Ok((Box::pin(self.live.connector.new_stream(&peer.http)).await?, false)),
        }
    }

    /// Reads as far as the answer shows that it is one.
    async fn read(
        &self,
        reader: &mut Reader,
        mut header: ResponseHeader,
        encoded: &Encoded,
        transcript: Option<&Arc<Transcript>>,
        started: Instant,
    ) -> Result<(ResponseHeader, Content, Usage), Miss> {
        let status = header.status.as_u16();
        let vault = &self.scrubbed.vault;
        let client = self.scrubbed.dialect();
        let media = media_type(&header);
        let is_verbatim = matches!(encoded.body, EncodedBody::Unread) || !has_body(&self.header.method, status);
        let reads = encoded.dialect != Dialect::Other || !vault.leaves_answers() || status >= 400;
        if is_verbatim || !reads {
            return Ok((header, Content::Verbatim, Usage::default()));
        }
        match header.headers.get("content-encoding").map(|coding| coding.as_bytes().to_ascii_lowercase()) {
            None => {}
            Some(coding) if coding == b"identity" => {}
            Some(coding) if coding == b"gzip" || coding == b"x-gzip" => {
                reader.inflate();
                header.remove_header("content-encoding");
                header.remove_header("content-length");
            }
            Some(_) => {
                return Err(Miss::broken(
                    ErrorCode::UpstreamProtocolError,
                    "The provider compressed its answer although it was asked not to.",
                ));
            }
        }
        if status >= 400 {
            return Err(Box::pin(self.provider_error(reader, header, encoded)).await);
        }
        if media == "text/event-stream" {
            if !client.is_conversation() && client != Dialect::Completions {
                return match vault.leaves_answers() {
                    true => Ok((header, Content::Verbatim, Usage::default())),
                    false => Err(Miss::unfit(Refusal::unscrubbable(
                        "the event stream of this path",
                        "Ask for the answer without `stream`, or use chat completions.",
                    ))),
                };
            }
            let (events, held) = Box::pin(self.first_events(reader, encoded, transcript, started)).await?;
            let usage = events.usage;
            return Ok((header, Content::Events(Box::new(events), held), usage));
        }
        let is_json = media == "application/json";
        if encoded.dialect != Dialect::Other && !is_json {
            return Err(Miss::broken(
                ErrorCode::UpstreamProtocolError,
                "The provider's answer is no JSON although its status says that all is well.",
            ));
        }
        // Embeddings are large, hold no text, and need not be read.
        if !is_json || (vault.leaves_answers() && encoded.dialect == Dialect::Embeddings) {
            return Ok((header, Content::Verbatim, Usage::default()));
        }
        let body = reader.whole(MAX_WHOLE).await.map_err(broke_off)?;
        let (body, usage) = self.whole_answer(body, encoded, transcript)?;
        if let Some(refused) = vault.take_refused() {
            return Err(Miss::withheld(Refusal::answer_withheld(&refused)));
        }
        Ok((header, Content::Whole(body), usage))
    }

    /// A whole answer in the client's dialect, with its originals.
    fn whole_answer(
        &self,
        body: Bytes,
        encoded: &Encoded,
        transcript: Option<&Arc<Transcript>>,
    ) -> Result<(Bytes, Usage), Miss> {
        let malformed =
            || Miss::broken(ErrorCode::UpstreamProtocolError, "The provider's answer is not an answer in its dialect.");
        let text = std::str::from_utf8(&body).map_err(|_| malformed())?;
        if let Some(transcript) = transcript {
            transcript.answer(text);
        }
        // Some servers say that all is well and then state an error. Responses states its own in a field of that name.
        let states_error = |root: Value<'_>| root.get("error").is_some_and(|error| !error.is_null());
        let client = self.scrubbed.dialect();
        let document = Document::parse(text).map_err(|_| malformed())?;
        if encoded.dialect.is_conversation()
            && encoded.dialect != Dialect::Responses
            && states_error(document.root(text))
        {
            let failure = Failure::read(200, text).ok_or_else(malformed)?;
            return Err(in_band(&failure, client.family()));
        }
        let usage = Usage::of_root(encoded.dialect, document.root(text));
        let plan = &self.scrubbed.composed.recalled.plan;
        if encoded.dialect != client {
            let asked = plan.asked();
            let said = translate::answer(encoded.dialect, client, text, asked).ok_or_else(malformed)?;
            let shown = restore_json(&said, &self.scrubbed.vault, None).unwrap_or(said);
            return Ok((Bytes::from(shown), usage));
        }
        let instructions = self.own_instructions();
        // With nothing to put back the body passes as it came.
        if self.scrubbed.vault.leaves_answers() && instructions.is_none() {
            return Ok((body, usage));
        }
        let shown = restore_document(text, &document, &self.scrubbed.vault, instructions.as_deref());
        Ok((shown.map_or(body.clone(), Bytes::from), usage))
    }

    /// What Responses' `instructions` are to show where a managed prompt stands in them: the caller's own.
    fn own_instructions(&self) -> Option<String> {
        let plan = &self.scrubbed.composed.recalled.plan;
        let composed = &self.scrubbed.composed;
        let has_prompt = !composed.opening.is_empty() || !composed.closing.is_empty();
        let is_managed = self.scrubbed.dialect() == Dialect::Responses && has_prompt;
        is_managed.then(|| plan.instructions().unwrap_or("null").to_owned())
    }

    /// Reads a stream until it has content, or too much metadata to hold.
    async fn first_events(
        &self,
        reader: &mut Reader,
        encoded: &Encoded,
        transcript: Option<&Arc<Transcript>>,
        started: Instant,
    ) -> Result<(Events, BytesMut), Miss> {
        let plan = &self.scrubbed.composed.recalled.plan;
        let mut events = Events::new(&Audience {
            provider: encoded.dialect,
            client: self.scrubbed.dialect(),
            asked: plan.asked(),
            vault: Arc::clone(&self.scrubbed.vault),
            strip_usage: encoded.asked_usage,
            instructions: self.own_instructions(),
            transcript: transcript.cloned(),
        });
        let patience = reader.target.provider.config.first_token_timeout;
        let mut held = BytesMut::new();
        loop {
            let read = reader.next(Some(started + patience)).await;
            let read = match read {
                Err(ErrorCode::UpstreamTimeout) => return Err(timed_out("until its first token", started.elapsed())),
                Err(code) => return Err(broke_off(code)),
                Ok(read) => read,
            };
            let pushed = match &read {
                Some(chunk) => events.push(chunk, &mut held),
                None => events.end(&mut held),
            };
            if let (Some(error), false) = (&events.error, events.content) {
                return Err(in_band(error, self.scrubbed.dialect().family()));
            }
            match pushed {
                // What was shown before the fault is content; relay says the rest.
                Err(ErrorCode::AnswerWithheld) if !events.content => {
                    let refused = events.withheld.take().unwrap_or(Refused(String::new()));
                    return Err(Miss::withheld(Refusal::answer_withheld(&refused)));
                }
                Err(code) if !events.content => return Err(broke_off(code)),
                Err(code) => {
                    let end = events.fail(code);
                    held.extend_from_slice(&end);
                    return Ok((events, held));
                }
                Ok(()) if events.content || events.over || held.len() > MAX_METADATA => return Ok((events, held)),
                Ok(()) => {}
            }
        }
    }

    /// The provider's error, in the client's words.
    async fn provider_error(&self, reader: &mut Reader, mut header: ResponseHeader, encoded: &Encoded) -> Miss {
        let status = header.status.as_u16();
        let body = reader.whole(MAX_ERROR).await.unwrap_or_default();
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let read = Failure::read(status, text);
        let family = Family::of_path(&self.scrubbed.composed.recalled.plan.path);
        let again = self.again(&header, read.as_ref());
        let is_same = encoded.dialect == self.scrubbed.dialect();
        let shown = match (&read, is_same) {
            (Some(_), true) => restore_json(text, &self.scrubbed.vault, None).map_or(body.clone(), Bytes::from),
            (Some(failure), false) => {
                let said = failure.body(family);
                Bytes::from(restore_json(&said, &self.scrubbed.vault, None).unwrap_or(said))
            }
            (None, _) => {
                let failure = Failure {
                    status,
                    kind: kind_of_status(status).into(),
                    code: Some("upstream_error".into()),
                    param: None,
                    message: format!("The provider answered {status} with what is no error of its API.").into(),
                };
                Bytes::from(failure.body(family))
            }
        };
        // An error is shown as it is masked; what it says is no answer.
        let _ = self.scrubbed.vault.take_refused();
        if !is_same || read.is_none() {
            let _ = header.insert_header("content-type", "application/json");
        }
        let outcome = match status {
            429 => "status_429",
            500 => "status_500",
            503 => "status_503",
            529 => "status_529",
            501.. => "status_5xx",
            _ => "status_4xx",
        };
        Miss {
            reply: Reply::Error { header: Box::new(header), body: shown },
            again,
            is_failure: status >= 500,
            is_unsent: matches!(status, 429 | 503 | 529),
            outcome,
        }
    }

    /// Where another attempt makes sense after an error status.
    fn again(&self, header: &ResponseHeader, failure: Option<&Failure<'_>>) -> Again {
        let text = |name: &str| header.headers.get(name).and_then(|value| value.to_str().ok());
        let now = now_microseconds() / 1_000_000;
        let rest = retry_after(text("retry-after-ms"), text("retry-after"), now);
        let code = failure.and_then(|failure| failure.code.as_deref()).unwrap_or_default();
        match header.status.as_u16() {
            400 | 413 if failure.is_some_and(is_too_long) => Again::Larger,
            413 => Again::Larger,
            // The target's own trouble with its account or its model; the same question may do elsewhere.
            401..=404 => Again::Elsewhere,
            429 if code == "insufficient_quota" => Again::Elsewhere,
            _ if text("x-should-retry") == Some("false") => Again::Elsewhere,
            408 | 429 | 500.. => Again::Anywhere(rest),
            _ => Again::Nowhere,
        }
    }

    /// The head that goes to `target`, but for its path.
    fn header_for(&self, target: &Target, encoded: &Encoded) -> Result<Parts, Miss> {
        let credential = match &self.credential {
            Some(own) => Some(credential(target.provider.config.kind, own)),
            None => {
                let principal = &self.scrubbed.composed.recalled.plan.admitted.principal;
                target.provider.credential_for(&principal.prepared, principal.key.tenant).map_err(Miss::unfit)?
            }
        };
        self.write_header(target, encoded, credential).map_err(|error| {
            let message = format!("The request cannot be sent on: {error}.");
            Miss::unfit(Refusal::new(ErrorCode::InvalidRequest, message))
        })
    }

    fn write_header(
        &self,
        target: &Target,
        encoded: &Encoded,
        credential: Option<(HeaderName, String)>,
    ) -> Result<Parts, http::header::InvalidHeaderValue> {
        let mut head = self.header.clone();
        let headers = &mut head.headers;
        let provider = &target.provider;
        headers.insert(HOST, HeaderValue::try_from(&provider.host_header)?);
        if encoded.dialect != self.scrubbed.dialect() {
            // What the client's SDK says to its own provider means nothing to another.
            const OWN: [&str; 4] = ["anthropic-", "openai-", "x-goog-", "x-stainless-"];
            let is_foreign = |name: &&HeaderName| OWN.iter().any(|own| name.as_str().starts_with(own));
            for name in headers.keys().filter(is_foreign).cloned().collect::<Vec<_>>() {
                headers.remove(name);
            }
        }
        if let Some((name, value)) = credential {
            headers.insert(name, HeaderValue::try_from(value)?);
        }
        if provider.config.kind == ProviderKind::Anthropic && !headers.contains_key(ANTHROPIC_VERSION) {
            let version = provider.config.api_version.as_deref().unwrap_or("2023-06-01");
            headers.insert(ANTHROPIC_VERSION, HeaderValue::try_from(version)?);
        }
        match &encoded.body {
            EncodedBody::Json(body) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            EncodedBody::Empty => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                let bodiless = [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS];
                if !bodiless.contains(&head.method) {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
                }
            }
            // The length, if there is one, came with the client's header.
            EncodedBody::Unread if headers.contains_key(CONTENT_LENGTH) => {}
            EncodedBody::Unread => {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Ok(head)
    }

    /// Streams a body that Sluice does not read, and waits for the answer's head. The caller sends it: it belongs to
    /// the client's connection.
    pub async fn open_stream(&self, target: &Arc<Target>, encoded: &Encoded) -> Result<(Reader, Parts), Miss> {
        let permit = target.enter(self.live.moment()).map_err(|closed| Miss::closed(target, closed))?;
        let header = self.header_for(target, encoded)?;
        let config = &target.provider.config;
        let mut last = None;
        for peer in target.provider.peers().iter() {
            let connected = match config.http2 {
                false => self.connect(target, peer, false).await.map(|(stream, _)| {
                    let mut exchange = Exchange::new(stream, config.idle_timeout);
                    exchange.set_read_limits(Some(config.header_timeout), Some(Instant::now() + config.total_timeout));
                    Hop::Http1(Box::new(exchange))
                }),
                true => self.live.http2.get_http_session(&peer.http).await.map(|(mut session, _)| {
                    session.set_write_timeout(Some(config.idle_timeout));
                    session.set_read_timeout(Some(config.header_timeout));
                    Hop::Http2(Box::new(session))
                }),
            };
            match connected {
                Ok(hop) => {
                    let deadline = Instant::now() + config.total_timeout;
                    return Ok((Reader::new(hop, Arc::clone(peer), Arc::clone(target), permit, deadline), header));
                }
                Err(error) => last = Some(error),
            }
        }
        let miss = match last {
            Some(error) => connect_failed(&error, target),
            None => Miss::broken(ErrorCode::UpstreamConnectFailed, "The provider has no address.").unsent(),
        };
        self.tell_miss(&miss, target, None);
        Err(miss)
    }
}

/// What goes on of the client's header, whatever the target.
pub fn outgoing_header(received: &RequestHeader, traceparent: &str, streams: bool) -> pingora_core::Result<Parts> {
    let hops = hop_by_hop(&received.headers);
    let mut headers = HeaderMap::with_capacity(received.headers.len() + 6);
    for (field, value) in &received.headers {
        let name = field.as_str();
        let ours = name.starts_with("x-sluice-")
            || matches!(name, "host" | "expect" | "traceparent" | "origin")
            || (!streams && matches!(name, "content-length" | "accept-encoding"));
        if !ours && !CREDENTIALS.contains(&name) && !hops(name) {
            headers.append(field.clone(), value.clone());
        }
    }
    let traceparent = HeaderValue::try_from(traceparent).or_err(ErrorType::InvalidHTTPHeader, "while tracing")?;
    headers.insert(TRACEPARENT, traceparent);
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = received.method.clone();
    parts.headers = headers;
    Ok(parts)
}

/// Sends a request whose body is known, and waits for the answer's head.
async fn send_whole(
    stream: Stream,
    head: &Parts,
    path: &str,
    body: &[u8],
    idle: Duration,
    (patience, until): (Duration, Instant),
) -> Result<(Hop, ResponseHeader), Box<Error>> {
    let mut exchange = Box::new(Exchange::new(stream, idle));
    exchange.set_read_limits(Some(patience), Some(until));
    exchange.send(head, path, body).await?;
    let header = exchange.read_head().await?;
    Ok((Hop::Http1(exchange), header))
}

/// The same over HTTP/2, where frames are the library's own.
async fn send_parts(
    mut session: HttpSession,
    head: &Parts,
    path: &str,
    body: &[u8],
    idle: Duration,
    patience: Duration,
) -> Result<(Hop, ResponseHeader), Box<Error>> {
    session.set_write_timeout(Some(idle));
    let exchange = async {
        session.write_request_header(Box::new(with_path(head.clone(), path)?)).await?;
        if !body.is_empty() {
            session.write_request_body(Bytes::copy_from_slice(body), true).await?;
        }
        session.finish_request_body().await?;
        let header = read_head(&mut session).await?;
        Ok((Hop::Http2(Box::new(session)), header))
    };
    match timer::timeout(patience, exchange).await {
        // pingora says of few errors that a new connection may do.
        Ok(answered) => answered.map_err(stale),
        Err(_) => Err(Error::new(ErrorType::ReadTimedout)),
    }
}

pub fn timed_out(phase: &str, after: Duration) -> Miss {
    Miss::broken(ErrorCode::UpstreamTimeout, format!("The provider took more than {} ms {phase}.", after.as_millis()))
}

fn connect_failed(error: &Error, target: &Target) -> Miss {
    let miss = match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            timed_out("connecting", target.provider.config.connect_timeout)
        }
        kind => Miss::broken(
            ErrorCode::UpstreamConnectFailed,
            format!("Cannot connect to the provider `{}`: {}.", target.provider.name, kind.as_str()),
        ),
    };
    miss.unsent()
}

/// An answer that ended before it had shown anything.
fn broke_off(code: ErrorCode) -> Miss {
    let message = match code {
        ErrorCode::UpstreamTimeout => "The provider stopped sending before its answer was complete.",
        ErrorCode::UpstreamProtocolError => "The provider's answer is not an answer in its dialect.",
        _ => "The provider's answer broke off.",
    };
    Miss::broken(code, message)
}

/// An error that a stream stated before any content: what its status would have said.
fn in_band(error: &Failure<'static>, family: Family) -> Miss {
    let again = match error.status {
        400 | 413 if is_too_long(error) => Again::Larger,
        401..=404 => Again::Elsewhere,
        408 | 429 | 500.. => Again::Anywhere(None),
        _ => Again::Nowhere,
    };
    let build = || -> pingora_core::Result<ResponseHeader> {
        let mut header = ResponseHeader::build(error.status, Some(2))?;
        header.insert_header("content-type", "application/json")?;
        Ok(header)
    };
    let Ok(header) = build() else { return broke_off(ErrorCode::UpstreamProtocolError) };
    Miss {
        reply: Reply::Error { header: Box::new(header), body: Bytes::from(error.body(family)) },
        again,
        is_failure: error.status >= 500,
        is_unsent: false,
        outcome: "in_band_error",
    }
}

/// Whether an error says that the conversation exceeds the model's context window, as each provider says it.
fn is_too_long(failure: &Failure<'_>) -> bool {
    failure.code.as_deref() == Some("context_length_exceeded")
        || ["prompt is too long", "maximum context length", "exceeds the maximum number of tokens"]
            .iter()
            .any(|words| failure.message.contains(words))
}

pub fn media_type(header: &ResponseHeader) -> String {
    let value = header.headers.get("content-type").map_or(&[][..], HeaderValue::as_bytes);
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default();
    String::from_utf8_lossy(media).trim().to_ascii_lowercase()
}

/// Whether a response to that method and with that status has a body (RFC 9110 section 6.4.1).
fn has_body(method: &Method, status: u16) -> bool {
    *method != Method::HEAD && !matches!(status, 100..=199 | 204 | 304)
}

/// Every string of a JSON answer with its originals; `None` when nothing is to be put back.
fn restore_json(text: &str, vault: &Vault, instructions: Option<&str>) -> Option<String> {
    if vault.leaves_answers() && instructions.is_none() {
        return None;
    }
    restore_document(text, &Document::parse(text).ok()?, vault, instructions)
}

fn restore_document(text: &str, document: &Document, vault: &Vault, instructions: Option<&str>) -> Option<String> {
    let mut splices = Splices::default();
    let root = document.root(text);
    let echoed = root.get("instructions").filter(|_| instructions.is_some());
    if let (Some(own), Some(echoed)) = (instructions, echoed) {
        splices.replace(echoed.span(), own);
    }
    let twice = if vault.guards_answers() { told_twice(root) } else { Vec::new() };
    for whole in wholes(root) {
        if twice.iter().any(|(range, _)| range.contains(&whole.range.start)) {
            continue;
        }
        let is_outbound = whole.tool.as_ref().is_some_and(|tool| vault.is_outbound(tool));
        if echoed.is_some_and(|echoed| echoed.span().contains(&whole.range.start)) {
            continue;
        }
        if let Some(shown) = restored(&text[whole.range.clone()], whole.nested, is_outbound, vault) {
            splices.replace(whole.range, shown);
        }
    }
    twice.into_iter().for_each(|(range, empty)| splices.replace(range, empty));
    (!splices.is_empty()).then(|| splices.apply(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_scrub::{Rules, Series};

    #[test]
    fn a_whole_answer_is_restored_and_its_instructions_are_the_callers() {
        let mut vault = Vault::default();
        assert_eq!(vault.scrub("a@x.com", &Rules::default(), Series::Conversation).unwrap().len(), 1);
        let answer = r#"{"instructions":"managed <EMAIL_1>","choices":[{"message":{"content":"hi <EMAIL_1>","tool_calls":[{"function":{"arguments":"{\"a\":\"\\u003cEMAIL_1\\u003e\"}"}}],"signature":"<EMAIL_1>"}}], "n": 1.0}"#;
        assert_eq!(
            restore_json(answer, &vault, Some("null")).unwrap(),
            r#"{"instructions":null,"choices":[{"message":{"content":"hi a@x.com","tool_calls":[{"function":{"arguments":"{\"a\":\"a@x.com\"}"}}],"signature":"<EMAIL_1>"}}], "n": 1.0}"#
        );
        assert!(restore_json("{\"a\":1}", &vault, None).is_none());
    }

    #[test]
    fn a_guarded_answer_does_not_spell_its_words_once_more() {
        let mut vault = Vault::default();
        vault.guard_answers(Arc::new(Rules::default()));
        let answer = r#"{"choices":[{"message":{"content":"b@x.com"},"logprobs":{"content":[{"token":"b"},{"token":"@x.com"}]}},{"logprobs":null}],"output":[{"content":[{"text":"b@x.com","logprobs":[{"token":"b@x.com"}]}]}],"data":[{"b64_json":"BINARY"}]}"#;
        let binary = "sk-proj-ZsC23q8rENMhCXZIESS9GSqu4SSAVo5f".repeat(40);
        assert_eq!(
            restore_json(&answer.replace("BINARY", &binary), &vault, None).unwrap(),
            r#"{"choices":[{"message":{"content":"[EMAIL]"},"logprobs":null},{"logprobs":null}],"output":[{"content":[{"text":"[EMAIL]","logprobs":[]}]}],"data":[{"b64_json":"BINARY"}]}"#
                .replace("BINARY", &binary)
        );
    }
}
