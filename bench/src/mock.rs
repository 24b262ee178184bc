//! The scripted mock provider: a server that speaks the dialects of OpenAI, Azure, Anthropic and Gemini, and says what
//! it is told to, at the pace and with the faults it is told to.
//!
//! It stands beside generic HTTP mocks because those answer canned bytes: here the reply is made from the request
//! (so a test sees what reached the provider), streams are paced and broken at a known event, and a client's
//! departure is counted the moment it happens. It is lean enough to be the upstream of a benchmark.

mod anthropic;
mod body;
mod delivery;
mod dialect;
mod exchange;
mod gemini;
mod ledger;
mod line;
mod openai;
mod realtime;
mod reply;
mod responses;
mod script;
mod wait;

pub use script::{Fault, Reply, Script, ToolCall};
pub use wait::Wait;

use exchange::Shared;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use line::{Line, Socket};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A mock provider that listens and is ready to serve.
pub struct Mock {
    listener: TcpListener,
    /// Asked once at binding, since asking the socket can fail and callers need the port of `:0`.
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
}

impl Mock {
    /// Listens on `addr`; connections wait in the backlog until [`Mock::serve`] runs.
    pub async fn bind(addr: SocketAddr, script: Script) -> io::Result<Mock> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Mock { listener, local_addr, shared: Arc::new(Shared::new(script)), tls: None })
    }

    /// Speaks TLS, with the certificate chain and the key of these PEM files; HTTP/2 is offered first.
    pub fn with_tls(self, certificate: &Path, key: &Path) -> io::Result<Mock> {
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Mock { tls: Some(TlsAcceptor::from(Arc::new(config))), ..self })
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
                    self.shared.stats.accept();
                    let line = Arc::new(Line::new(Arc::clone(&self.shared)));
                    let task = connections.spawn(converse(stream, self.tls.clone(), Arc::clone(&line)));
                    line.belongs_to(task);
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
async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, line: Arc<Line>) {
    // Without it a burst of small events waits 40 ms for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream, Arc::clone(&line));
    match tls {
        None => speak(socket, line).await,
        Some(tls) => {
            // A client that does not trust the certificate has ended the connection by itself.
            if let Ok(socket) = tls.accept(socket).await {
                speak(socket, line).await;
            }
        }
    }
}

/// Speaks HTTP, of the version that the client begins with, and then what the connection was upgraded to.
async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, line: Arc<Line>) {
    let service = {
        let line = Arc::clone(&line);
        service_fn(move |request| exchange::answer(Arc::clone(&line), request))
    };
    // No timer is set: hyper would arm a header time-out for every request, which a benchmark's upstream must not pay.
    // An error here is a client that left or a fault that the script asked for; the ledger has counted either.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(io), service).await;
    if let Some(session) = line.take_session() {
        session.run().await;
    }
}
