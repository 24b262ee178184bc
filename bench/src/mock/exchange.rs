//! One request to the mock: count it, read it, choose the script, keep it, answer it as told.

use super::body::{Closed, Scripted, Step};
use super::ledger::{InFlight, Requests, Stats};
use super::openai::{self, Answer, DONE, Events};
use super::script::{Fault, Script};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The most bytes of a plain answer that are handed over at once, so that a large answer counts as completed only
/// when nearly all of it has been taken.
const PLAIN_PIECE: usize = 64 << 10;

/// What all connections share.
pub(super) struct Shared {
    /// The command line's script, which a posted one is laid over.
    flags: Script,
    /// The script in force; a request takes one reference and keeps it.
    script: Mutex<Arc<Script>>,
    stats: Arc<Stats>,
    requests: Requests,
    /// Numbers the answers, so that each has an id of its own.
    serial: AtomicU64,
}

impl Shared {
    pub(super) fn new(flags: Script) -> Shared {
        Shared {
            script: Mutex::new(Arc::new(flags.clone())),
            flags,
            stats: Arc::default(),
            requests: Requests::default(),
            serial: AtomicU64::new(1),
        }
    }
}

/// Answers one request; the error closes the connection without an answer.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Scripted>, Closed> {
    let (head, body) = request.into_parts();
    if head.uri.path().starts_with("/mock/") {
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        return Ok(control(&shared, &head, &body));
    }
    // From here on, being dropped means that the client has gone.
    let mut in_flight = shared.stats.begin();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let script = match script_for(&shared, &head) {
        Ok(script) => script,
        Err(message) => return Ok(refusal(&message, "bad_script", Some(in_flight))),
    };
    if script.record != Some(false) {
        shared.requests.keep(&head, &body);
    }
    if let Some(latency) = milliseconds(script.latency_milliseconds) {
        tokio::time::sleep(latency).await;
    }
    match script.fault {
        Some(Fault::StallBeforeHeader) => future::pending().await,
        Some(Fault::CloseBeforeHeader) => {
            in_flight.finish();
            return Err(Closed);
        }
        Some(Fault::Status(status)) => return Ok(failure(status, in_flight)),
        _ => {}
    }
    let serial = shared.serial.fetch_add(1, Relaxed);
    let path = head.uri.path();
    let answer = match (&head.method, path) {
        (&Method::POST, "/v1/chat/completions") => openai::chat(&script, &body, serial),
        (&Method::POST, "/v1/completions") => openai::completion(&script, &body, serial),
        (&Method::POST, "/v1/embeddings") => openai::embeddings(&body),
        (&Method::GET, "/v1/models") => Ok(Answer::Plain(openai::MODELS.into())),
        (method, _) if path.starts_with("/v1/") => openai::other(method.as_str(), &head.uri.to_string(), body.len()),
        _ => {
            let message = format!("Unknown request URL: {} {path}", head.method);
            return Ok(error(StatusCode::NOT_FOUND, &message, "unknown_url", Some(in_flight)));
        }
    };
    match answer {
        // hyper never asks for the body of an answer to HEAD.
        Ok(_) if head.method == Method::HEAD => Ok(json(StatusCode::OK, Bytes::new(), Some(in_flight))),
        Ok(Answer::Plain(body)) => Ok(plain(&script, body, serial, in_flight)),
        Ok(Answer::Stream(events)) => Ok(stream(&script, events, serial, in_flight)),
        Err(error) => {
            let message = format!("We could not parse the JSON body of your request: {error}");
            Ok(refusal(&message, "invalid_json", Some(in_flight)))
        }
    }
}

/// The script for this request: its own header laid over the default. Nothing is copied when there is no header.
fn script_for(shared: &Shared, head: &Parts) -> Result<Arc<Script>, String> {
    let default = Arc::clone(&shared.script.lock());
    match head.headers.get("x-mock") {
        None => Ok(default),
        Some(header) => Script::parse(header.as_bytes())
            .map(|script| Arc::new(script.over(&default)))
            .map_err(|message| format!("x-mock: {message}")),
    }
}

/// The endpoints that a test drives the mock with.
fn control(shared: &Shared, head: &Parts, body: &[u8]) -> Response<Scripted> {
    const OK: Bytes = Bytes::from_static(br#"{"ok":true}"#);
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/mock/stats") => serialised(serde_json::to_vec(&shared.stats.view())),
        (&Method::GET, "/mock/requests") => serialised(shared.requests.to_json()),
        (&Method::DELETE, "/mock/requests") => {
            shared.requests.clear();
            json(StatusCode::OK, OK, None)
        }
        (&Method::POST, "/mock/script") => match Script::parse(body) {
            Ok(script) => {
                *shared.script.lock() = Arc::new(script.over(&shared.flags));
                json(StatusCode::OK, OK, None)
            }
            Err(message) => refusal(&message, "bad_script", None),
        },
        (method, path) => {
            error(StatusCode::NOT_FOUND, &format!("no such control: {method} {path}"), "unknown_url", None)
        }
    }
}

fn serialised(body: serde_json::Result<Vec<u8>>) -> Response<Scripted> {
    match body {
        Ok(body) => json(StatusCode::OK, body.into(), None),
        Err(cause) => error(StatusCode::INTERNAL_SERVER_ERROR, &cause.to_string(), "mock_failed", None),
    }
}

