//! A provider's answer as it is read: with a limit to every wait, and decompressed where that was forced on us.

use crate::live::Live;
use crate::refuse::ErrorCode;
use crate::upstreams::{Permit, Target};
use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use pingora_core::ErrorType;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The body of an answer, and the connection and the place at the target that go with it.
pub struct Reader {
    pub session: HttpSession,
    pub target: Arc<Target>,
    pub permit: Permit,
    peer: HttpPeer,
    inflate: Option<GzDecoder<Vec<u8>>>,
    idle: Duration,
    /// When the whole attempt must be over.
    pub deadline: Instant,
    ended: bool,
}

impl Reader {
    pub fn new(session: HttpSession, target: Arc<Target>, permit: Permit, peer: HttpPeer, deadline: Instant) -> Reader {
        let idle = target.provider.config.idle_timeout;
        Reader { session, target, permit, peer, inflate: None, idle, deadline, ended: false }
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
            let patience = until.map(|until| until.saturating_duration_since(Instant::now()).min(self.idle));
            if patience.is_some_and(|patience| patience.is_zero()) {
                return Err(ErrorCode::UpstreamTimeout);
            }
            let read = match (&mut self.session, patience) {
                (HttpSession::H1(_), _) => {
                    self.session.set_read_timeout(patience);
                    self.session.read_response_body().await
                }
                (session, None) => session.read_response_body().await,
                (session, Some(patience)) => {
                    match pingora_timeout::timeout(patience, session.read_response_body()).await {
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
        let idle = Some(self.idle);
        match self.session {
            HttpSession::H1(mut http1) => {
                http1.respect_keepalive();
                if let Some(stream) = http1.reuse().await {
                    live.connector.release_stream(stream, self.peer.reuse_hash(), idle);
                }
            }
            session => live.http2.release_http_session(session, &self.peer, idle).await,
        }
    }
}
