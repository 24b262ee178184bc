//! One accepted connection as the exchanges on it see it: what they may do to it that HTTP has no word for.

use super::exchange::Shared;
use super::realtime::Session;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// What the exchanges on one connection share.
pub(super) struct Line {
    pub(super) shared: Arc<Shared>,
    /// Whether the socket, when it is dropped, answers with RST instead of FIN.
    reset: AtomicBool,
    /// How many requests have begun, which tells an idle connection from one that went on.
    requests: AtomicU64,
    /// The task that owns the socket.
    task: OnceLock<AbortHandle>,
    /// What takes the connection over when HTTP has ended.
    session: Mutex<Option<Session>>,
}

impl Line {
    pub(super) fn new(shared: Arc<Shared>) -> Line {
        Line {
            shared,
            reset: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            task: OnceLock::new(),
            session: Mutex::new(None),
        }
    }

    /// Names the task that owns the socket.
    pub(super) fn belongs_to(&self, task: AbortHandle) {
        let task = self.task.get_or_init(|| task);
        // The task may have come to a reset before it had its name.
        if self.reset.load(SeqCst) {
            task.abort();
        }
    }

    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Ends the connection with RST as soon as the caller's poll returns.
    pub(super) fn reset(&self) {
        self.reset.store(true, SeqCst);
        self.close();
    }

    /// Ends the connection as soon as the caller's poll returns.
    fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Ends the connection after `time` unless another request begins before.
    pub(super) fn close_when_idle(self: Arc<Line>, time: Duration) {
        let requests = self.requests.load(Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if self.requests.load(Relaxed) == requests {
                self.close();
            }
        });
    }

    pub(super) fn upgrade_to(&self, session: Session) {
        *self.session.lock() = Some(session);
    }

    pub(super) fn take_session(&self) -> Option<Session> {
        self.session.lock().take()
    }
}

/// A TCP stream that ends as its line says.
pub(super) struct Socket {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, line: Arc<Line>) -> Socket {
        Socket { stream, line }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.line.reset.load(SeqCst) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        slices: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
