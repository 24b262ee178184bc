//! Realtime sessions: a WebSocket that is authenticated, limited in time and counted, and otherwise passed through.
//!
//! Sluice reads none of it, so on a route that scrubs the path must be listed in `unscrubbable_paths`.

use crate::answer::read_head;
use crate::attempt::outgoing_header;
use crate::dispatch::left;
use crate::head::{Notes, hop_by_hop};
use crate::live::Live;
use crate::plan::Plan;
use crate::refuse::{ErrorCode, Refusal};
use crate::upstreams::Target;
use http::Method;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_http::{RequestHeader, ResponseHeader};
use std::sync::Arc;
use std::time::Instant;

/// Whether the request wants to become a WebSocket (RFC 6455 section 4.1).
pub fn is_upgrade(head: &RequestHeader) -> bool {
    head.method == Method::GET
        && head.headers.get("upgrade").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// OpenAI's form of a key for browsers, which cannot set headers: a subprotocol of this name and the key.
pub const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// How a session went.
pub struct Tunnelled {
    /// The status that the client saw.
    pub status: u16,
    pub failure: Option<ErrorCode>,
}

/// Connects the client with the route's first target that answers, until one of them closes or the time is over.
pub async fn tunnel(
    plan: &Plan,
    session: &mut ServerSession,
    live: &Live,
    traceparent: &str,
    notes: &Notes,
) -> Result<Tunnelled, Refusal> {
    let route = &plan.route.route;
    let listed = route.unscrubbable_paths.iter().any(|prefix| plan.path.starts_with(prefix.as_str()));
    if !plan.route.scrub.is_empty() && !listed {
        return Err(Refusal::unscrubbable(
            "a WebSocket",
            "List the path in the route's `unscrubbable_paths` if it may leave as it is.",
        ));
    }
    let mut refused = None;
    for target in plan.route.targets.iter().chain(&plan.route.fallbacks) {
        match open(plan, target, session, live, traceparent).await {
            Ok((upstream, permit)) => {
                let tunnelled = relay(upstream, target, session, live, notes).await;
                drop(permit);
                return tunnelled;
            }
            Err(refusal) => {
                refused.get_or_insert(refusal);
            }
        }
    }
    Err(refused.unwrap_or_else(|| Refusal::new(ErrorCode::UpstreamConnectFailed, "The route has no target.")))
}

async fn open(
    plan: &Plan,
    target: &Arc<Target>,
    session: &ServerSession,
    live: &Live,
    traceparent: &str,
) -> Result<(Http1Session, crate::upstreams::Permit), Refusal> {
    let unavailable = |_| {
        Refusal::unavailable(
            format!("The provider `{}` is left alone for a moment.", target.provider.name),
            std::time::Duration::from_secs(1),
        )
    };
    let mut permit = target.enter(live.moment()).map_err(unavailable)?;
    let broken = |reason: &str| {
        Refusal::new(ErrorCode::UpstreamConnectFailed, format!("The provider `{}` {reason}.", target.provider.name))
    };
    let principal = &plan.admitted.principal;
    let credential = target.provider.credential_for(&principal.prepared, principal.key.tenant)?;
    let header = request(plan, target, session.req_header(), traceparent, credential)
        .map_err(|_| broken("cannot be sent these headers"))?;
    let peers = target.provider.peers();
    let peer = peers.first().ok_or_else(|| broken("has no address"))?;
    let opened = async {
        // A new one: a kept one that is closed meanwhile would look like a provider that refuses.
        let stream = live.connector.new_stream(&peer.http).await?;
        let mut upstream = HttpSession::H1(Http1Session::new_with_options(stream, &peer.http));
        upstream.set_read_timeout(Some(target.provider.config.header_timeout));
        upstream.write_request_header(Box::new(header)).await?;
        upstream.finish_request_body().await?;
        read_head(&mut upstream).await?;
        Ok::<_, Box<pingora_core::Error>>(upstream)
    };
    match opened.await {
        Ok(HttpSession::H1(upstream)) => {
            permit.succeed(std::time::Duration::ZERO, live.moment());
            Ok((upstream, permit))
        }
        Ok(_) | Err(_) => {
            permit.fail(live.moment());
            Err(broken("did not answer the handshake"))
        }
    }
}

/// The handshake for the provider: the client's, with the provider's key.
fn request(
    plan: &Plan,
    target: &Target,
    received: &RequestHeader,
    traceparent: &str,
    credential: Option<(http::HeaderName, String)>,
) -> pingora_core::Result<RequestHeader> {
    let mut header = RequestHeader::from(outgoing_header(received, traceparent, false)?);
    let provider = &target.provider;
    let below = plan.path.strip_prefix("/v1").unwrap_or(&plan.path);
    let prefix = if provider.family.is_none() { "/v1" } else { provider.base.prefix.as_str() };
    let query: Vec<String> = plan
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match (&target.model, pair.starts_with("model=")) {
            (Some(model), true) => format!("model={model}"),
            _ => pair.to_owned(),
        })
        .collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    header.set_raw_path(format!("{prefix}{below}{query}").as_bytes())?;
    header.insert_header("host", provider.host_header.as_str())?;
    header.insert_header("connection", "upgrade")?;
    header.insert_header("upgrade", "websocket")?;
    if let Some(protocols) = received.headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok()) {
        let kept: Vec<&str> =
            protocols.split(',').map(str::trim).filter(|name| !name.starts_with(KEY_PROTOCOL)).collect();
        header.remove_header("sec-websocket-protocol");
        if !kept.is_empty() {
            header.insert_header("sec-websocket-protocol", kept.join(", "))?;
        }
    }
    if let Some((name, value)) = credential {
        header.insert_header(name, value.as_str())?;
    }
    Ok(header)
}

