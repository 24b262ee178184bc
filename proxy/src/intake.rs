//! The request's body, bounded.

use crate::admit::Admitted;
use crate::head::split_key;
use crate::refuse::{ErrorCode, Refusal};
use crate::timer;
use http::Method;
use pingora_core::ErrorType;
use pingora_core::protocols::http::ServerSession;
use sluice_wire::{Dialect, Envelope};
use std::time::Duration;

/// An admitted request that was read as far as Sluice must.
pub struct Intake {
    pub admitted: Admitted,
    /// Without the query.
    pub path: String,
    /// Without the parameter `key`.
    pub query: String,
    pub body: Body,
}

pub enum Body {
    Json(Box<Envelope>),
    /// The request has none.
    Empty,
    /// Not JSON: still at the client, to be streamed and never buffered.
    Unread,
}

/// Reads a JSON body up to the configured limit; leaves any other where it is.
pub async fn intake(session: &mut ServerSession, admitted: Admitted) -> Result<Intake, Refusal> {
    let limit = admitted.principal.prepared.config.server.max_body_bytes;
    let timeout = admitted.principal.prepared.config.server.body_timeout;
    let head = session.req_header();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().map(|query| split_key(query).1).unwrap_or_default();
    let declared = head.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > limit) {
        return Err(Refusal::body_too_large(limit));
    }
    let dialect = match (path.as_str(), &head.method) {
        (EXPLAIN, _) => Dialect::Chat,
        (path, &Method::POST) => Dialect::of_path(path),
        // Reading stored completions, for example: the paths of conversations, but none.
        _ => Dialect::Other,
    };
    let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
    let json =
        content_type.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"));
    let expects_continue =
        head.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    // Bounded below, by timers that cost less.
    session.set_read_timeout(None);
    if session.is_body_empty() && dialect == Dialect::Other {
        return Ok(Intake { admitted, path, query, body: Body::Empty });
    }
    if expects_continue && session.write_continue_response().await.is_err() {
        return Err(departed());
    }
    if !json && dialect == Dialect::Other {
        return Ok(Intake { admitted, path, query, body: Body::Unread });
    }
    let bytes = read(session, limit, timeout, declared.unwrap_or(0)).await?;
    let envelope = Envelope::parse(dialect, bytes).map_err(Refusal::envelope)?;
    Ok(Intake { admitted, path, query, body: Body::Json(Box::new(envelope)) })
}

/// Shows what would be sent, without sending it.
pub const EXPLAIN: &str = "/v1/explain";

async fn read(
    session: &mut ServerSession,
    limit: usize,
    timeout: Duration,
    expected: usize,
) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::with_capacity(expected);
    loop {
        let Ok(read) = timer::timeout(timeout, session.read_request_body()).await else {
            return Err(too_slow(timeout));
        };
        match read {
            Ok(Some(chunk)) => {
                if body.len() + chunk.len() > limit {
                    return Err(Refusal::body_too_large(limit));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(body),
            Err(error) => {
                return Err(match error.etype() {
                    ErrorType::ConnectionClosed | ErrorType::ReadError => departed(),
                    _ => Refusal::new(
                        ErrorCode::InvalidRequest,
                        "The request body is malformed (chunked coding or framing).",
                    )
                    .with_unread_body(),
                });
            }
        }
    }
}

fn too_slow(timeout: Duration) -> Refusal {
    let message =
        format!("The request body stalled for {} seconds (`server.body_timeout_seconds`).", timeout.as_secs());
    Refusal::new(ErrorCode::BodyTimeout, message).with_unread_body()
}

fn departed() -> Refusal {
    Refusal::new(ErrorCode::ClientDeparted, "The client left while sending its request.").with_unread_body()
}
