//! The WebSocket endpoint: greets, echoes, and takes part in the close handshake.

use super::body::Scripted;
use super::ledger::InFlight;
use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The first message of every session.
const GREETING: &str = r#"{"type":"session.created"}"#;

/// A WebSocket that begins when the answer with status 101 has been written.
pub(super) struct Session {
    upgrade: OnUpgrade,
    in_flight: InFlight,
}

/// Whether a client asks for a WebSocket.
fn is_asked(headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers.get(UPGRADE).is_some_and(websocket) && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// The upgrade that hyper attaches to a request; it must be taken before the request is taken apart.
pub(super) fn upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    is_asked(request.headers()).then(|| hyper::upgrade::on(request))
}

/// Agrees to the upgrade. Of the subprotocols the first is chosen, as a browser fails without one that it offered.
pub(super) fn agreement(headers: &HeaderMap) -> Response<Scripted> {
    let mut response = Response::new(Scripted::new(Vec::new(), None, None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let key = headers.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key)) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|offered| offered.to_str().ok());
    let first = offered.and_then(|offered| offered.split(',').next()).map(str::trim);
    if let Some(Ok(protocol)) = first.map(HeaderValue::from_str) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

impl Session {
    pub(super) fn new(upgrade: OnUpgrade, in_flight: InFlight) -> Session {
        Session { upgrade, in_flight }
    }

    /// Echoes until the client closes, which completes the exchange, or is gone, which cancels it.
    pub(super) async fn run(mut self) {
        let Ok(connection) = self.upgrade.await else {
            return;
        };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
        if socket.send(Message::text(GREETING)).await.is_err() {
            return;
        }
        loop {
            match socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                // Pings and the closing message are answered by the library, with the next read.
                Some(Ok(_)) => {}
                Some(Err(_)) => return,
                None => {
                    self.in_flight.finish();
                    return;
                }
            }
        }
    }
}