/// A plain answer, whole or broken as the script says.
fn plain(script: &Script, body: Vec<u8>, serial: u64, in_flight: InFlight) -> Response<Scripted> {
    let body = Bytes::from(body);
    let declared = body.len() as u64;
    let half = body.slice(..body.len() / 2);
    let (steps, declared) = match script.fault {
        Some(Fault::CloseAfterHeader) => (vec![Step::Flush, Step::Close], declared),
        Some(Fault::CloseMidStream) => (vec![Step::Send(half), Step::Flush, Step::Close], declared),
        Some(Fault::StallMidStream) => (vec![Step::Send(half), Step::Flush, Step::Stall], declared),
        Some(Fault::MalformedJson) => (vec![Step::Send(half.clone())], half.len() as u64),
        _ => (in_pieces(body), declared),
    };
    let mut response = Response::new(Scripted::new(steps, Some(declared), Some(in_flight)));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    numbered(response, serial)
}

fn in_pieces(mut body: Bytes) -> Vec<Step> {
    let mut steps = Vec::with_capacity(1);
    while body.len() > PLAIN_PIECE {
        steps.push(Step::Send(body.split_to(PLAIN_PIECE)));
    }
    steps.push(Step::Send(body));
    steps
}

/// A stream, each event in a write of its own, paced and broken as the script says.
fn stream(script: &Script, events: Events, serial: u64, in_flight: InFlight) -> Response<Scripted> {
    let steps = match script.fault {
        Some(Fault::CloseAfterHeader) => vec![Step::Flush, Step::Close],
        _ => stream_steps(script, events),
    };
    let mut response = Response::new(Scripted::new(steps, None, Some(in_flight)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    numbered(response, serial)
}

fn stream_steps(script: &Script, events: Events) -> Vec<Step> {
    let half = events.deltas.len().div_ceil(2);
    let mut steps = Vec::with_capacity(3 * (events.deltas.len() + 4));
    let mut send = |wait: Option<Duration>, event: Bytes| {
        if let Some(wait) = wait {
            steps.push(Step::Wait(wait));
        }
        steps.extend([Step::Send(event), Step::Flush]);
    };
    send(milliseconds(script.first_token_milliseconds), events.opening);
    for (number, delta) in events.deltas.into_iter().enumerate() {
        let broken = match script.fault {
            Some(Fault::CloseMidStream) if number == half => Some(Step::Close),
            Some(Fault::StallMidStream) if number == half => Some(Step::Stall),
            _ => None,
        };
        if let Some(step) = broken {
            steps.push(step);
            return steps;
        }
        let malformed = script.fault == Some(Fault::MalformedJson) && number + 1 == half;
        let delta = if malformed { cut(&delta) } else { delta };
        let pace = milliseconds(script.token_milliseconds).filter(|_| number > 0);
        send(pace, delta);
    }
    match script.fault {
        // With fewer than two deltas the half is all of them.
        Some(Fault::CloseMidStream) => steps.push(Step::Close),
        Some(Fault::StallMidStream) => steps.push(Step::Stall),
        Some(Fault::NoDone) => events.closing.into_iter().for_each(|event| send(None, event)),
        _ => events.closing.into_iter().chain([DONE]).for_each(|event| send(None, event)),
    }
    // The end of the body travels with the last event.
    if matches!(steps.last(), Some(Step::Flush)) {
        steps.pop();
    }
    steps
}

/// An event whose JSON ends half-way; its frame stays whole.
fn cut(event: &Bytes) -> Bytes {
    let mut bytes = event[..event.len() / 2].to_vec();
    bytes.extend_from_slice(b"\n\n");
    Bytes::from(bytes)
}

/// The answer of a provider that refuses or fails.
fn failure(status: StatusCode, in_flight: InFlight) -> Response<Scripted> {
    let message = format!("The mock was told to answer {status}");
    let mut response = error(status, &message, "mock_fault", Some(in_flight));
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn refusal(message: &str, code: &str, in_flight: Option<InFlight>) -> Response<Scripted> {
    error(StatusCode::BAD_REQUEST, message, code, in_flight)
}

fn error(status: StatusCode, message: &str, code: &str, in_flight: Option<InFlight>) -> Response<Scripted> {
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let body = openai::error(message, kind, code).unwrap_or_default();
    json(status, body.into(), in_flight)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn json(status: StatusCode, body: Bytes, mut in_flight: Option<InFlight>) -> Response<Scripted> {
    let length = body.len() as u64;
    // An empty body is never polled, so it is finished before it begins.
    let steps = if body.is_empty() { Vec::new() } else { vec![Step::Send(body)] };
    if let (true, Some(in_flight)) = (steps.is_empty(), &mut in_flight) {
        in_flight.finish();
    }
    let mut response = Response::new(Scripted::new(steps, Some(length), in_flight));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Providers number their answers in a header, and the SDKs show it.
fn numbered(mut response: Response<Scripted>, serial: u64) -> Response<Scripted> {
    if let Ok(value) = HeaderValue::try_from(format!("req_mock{serial:012}")) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

fn milliseconds(count: Option<u64>) -> Option<Duration> {
    count.filter(|&count| count > 0).map(Duration::from_millis)
}
