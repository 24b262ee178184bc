//! The scripted mock provider: an OpenAI-compatible server that says what it is told to, at the pace and with the
//! faults it is told to.
//!
//! It stands beside generic HTTP mocks because those answer canned bytes: here the reply is made from the request
//! (so a test sees what reached the provider), streams are paced and broken at a known event, and a client's
//! departure is counted the moment it happens. It is lean enough to be the upstream of a benchmark.

mod body;
mod exchange;
mod ledger;
mod openai;
mod reply;
mod script;

pub use script::{Fault, Reply, Script, ToolCall};

use exchange::Shared;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A mock provider that listens and is ready to serve.
pub struct Mock {
    listener: TcpListener,
    /// Asked once at binding, since asking the socket can fail and callers need the port of `:0`.
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Mock {
    /// Listens on `addr`; connections wait in the backlog until [`Mock::serve`] runs.
    pub async fn bind(addr: SocketAddr, script: Script) -> io::Result<Mock> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Mock { listener, local_addr, shared: Arc::new(Shared::new(script)) })
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until the future is dropped, which also cuts every open connection.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&self.shared)));
                }
                // Out of file descriptors, or a client that left in the backlog: neither is a reason to stop, and
                // the pause keeps the first from becoming a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    // Without it a burst of small events waits 40 ms for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| exchange::answer(Arc::clone(&shared), request));
    // No timer is set: hyper would arm a header time-out for every request, which a benchmark's upstream must not pay.
    // An error here is a client that left or a fault that the script asked for; the ledger has counted either.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
