//! The request to its provider, up to the head of the answer.

use crate::head::{CREDENTIALS, is_hop_by_hop};
use crate::live::{Live, RouteEntry};
use crate::refuse::{ErrorCode, Refusal};
use crate::scrub::{Encoded, Scrubbed};
use bytes::Bytes;
use http::Method;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::{HttpSession as Http1Session, http_req_header_to_wire};
use pingora_core::upstreams::peer::Peer;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// An answer that has begun.
pub struct Upstream {
    pub scrubbed: Scrubbed,
    pub session: HttpSession,
    pub started: Instant,
}

/// How long a wait may last before the client is watched beside it. A quick answer then costs no extra system call,
/// and a departure is still noticed long before 100 ms have passed.
const WATCH_AFTER: Duration = Duration::from_millis(10);

/// Runs `work` until it ends or the client leaves, which ends it.
pub async fn unless_departed<T>(session: &mut ServerSession, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return Some(done),
        () = pingora_timeout::sleep(WATCH_AFTER) => {}
    }
    tokio::select! {
        biased;
        done = &mut work => Some(done),
        // With pipelining on, bytes of a next request are kept and this goes on waiting; it ends when the client
        // closes its connection or resets its stream.
        _ = session.read_body_or_idle(true) => None,
    }
}

/// Sends the request and waits for the answer's head. A connection from the pool that fails before any byte of an
/// answer had gone stale, and the request is sent again on another one.
pub async fn dispatch(
    scrubbed: Scrubbed,
    session: &mut ServerSession,
    live: &Live,
    traceparent: &str,
) -> Result<Upstream, Refusal> {
    let started = Instant::now();
    let plan = &scrubbed.composed.recalled.plan;
    let route = Arc::clone(&plan.route);
    let deadline = started + route.provider.total_timeout;
    let encoded = scrubbed.encode();
    let reads_answer = !matches!(encoded, Encoded::Unread);
    let length = match &encoded {
        Encoded::Body(body) => Some(body.len()),
        Encoded::Empty => None,
        Encoded::Unread => {
            session.req_header().headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok())
        }
    };
    let header = match request_header(
        session.req_header(),
        &plan.path,
        &plan.query,
        &route,
        length,
        &encoded,
        reads_answer,
        traceparent,
    ) {
        Ok(header) => header,
        Err(error) => {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("The request cannot be sent on: {}", error.etype().as_str()),
            ));
        }
    };
    let body = match encoded {
        Encoded::Body(body) => Some(Bytes::from(body)),
        Encoded::Empty | Encoded::Unread => None,
    };
    loop {
        // The peer's own options bound the time of TCP and TLS together.
        let (stream, reused) = match unless_departed(session, live.connector.get_stream(&route.peer)).await {
            None => return Err(left()),
            Some(Err(error)) => return Err(connect_failed(&error, &route)),
            Some(Ok(connected)) => connected,
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let patience = route.provider.header_timeout.min(remaining);
        let sent = match (&body, reads_answer) {
            (Some(body), true) => unless_departed(session, send_whole(stream, &header, body, &route, patience)).await,
            (_, reads_answer) => {
                let mut upstream = open(stream, &route, patience);
                upstream.set_write_timeout(Some(route.provider.idle_timeout));
                if !reads_answer {
                    pump(&mut upstream, &header, session, route.provider.header_timeout).await?;
                }
                unless_departed(session, async {
                    if reads_answer {
                        upstream.write_request_header(Box::new(header.clone())).await?;
                        upstream.finish_request_body().await?;
                    }
                    head(upstream).await
                })
                .await
            }
        };
        match sent {
            None => return Err(left()),
            Some(Ok(upstream)) => return Ok(Upstream { session: upstream, scrubbed, started }),
            Some(Err(error)) => match error.etype() {
                ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                    return Err(timed_out("waiting for the answer's header", patience));
                }
                _ if reused && reads_answer && Instant::now() < deadline => continue,
                ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => {
                    return Err(Refusal::new(
                        ErrorCode::UpstreamProtocolError,
                        "The provider closed the connection without an answer.",
                    ));
                }
                _ => return Err(Refusal::new(ErrorCode::UpstreamProtocolError, "The provider's answer is not HTTP.")),
            },
        }
    }
}

fn open(stream: Stream, route: &RouteEntry, patience: Duration) -> HttpSession {
    let mut upstream = HttpSession::H1(Http1Session::new_with_options(stream, &route.peer));
    upstream.set_read_timeout(Some(patience));
    upstream
}

