//! One request to the mock: count it, read it, choose the script, keep it, answer it as told.

use super::body::{Closed, Scripted, Step};
use super::delivery::{self, Answer, JSON};
use super::dialect::Dialect;
use super::ledger::{self, InFlight, Requests, Stats};
use super::line::Line;
use super::reply::Order;
use super::script::{Fault, Script};
use super::{anthropic, gemini, openai, realtime, responses};
use crate::statistics::Random;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What all connections share.
pub(super) struct Shared {
    /// The command line's script, which a posted one is laid over.
    flags: Script,
    /// The script in force; a request takes one reference and keeps it.
    script: Mutex<Arc<InForce>>,
    /// How many requests the scripts of headers have made fail, by the header `x-custom`.
    failed: Mutex<HashMap<Vec<u8>, u64>>,
    pub(super) stats: Stats,
    requests: Requests,
    /// Numbers the answers, so that each has an id of its own.
    serial: AtomicU64,
}

/// A script since it was set.
struct InForce {
    script: Script,
    /// How many requests it has made fail.
    failed: AtomicU64,
}

impl InForce {
    fn new(script: Script) -> Arc<InForce> {
        Arc::new(InForce { script, failed: AtomicU64::new(0) })
    }
}

impl Shared {
    pub(super) fn new(flags: Script) -> Shared {
        Shared {
            script: Mutex::new(InForce::new(flags.clone())),
            flags,
            failed: Mutex::default(),
            stats: Stats::default(),
            requests: Requests::default(),
            serial: AtomicU64::new(1),
        }
    }
}

/// Answers one request; the error closes the connection without an answer.
pub(super) async fn answer(line: Arc<Line>, mut request: Request<Incoming>) -> Result<Response<Scripted>, Closed> {
    let shared = &*line.shared;
    let upgrade = realtime::upgrade(&mut request);
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path.starts_with("/mock/") {
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        return Ok(control(shared, &head, &body));
    }
    // From here on, being dropped means that the client has gone.
    let mut in_flight = InFlight::begin(Arc::clone(&line));
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let dialect = Dialect::of(path);
    let (in_force, fault) = match script_for(shared, &head) {
        Ok(told) => told,
        Err(message) => return Ok(refusal(dialect, &message, "bad_script", Some(in_flight))),
    };
    let script = &in_force.script;
    if script.record != Some(false) {
        shared.requests.keep(&head, &body);
    }
    in_flight.close_after(script.idle_close_milliseconds.filter(|&count| count > 0).map(Duration::from_millis));
    if !script.expected_authorization.as_ref().is_none_or(|expected| is_authorized(&head.headers, expected)) {
        let message = "Incorrect API key provided.";
        return Ok(error(dialect, StatusCode::UNAUTHORIZED, message, "invalid_api_key", Some(in_flight)));
    }
    let serial = shared.serial.fetch_add(1, Relaxed);
    let mut random = Random::of(serial);
    if let Some(latency) = script.latency_milliseconds.and_then(|latency| latency.draw(&mut random)) {
        tokio::time::sleep(latency).await;
    }
    match fault {
        Fault::StallBeforeHeader => future::pending().await,
        Fault::ResetBeforeHeader => {
            in_flight.reset();
            future::pending().await
        }
        Fault::CloseBeforeHeader => {
            in_flight.finish();
            return Err(Closed);
        }
        Fault::Status(status) => return Ok(failure(dialect, status, script, in_flight)),
        Fault::ContextLength => {
            let body = dialect.context_length();
            return Ok(whole(StatusCode::BAD_REQUEST, JSON, body.into(), Some(in_flight)));
        }
        Fault::HtmlError => return Ok(whole(StatusCode::BAD_GATEWAY, HTML, GATEWAY_PAGE, Some(in_flight))),
        Fault::WrongContentType => return Ok(whole(StatusCode::OK, HTML, LOGIN_PAGE, Some(in_flight))),
        _ => {}
    }
    if let ("/v1/realtime", Some(upgrade)) = (path, upgrade) {
        in_flight.upgrade(upgrade);
        return Ok(realtime::agreement(&head.headers));
    }
    let order = Order { script, fault, serial };
    let Some(answer) = say(order, &head, &body) else {
        let message = format!("Unknown request URL: {} {path}", head.method);
        return Ok(error(dialect, StatusCode::NOT_FOUND, &message, "unknown_url", Some(in_flight)));
    };
    match answer {
        // hyper never asks for the body of an answer to HEAD.
        Ok(_) if head.method == Method::HEAD => Ok(whole(StatusCode::OK, JSON, Bytes::new(), Some(in_flight))),
        Ok(Answer::Plain(body)) => Ok(delivery::plain(order, dialect, body, in_flight)),
        Ok(Answer::Stream(stream)) => Ok(delivery::stream(order, stream, in_flight)),
        Err(error) => {
            let message = format!("We could not parse the JSON body of your request: {error}");
            Ok(refusal(dialect, &message, "invalid_json", Some(in_flight)))
        }
    }
}