async fn relay(
    mut upstream: Http1Session,
    target: &Target,
    session: &mut ServerSession,
    live: &Live,
    notes: &Notes,
) -> Result<Tunnelled, Refusal> {
    let unanswered = || Refusal::new(ErrorCode::UpstreamProtocolError, "The provider's answer has no head.");
    let answer = upstream.resp_header().cloned().ok_or_else(unanswered)?;
    let status = answer.status.as_u16();
    if status != 101 {
        return Err(Refusal::new(
            ErrorCode::UpstreamProtocolError,
            format!("The provider answered the WebSocket handshake with {status}."),
        ));
    }
    let build = || -> pingora_core::Result<ResponseHeader> {
        let mut header = ResponseHeader::build_no_case(101, Some(answer.headers.len() + notes.len()))?;
        let hops = hop_by_hop(&answer.headers);
        for (name, value) in &answer.headers {
            if !hops(name.as_str()) {
                header.append_header(name, value.clone())?;
            }
        }
        header.insert_header("connection", "upgrade")?;
        header.insert_header("upgrade", "websocket")?;
        for (name, value) in notes {
            header.insert_header(name, value)?;
        }
        Ok(header)
    };
    let header = build().map_err(|_| unanswered())?;
    session.write_response_header(Box::new(header)).await.map_err(|_| left())?;
    upstream.maybe_upgrade_body_writer();
    upstream.read_timeout = None;
    session.set_read_timeout(None);
    let over = Instant::now() + target.provider.config.websocket_timeout;
    let mut failure = None;
    loop {
        let remaining = over.saturating_duration_since(Instant::now());
        tokio::select! {
            said = session.read_request_body() => match said {
                Ok(Some(bytes)) => {
                    live.metrics.websocket_bytes(true, bytes.len());
                    if upstream.write_body(&bytes).await.is_err() {
                        failure = Some(ErrorCode::UpstreamStreamInterrupted);
                        break;
                    }
                }
                // The client closed; dropping the provider's connection tells it.
                Ok(None) | Err(_) => break,
            },
            said = upstream.read_body_bytes() => match said {
                Ok(Some(bytes)) => {
                    live.metrics.websocket_bytes(false, bytes.len());
                    if session.write_response_body(bytes, false).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    failure = Some(ErrorCode::UpstreamStreamInterrupted);
                    break;
                }
            },
            () = tokio::time::sleep(remaining) => {
                failure = Some(ErrorCode::UpstreamTimeout);
                break;
            }
        }
    }
    upstream.shutdown().await;
    Ok(Tunnelled { status: 101, failure })
}