/// Sends a request whose body is known, and waits for the answer's head.
///
/// pingora's own client writes head and body apart, which costs a system call and wakes the provider twice; so both
/// go out in one write here, before the client is made that reads the answer.
async fn send_whole(
    mut stream: Stream,
    header: &RequestHeader,
    body: &[u8],
    route: &RouteEntry,
    patience: Duration,
) -> Result<HttpSession, Box<Error>> {
    let mut wire = http_req_header_to_wire(header).ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
    let writing = async {
        // A copy is cheaper than a second system call up to about this size.
        if body.len() <= 64 << 10 {
            wire.extend_from_slice(body);
            stream.write_all(&wire).await?;
        } else {
            stream.write_all(&wire).await?;
            stream.write_all(body).await?;
        }
        stream.flush().await
    };
    match pingora_timeout::timeout(route.provider.idle_timeout, writing).await {
        Ok(Ok(())) => head(open(stream, route, patience)).await,
        Ok(Err(error)) => Err(Error::because(ErrorType::WriteError, "while writing the request", error)),
        Err(_) => Err(Error::new(ErrorType::WriteTimedout)),
    }
}

/// Waits for the answer's head; informational responses before it are passed over.
async fn head(mut upstream: HttpSession) -> Result<HttpSession, Box<Error>> {
    loop {
        upstream.read_response_header().await?;
        match upstream.response_header() {
            Some(header) if header.status.is_informational() && header.status.as_u16() != 101 => {}
            Some(_) => return Ok(upstream),
            None => return Err(Error::new(ErrorType::InvalidHTTPHeader)),
        }
    }
}

/// Puts the connection of an answer that was read to its end back into the pool.
pub async fn release(session: HttpSession, route: &RouteEntry, live: &Live) {
    let HttpSession::H1(mut http1) = session else { return };
    http1.respect_keepalive();
    if let Some(stream) = http1.reuse().await {
        live.connector.release_stream(stream, route.peer.reuse_hash(), Some(route.provider.idle_timeout));
    }
}

/// Streams a body that Sluice does not read.
async fn pump(
    upstream: &mut HttpSession,
    header: &RequestHeader,
    session: &mut ServerSession,
    patience: Duration,
) -> Result<(), Refusal> {
    let lost = |_| {
        Refusal::new(ErrorCode::UpstreamProtocolError, "The provider stopped reading the request.").with_unread_body()
    };
    upstream.write_request_header(Box::new(header.clone())).await.map_err(lost)?;
    loop {
        match tokio::time::timeout(patience, session.read_request_body()).await {
            Ok(Ok(Some(chunk))) => upstream.write_request_body(chunk, false).await.map_err(lost)?,
            Ok(Ok(None)) => return upstream.finish_request_body().await.map_err(lost),
            Ok(Err(_)) => return Err(left().with_unread_body()),
            Err(_) => return Err(Refusal::new(ErrorCode::BodyTimeout, "The request body stalled.").with_unread_body()),
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn request_header(
    received: &RequestHeader,
    path: &str,
    query: &str,
    route: &RouteEntry,
    length: Option<usize>,
    encoded: &Encoded,
    reads_answer: bool,
    traceparent: &str,
) -> pingora_core::Result<RequestHeader> {
    let mut target = format!("{}{}", route.base.prefix, path.strip_prefix("/v1").unwrap_or(path));
    if !query.is_empty() {
        target.push('?');
        target.push_str(query);
    }
    let mut header =
        RequestHeader::build_no_case(received.method.clone(), target.as_bytes(), Some(received.headers.len() + 6))?;
    for (field, value) in &received.headers {
        let name = field.as_str();
        let ours = name.starts_with("x-sluice-")
            || matches!(name, "host" | "content-length" | "expect" | "traceparent")
            || (reads_answer && name == "accept-encoding");
        if !ours && !CREDENTIALS.contains(&name) && !is_hop_by_hop(name, &received.headers) {
            header.append_header(field, value.clone())?;
        }
    }
    header.insert_header("host", route.host_header.as_str())?;
    header.insert_header("traceparent", traceparent)?;
    if reads_answer {
        header.insert_header("accept-encoding", "identity")?;
    }
    if let Some(authorization) = &route.authorization {
        header.insert_header("authorization", authorization.as_str())?;
    }
    match (encoded, length) {
        (Encoded::Empty, _)
            if matches!(received.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS) => {}
        (Encoded::Empty, _) => header.insert_header("content-length", 0)?,
        (_, Some(length)) => header.insert_header("content-length", length)?,
        (_, None) => header.insert_header("transfer-encoding", "chunked")?,
    }
    Ok(header)
}

pub fn left() -> Refusal {
    Refusal::new(ErrorCode::ClientDeparted, "The client left.")
}

fn timed_out(phase: &str, after: Duration) -> Refusal {
    Refusal::new(ErrorCode::UpstreamTimeout, format!("The provider took more than {} ms {phase}.", after.as_millis()))
}

fn connect_failed(error: &Error, route: &RouteEntry) -> Refusal {
    let provider = &route.provider_name;
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            timed_out("connecting", route.provider.connect_timeout)
        }
        kind => Refusal::new(
            ErrorCode::UpstreamConnectFailed,
            format!("Cannot connect to the provider `{provider}`: {}.", kind.as_str()),
        ),
    }
}