/// What is answered to a path; nothing to a path of no provider.
fn say(order: Order, head: &Parts, body: &[u8]) -> Option<serde_json::Result<Answer>> {
    const MODEL: &str = "mock";
    let (path, query) = (head.uri.path(), head.uri.query());
    let other = || openai::other(head.method.as_str(), ledger::target(&head.uri), body);
    Some(match (&head.method, path) {
        (&Method::POST, "/v1/chat/completions") => openai::chat(order, body, MODEL),
        (&Method::POST, "/v1/completions") => openai::completion(order, body, MODEL),
        (&Method::POST, "/v1/embeddings") => openai::embeddings(body, MODEL),
        (&Method::POST, "/v1/responses") => responses::responses(order, body),
        (&Method::POST, "/v1/messages") => anthropic::messages(order, body),
        (&Method::POST, "/v1/messages/count_tokens") => anthropic::count_tokens(body),
        (&Method::GET, "/v1/models") => Ok(Answer::Plain(openai::MODELS.into())),
        (&Method::GET, "/v1beta/models") => Ok(Answer::Plain(gemini::MODELS.into())),
        (&Method::POST, _) if let Some((model, method)) = gemini::method(path, query) => {
            gemini::answer(order, model, method, body)
        }
        (&Method::POST, _) if let Some((deployment, operation)) = azure(path) => {
            let versioned = query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("api-version=")));
            match operation {
                _ if !versioned => return None,
                "chat/completions" => openai::chat(order, body, deployment),
                "completions" => openai::completion(order, body, deployment),
                "embeddings" => openai::embeddings(body, deployment),
                _ => other(),
            }
        }
        _ if ["/v1/", "/v1beta/", "/v1alpha/", "/openai/"].iter().any(|prefix| path.starts_with(prefix)) => other(),
        _ => return None,
    })
}

/// The deployment and the operation in a path of Azure's.
fn azure(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/openai/deployments/")?.split_once('/')
}

/// The script for this request, its own header laid over the default, and the fault that hits it. Nothing is copied
/// when there is no header.
fn script_for(shared: &Shared, head: &Parts) -> Result<(Arc<InForce>, Fault), String> {
    let default = Arc::clone(&shared.script.lock());
    let count = || default.failed.fetch_add(1, Relaxed);
    let Some(header) = head.headers.get("x-mock") else {
        let fault = fault(&default.script, count);
        return Ok((default, fault));
    };
    let own = Script::parse(header.as_bytes()).map_err(|message| format!("x-mock: {message}"))?;
    let counted_apart = own.fault_times.is_some();
    let script = own.over(&default.script);
    let fault = match counted_apart {
        true => fault(&script, || {
            let custom = head.headers.get("x-custom").map_or(&b""[..], HeaderValue::as_bytes);
            let mut failed = shared.failed.lock();
            let count = failed.entry(custom.to_vec()).or_default();
            *count += 1;
            *count - 1
        }),
        false => fault(&script, count),
    };
    Ok((InForce::new(script), fault))
}

/// The script's fault, unless it has hit often enough; `count` counts this request and gives how many came before.
fn fault(script: &Script, count: impl FnOnce() -> u64) -> Fault {
    match (script.fault.unwrap_or(Fault::None), script.fault_times) {
        (Fault::None, _) => Fault::None,
        (fault, Some(times)) if count() < times => fault,
        (_, Some(_)) => Fault::None,
        (fault, None) => fault,
    }
}

