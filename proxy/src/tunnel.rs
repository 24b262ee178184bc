//! A connection to a provider through a proxy that is asked to CONNECT (RFC 9110 section 9.3.6).

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, Result};
use sluice_config::BaseUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Where the proxy is, and where it is to connect to.
#[derive(Debug)]
pub struct Tunnel {
    proxy: (String, u16),
    authority: String,
}

impl Tunnel {
    pub fn new(proxy: &BaseUrl, target: &BaseUrl) -> Tunnel {
        let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        Tunnel { proxy: (proxy.host.clone(), proxy.port), authority: format!("{host}:{}", target.port) }
    }

    async fn open(&self) -> std::io::Result<TcpStream> {
        let refused = |reason: &str| std::io::Error::other(reason.to_owned());
        let mut stream = TcpStream::connect((self.proxy.0.as_str(), self.proxy.1)).await?;
        stream.set_nodelay(true)?;
        let authority = &self.authority;
        stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
        // Byte by byte: what follows the head already belongs to the tunnel.
        let mut head = Vec::with_capacity(128);
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == MAX_HEAD {
                return Err(refused("the proxy's answer has no end"));
            }
            head.push(stream.read_u8().await?);
        }
        let status = head.split(|byte| *byte == b' ').nth(1);
        match status.is_some_and(|status| status.len() == 3 && status.starts_with(b"2")) {
            true => Ok(stream),
            false => Err(refused("the proxy refused to connect")),
        }
    }
}

#[async_trait]
impl Connect for Tunnel {
    async fn connect(&self, _address: &SocketAddr) -> Result<Stream> {
        let opened = self.open().await;
        let stream =
            opened.map_err(|error| Error::because(ErrorType::ConnectProxyFailure, "through the proxy", error))?;
        Ok(Stream::from(stream))
    }
}
