//! The public listener: pingora's connections, TLS, HTTP/1.1 and HTTP/2, and graceful end.

use crate::certificate::CertificateKeeper;
use crate::exchange::{After, exchange};
use crate::live::Live;
use crate::timer;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::listening::Service;
use pingora_http::ResponseHeader;
use sluice_config::Server as ServerConfig;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A listener that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot use the TLS certificate `{certificate}` with key `{key}`: {reason}")]
    Tls { certificate: String, key: String, reason: String },
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
}

struct Edge {
    live: Arc<Live>,
    options: HttpServerOptions,
}

/// Before the edge: tells HTTP/2 by prior knowledge from HTTP/1.1, and closes a connection that says nothing.
///
/// pingora can do the telling itself, but waits without a limit for the 24 bytes of HTTP/2's preface, which a short or
/// broken request never fills. Three bytes are enough.
struct Door {
    http1: Arc<Edge>,
    http2: Arc<Edge>,
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // Over TLS the protocol was agreed upon in the handshake.
        if stream.get_ssl_digest().is_some() {
            return self.http1.process_new(stream, shutdown).await;
        }
        let patience = self.http1.live.current().0.server.header_timeout;
        let mut first = [0; 3];
        tokio::time::timeout(patience, stream.try_peek(&mut first)).await.ok()?.ok()?;
        // The preface begins with `PRI` (RFC 9113 section 3.4), which is no method of HTTP/1.1.
        let edge = if &first == b"PRI" { &self.http2 } else { &self.http1 };
        edge.process_new(stream, shutdown).await
    }
}

impl HttpServerApp for Edge {
    // As the trait's macro would write it, but for where the future is made.
    fn process_new_http<'s, 'w, 'f>(
        self: &'s Arc<Self>,
        session: ServerSession,
        shutdown: &'w ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'f>>
    where
        's: 'f,
        'w: 'f,
        Self: 'f,
    {
        in_place(|| serve_one(self, session, shutdown))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Makes a future where it is going to be. `Box::pin` makes it on the stack and copies all of it, kilobytes that are not even
/// set yet.
fn in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// Reads one request and serves it; gives the connection back if it may have another.
async fn serve_one(edge: &Edge, mut session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
    let (config, _) = edge.live.current();
    let server = &config.server;
    let keepalive = server.keepalive_timeout.as_secs().max(1);
    session.set_keepalive(Some(keepalive));
    session.set_write_timeout(Some(server.write_timeout));
    // Bytes of a next request that arrive early are kept, and do not look like a client that misbehaves.
    session.set_pipelining_enabled(true);
    // The first byte may take as long as an idle connection is kept; the head behind it has its own time.
    match timer::timeout(server.keepalive_timeout + server.header_timeout, session.read_request()).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) | Err(_) => return None,
        Ok(Err(_)) => {
            malformed(&mut session).await;
            return None;
        }
    }
    let _serving = edge.live.serving();
    // Reading the head set what the client wants; ours is the limit of it.
    match session.get_keepalive() {
        Some(_) if !*shutdown.borrow() => session.set_keepalive(Some(keepalive)),
        _ => session.set_keepalive(None),
    }
    match exchange(&mut session, &edge.live).await {
        After::Reusable => {
            let settings = HttpPersistentSettings::for_session(&session);
            let stream = session.finish().await.ok()??;
            Some(ReusedHttpStream::from_reusable_stream(stream, settings))
        }
        After::Broken => {
            session.shutdown().await;
            None
        }
    }
}

/// Answers what is not HTTP, as far as that can be done.
async fn malformed(session: &mut ServerSession) {
    const BODY: &[u8] = br#"{"error":{"message":"The request is not well-formed HTTP.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#;
    let build = || -> pingora_core::Result<Box<ResponseHeader>> {
        let mut header = ResponseHeader::build(400, Some(3))?;
        header.insert_header("content-type", "application/json")?;
        header.insert_header("content-length", BODY.len())?;
        header.insert_header("connection", "close")?;
        Ok(Box::new(header))
    };
    if let Ok(header) = build() {
        let _ = session.write_response_header(header).await;
        let _ = session.write_response_body(Bytes::from_static(BODY), true).await;
    }
}

/// Waits for SIGTERM or SIGINT.
struct Signals {
    live: Arc<Live>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {
                end_when_idle(Arc::clone(&self.live));
                ShutdownSignal::GracefulTerminate
            }
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }
}

/// Ends the process as soon as no exchange runs. pingora stops listening at the signal and then waits for the whole
/// drain time, however idle it is; what still runs after that time is cut.
fn end_when_idle(live: Arc<Live>) {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(50);
    std::thread::spawn(move || {
        // Not at once: a request that was just accepted has not been counted yet.
        loop {
            std::thread::sleep(LOOK);
            if live.is_idle() {
                live.close();
                std::process::exit(0);
            }
        }
    });
}

/// Listens and serves until the process is told to end. Call it outside any async runtime: pingora makes its own.
pub fn serve(live: Arc<Live>, server: &ServerConfig) -> Result<(), ServeError> {
    // pingora ends the process when an address is taken; asking first gives a message that names it.
    std::net::TcpListener::bind(server.listen)
        .map_err(|source| ServeError::Listen { address: server.listen, source })?;
    let conf = ServerConf {
        threads: match server.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        grace_period_seconds: Some(server.drain_timeout.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let edge = |h2c| {
        let mut options = HttpServerOptions::default();
        options.h2c = h2c;
        Arc::new(Edge { live: Arc::clone(&live), options })
    };
    let door = Door { http1: edge(false), http2: edge(true) };
    let mut service = Service::new("public".to_owned(), door);
    let address = server.listen.to_string();
    match &server.tls {
        None => service.add_tcp(&address),
        Some(tls) => {
            let (certificate, key) = (tls.certificate_file.to_string_lossy(), tls.key_file.to_string_lossy());
            let failed =
                |reason: String| ServeError::Tls { certificate: certificate.to_string(), key: key.to_string(), reason };
            let keeper = CertificateKeeper::new(tls).map_err(failed)?;
            let mut settings =
                TlsSettings::intermediate(&certificate, &key).map_err(|error| failed(error.to_string()))?;
            settings.set_cert_resolver(Arc::new(keeper));
            settings.enable_h2();
            service.add_tls_with_settings(&address, None, settings);
        }
    }
    let mut pingora = Server::new_with_opt_and_conf(None, conf);
    pingora.bootstrap();
    pingora.add_service(service);
    pingora.run(RunArgs { shutdown_signal: Box::new(Signals { live }) });
    Ok(())
}