/// Whether one of the headers that carry credentials holds the expected one.
fn is_authorized(headers: &HeaderMap, expected: &str) -> bool {
    let names = [AUTHORIZATION.as_str(), "x-api-key", "api-key", "x-goog-api-key"];
    names.iter().filter_map(|name| headers.get(*name)).any(|value| {
        let value = value.as_bytes();
        value == expected.as_bytes() || value.strip_prefix(b"Bearer ") == Some(expected.as_bytes())
    })
}

/// The endpoints that a test drives the mock with.
fn control(shared: &Shared, head: &Parts, body: &[u8]) -> Response<Scripted> {
    const OK: Bytes = Bytes::from_static(br#"{"ok":true}"#);
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/mock/stats") => serialised(serde_json::to_vec(&shared.stats.view())),
        (&Method::GET, "/mock/requests") => serialised(shared.requests.to_json()),
        (&Method::DELETE, "/mock/requests") => {
            shared.requests.clear();
            whole(StatusCode::OK, JSON, OK, None)
        }
        (&Method::POST, "/mock/script") => match Script::parse(body) {
            Ok(script) => {
                *shared.script.lock() = InForce::new(script.over(&shared.flags));
                whole(StatusCode::OK, JSON, OK, None)
            }
            Err(message) => refusal(Dialect::OpenAi, &message, "bad_script", None),
        },
        (method, path) => {
            let message = format!("no such control: {method} {path}");
            error(Dialect::OpenAi, StatusCode::NOT_FOUND, &message, "unknown_url", None)
        }
    }
}

fn serialised(body: serde_json::Result<Vec<u8>>) -> Response<Scripted> {
    match body {
        Ok(body) => whole(StatusCode::OK, JSON, body.into(), None),
        Err(cause) => {
            error(Dialect::OpenAi, StatusCode::INTERNAL_SERVER_ERROR, &cause.to_string(), "mock_failed", None)
        }
    }
}

/// The answer of a provider that refuses or fails.
fn failure(dialect: Dialect, status: StatusCode, script: &Script, in_flight: InFlight) -> Response<Scripted> {
    let message = format!("The mock was told to answer {status}");
    let mut response = error(dialect, status, &message, "mock_fault", Some(in_flight));
    let usual = script.retry_after_ms.is_none() && status == StatusCode::TOO_MANY_REQUESTS;
    let retry_after = script.retry_after.as_deref().or(usual.then_some("1"));
    if let Some(Ok(value)) = retry_after.filter(|value| !value.is_empty()).map(HeaderValue::from_str) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    if let Some(Ok(value)) = script.retry_after_ms.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert("retry-after-ms", value);
    }
    response
}

fn refusal(dialect: Dialect, message: &str, code: &str, in_flight: Option<InFlight>) -> Response<Scripted> {
    error(dialect, StatusCode::BAD_REQUEST, message, code, in_flight)
}

fn error(
    dialect: Dialect,
    status: StatusCode,
    message: &str,
    code: &str,
    in_flight: Option<InFlight>,
) -> Response<Scripted> {
    whole(status, JSON, dialect.error(status, message, Some(code), None).into(), in_flight)
}

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What a gateway says in the place of the provider behind it.
const GATEWAY_PAGE: Bytes = Bytes::from_static(
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n\
      </body>\r\n</html>\r\n",
);

/// What a captive portal says in the place of everybody.
const LOGIN_PAGE: Bytes = Bytes::from_static(
    b"<!doctype html>\n<html><head><title>Log in</title></head><body>Please log in.</body></html>\n",
);

/// An answer that no fault breaks.
fn whole(status: StatusCode, kind: HeaderValue, body: Bytes, mut in_flight: Option<InFlight>) -> Response<Scripted> {
    let length = body.len() as u64;
    // An empty body is never polled, so it is finished before it begins.
    let steps = if body.is_empty() { Vec::new() } else { vec![Step::Send(body)] };
    if let (true, Some(in_flight)) = (steps.is_empty(), &mut in_flight) {
        in_flight.finish();
    }
    let mut response = Response::new(Scripted::new(steps, Some(length), in_flight));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
