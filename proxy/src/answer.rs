//! A provider's answer as it is read: with a limit to every wait, and decompressed where that was forced on us.

use crate::http1::Exchange;
use crate::live::Live;
use crate::refuse::ErrorCode;
use crate::timer;
use crate::upstreams::{Peer, Permit, Target};
use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use http::request::Parts;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One exchange with a provider, in its protocol.
pub enum Hop {
    Http1(Box<Exchange>),
    /// Over HTTP/2 by pingora, or over HTTP/1.1 where a provider that should speak HTTP/2 does not.
    Http2(Box<HttpSession>),
}

impl Hop {
    /// Writes the head of a request whose body follows.
    pub async fn send_head(&mut self, head: Parts, path: &str) -> Result<(), Box<Error>> {
        match self {
            Hop::Http1(exchange) => exchange.send_head(&head, path).await,
            Hop::Http2(session) => Box::pin(session.write_request_header(Box::new(with_path(head, path)?))).await,
        }
    }

    /// Writes a piece of the body.
    pub async fn send_piece(&mut self, piece: Bytes) -> Result<(), Box<Error>> {
        match self {
            Hop::Http1(exchange) => exchange.send_piece(&piece).await,
            Hop::Http2(session) => session.write_request_body(piece, false).await,
        }
    }

    /// Ends the body.
    pub async fn finish(&mut self) -> Result<(), Box<Error>> {
        match self {
            Hop::Http1(exchange) => exchange.finish().await,
            Hop::Http2(session) => session.finish_request_body().await,
        }
    }

    /// Waits for the answer's head; informational ones before it are passed over.
    pub async fn read_head(&mut self) -> Result<ResponseHeader, Box<Error>> {
        match self {
            Hop::Http1(exchange) => exchange.read_head().await,
            Hop::Http2(session) => read_head(session).await,
        }
    }
}

/// The same on a session of pingora's.
pub async fn read_head(session: &mut HttpSession) -> Result<ResponseHeader, Box<Error>> {
    loop {
        session.read_response_header().await?;
        match session.response_header() {
            Some(header) if header.status.is_informational() && header.status.as_u16() != 101 => {}
            Some(header) => return Ok(header.clone()),
            None => return Err(Error::new(ErrorType::InvalidHTTPHeader)),
        }
    }
}

/// The head of a request as pingora takes it.
pub fn with_path(head: Parts, path: &str) -> pingora_core::Result<RequestHeader> {
    let mut header = RequestHeader::from(head);
    header.set_raw_path(path.as_bytes())?;
    Ok(header)
}

/// The body of an answer, and the connection and the place at the target that go with it.
pub struct Reader {
    pub hop: Hop,
    pub target: Arc<Target>,
    pub permit: Permit,
    /// What the connection is to.
    peer: Arc<Peer>,
    inflate: Option<GzDecoder<Vec<u8>>>,
    idle: Duration,
    /// When the whole attempt must be over.
    pub deadline: Instant,
    ended: bool,
}

impl Reader {
    pub fn new(hop: Hop, peer: Arc<Peer>, target: Arc<Target>, permit: Permit, deadline: Instant) -> Reader {
        let idle = target.provider.config.idle_timeout;
        Reader { hop, target, permit, peer, inflate: None, idle, deadline, ended: false }
    }

    /// Undoes `content-encoding: gzip`, which a provider may send although it was asked not to.
    pub fn inflate(&mut self) {
        self.inflate = Some(GzDecoder::new(Vec::new()));
    }

    /// The next piece of the body; `None` at its end. Waits at most for the idle time-out, or until `limit`.
    pub async fn next(&mut self, limit: Option<Instant>) -> Result<Option<Bytes>, ErrorCode> {
        let until = limit.map_or(self.deadline, |limit| limit.min(self.deadline));
        self.read(Some(until)).await
    }

    /// The same without a limit of its own: the caller measures how long the provider is silent.
    pub async fn next_unlimited(&mut self) -> Result<Option<Bytes>, ErrorCode> {
        self.read(None).await
    }

    /// The longest silence between two pieces.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    async fn read(&mut self, until: Option<Instant>) -> Result<Option<Bytes>, ErrorCode> {
        loop {
            let read = match (&mut self.hop, until) {
                (Hop::Http1(exchange), until) => {
                    exchange.set_read_limits(until.map(|_| self.idle), until);
                    exchange.read_body().await
                }
                (Hop::Http2(session), None) => session.read_response_body().await,
                (Hop::Http2(session), Some(until)) => {
                    let patience = until.saturating_duration_since(Instant::now()).min(self.idle);
                    if patience.is_zero() {
                        return Err(ErrorCode::UpstreamTimeout);
                    }
                    match timer::timeout(patience, session.read_response_body()).await {
                        Ok(read) => read,
                        Err(_) => return Err(ErrorCode::UpstreamTimeout),
                    }
                }
            };
            let read = read.map_err(|error| match error.etype() {
                ErrorType::ReadTimedout => ErrorCode::UpstreamTimeout,
                _ => ErrorCode::UpstreamStreamInterrupted,
            })?;
            self.ended = read.is_none();
            let Some(decoder) = &mut self.inflate else { return Ok(read) };
            let broken = |_| ErrorCode::UpstreamProtocolError;
            match read {
                Some(piece) => {
                    decoder.write_all(&piece).map_err(broken)?;
                    // What the decoder still holds back comes out here, so that a stream keeps flowing.
                    decoder.flush().map_err(broken)?;
                    let plain = std::mem::take(decoder.get_mut());
                    if !plain.is_empty() {
                        return Ok(Some(Bytes::from(plain)));
                    }
                }
                None => {
                    decoder.try_finish().map_err(|_| ErrorCode::UpstreamStreamInterrupted)?;
                    let rest = std::mem::take(decoder.get_mut());
                    self.inflate = None;
                    return Ok((!rest.is_empty()).then(|| Bytes::from(rest)));
                }
            }
        }
    }

    /// The whole body, up to `most` bytes; beyond them it is no answer that can be held.
    pub async fn whole(&mut self, most: usize) -> Result<Bytes, ErrorCode> {
        let Some(first) = self.next(None).await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next(None).await? else { return Ok(first) };
        let mut held = BytesMut::with_capacity(first.len() + second.len());
        held.extend_from_slice(&first);
        held.extend_from_slice(&second);
        while let Some(piece) = self.next(None).await? {
            if held.len() + piece.len() > most {
                return Err(ErrorCode::UpstreamProtocolError);
            }
            held.extend_from_slice(&piece);
        }
        Ok(held.freeze())
    }

    /// Waits a moment for the end of a body whose content is complete, so that its connection can be used again.
    pub async fn settle(&mut self) {
        const MOMENT: Duration = Duration::from_millis(50);
        while !self.ended {
            match self.next(Some(Instant::now() + MOMENT)).await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Puts the connection back into the pool, if the body was read to its end.
    pub async fn release(self, live: &Live) {
        if !self.ended {
            return;
        }
        let peer = self.peer;
        match self.hop {
            Hop::Http1(exchange) => {
                if let Some(stream) = exchange.into_kept() {
                    self.target.provider.state.connections.keep(peer.key, stream, self.idle);
                }
            }
            // Rare, and large as a future: it would be moved along with every exchange.
            Hop::Http2(session) => {
                Box::pin(live.http2.release_http_session(*session, &peer.http, Some(self.idle))).await;
            }
        }
    }
}
