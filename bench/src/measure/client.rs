//! One target, and asking it.

use super::outcome::{Answer, Fault, micros};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A server to be measured: `NAME=BASE_URL[,key-env=VARIABLE][,model=MODEL][,header=NAME:VALUE]…`.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub name: String,
    /// As a program of OpenAI's SDK has it, `http://127.0.0.1:8080/v1`.
    pub base_url: Uri,
    /// The environment variable that holds the key.
    pub key_env: Option<String>,
    pub model: Option<String>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// A target that cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(
        "`{0}` is no target; write NAME=BASE_URL, with `,key-env=VARIABLE`, `,model=MODEL`, `,header=NAME:VALUE` where they are needed"
    )]
    Form(String),
    #[error("target `{name}`: the environment variable `{variable}` is not set")]
    Key { name: String, variable: String },
    #[error("target `{name}`: {reason}")]
    Tls { name: String, reason: String },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let fault = || TargetError::Form(text.to_owned());
        let mut parts = text.split(',');
        let (name, url) = parts.next().and_then(|part| part.split_once('=')).ok_or_else(fault)?;
        let base_url: Uri = url.trim_end_matches('/').parse().map_err(|_| fault())?;
        let known = matches!(base_url.scheme_str(), Some("http" | "https")) && base_url.host().is_some();
        let mut target = Target { name: name.to_owned(), base_url, key_env: None, model: None, headers: Vec::new() };
        for part in parts {
            match part.split_once('=') {
                Some(("key-env", variable)) => target.key_env = Some(variable.to_owned()),
                Some(("model", model)) => target.model = Some(model.to_owned()),
                Some(("header", header)) => {
                    let (name, value) = header.split_once(':').ok_or_else(fault)?;
                    let name = name.trim().parse().map_err(|_| fault())?;
                    target.headers.push((name, value.trim().parse().map_err(|_| fault())?));
                }
                _ => return Err(fault()),
            }
        }
        if known && !name.is_empty() { Ok(target) } else { Err(fault()) }
    }
}

pub(super) type Connection = SendRequest<Full<Bytes>>;

/// Asks a target.
pub(super) struct Client {
    target: Target,
    authority: String,
    path: String,
    key: Option<String>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Client {
    pub fn new(target: Target, timeout: Duration) -> Result<Client, TargetError> {
        let key = match &target.key_env {
            None => None,
            Some(variable) => Some(
                std::env::var(variable)
                    .map_err(|_| TargetError::Key { name: target.name.clone(), variable: variable.clone() })?,
            ),
        };
        let host = target.base_url.host().unwrap_or_default().to_owned();
        let is_tls = target.base_url.scheme_str() == Some("https");
        let port = target.base_url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls { Some(tls(&target.name, &host)?) } else { None };
        let path = format!("{}/chat/completions", target.base_url.path().trim_end_matches('/'));
        Ok(Client { authority: format!("{host}:{port}"), path, key, tls, timeout, target })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub async fn connect(&self) -> Result<Connection, Fault> {
        let connecting = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(|_| Fault::Connect)?;
            let _ = stream.set_nodelay(true);
            match &self.tls {
                None => started(stream).await,
                Some((connector, name)) => {
                    started(connector.connect(name.clone(), stream).await.map_err(|_| Fault::Connect)?).await
                }
            }
        };
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or(Err(Fault::Timeout))
    }

    /// Sends a body and reads its answer; times count from `from`. A connection that cannot be used again is dropped.
    pub async fn ask(&self, connection: &mut Option<Connection>, body: Bytes, from: Instant) -> Result<Answer, Fault> {
        let asking = async {
            let mut sender = match connection.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.connect().await?,
            };
            sender.ready().await.map_err(|_| Fault::Broken)?;
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(&self.path)
                .header(HOST, &self.authority)
                .header(CONTENT_TYPE, "application/json");
            if let Some(key) = &self.key {
                request = request.header(AUTHORIZATION, format!("Bearer {key}"));
            }
            for (name, value) in &self.target.headers {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(body)).map_err(|_| Fault::Broken)?;
            let response = sender.send_request(request).await.map_err(|_| Fault::Broken)?;
            let status = response.status();
            let steps = steps(response.headers());
            let is_stream = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.starts_with("text/event-stream"));
            let mut reading = Reading::new(from, is_stream);
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if let Some(data) = frame.map_err(|_| Fault::Broken)?.data_ref() {
                    reading.read(data);
                }
            }
            let total = from.elapsed();
            *connection = Some(sender);
            match status.is_success() {
                true => reading.finish(total, steps),
                false => Err(Fault::Status(status.as_u16())),
            }
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(Fault::Timeout))
    }
}

async fn started<S>(stream: S) -> Result<Connection, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Fault::Connect)?;
    // Ends with its connection.
    tokio::spawn(connection);
    Ok(sender)
}

fn tls(target: &str, host: &str) -> Result<(TlsConnector, ServerName<'static>), TargetError> {
    let fault = |reason: String| TargetError::Tls { name: target.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
        return Err(fault(format!("the system's certificates cannot be read: {error}")));
    }
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| fault(error.to_string()))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// `server-timing` (W3C): names and durations, in milliseconds there and in microseconds here.
fn steps(headers: &HeaderMap) -> Vec<(String, f64)> {
    let values = headers.get_all("server-timing").iter().filter_map(|value| value.to_str().ok());
    let step = |metric: &str| {
        let (name, rest) = metric.trim().split_once(';')?;
        let duration = rest.split(';').find_map(|part| part.trim().strip_prefix("dur="))?;
        Some((name.to_owned(), duration.parse::<f64>().ok()? * 1e3))
    };
    values.flat_map(|value| value.split(',')).filter_map(step).collect()
}

/// A body on its way.
struct Reading {
    from: Instant,
    is_stream: bool,
    bytes: Vec<u8>,
    /// Up to where events were read.
    read: usize,
    answer: Answer,
    last: Option<Instant>,
    pieces: u64,
    done: bool,
    failed: bool,
}

impl Reading {
    fn new(from: Instant, is_stream: bool) -> Reading {
        Reading {
            from,
            is_stream,
            bytes: Vec::new(),
            read: 0,
            answer: Answer::default(),
            last: None,
            pieces: 0,
            done: false,
            failed: false,
        }
    }

    fn read(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        if !self.is_stream {
            return;
        }
        let now = Instant::now();
        while let Some(length) = memchr::memmem::find(&self.bytes[self.read..], b"\n\n") {
            let event = self.read..self.read + length;
            self.read = event.end + 2;
            for line in self.bytes[event].split(|byte| *byte == b'\n') {
                let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
                if data == b"[DONE]" {
                    self.done = true;
                    continue;
                }
                let value: Value = serde_json::from_slice(data).unwrap_or_default();
                self.failed |= value.get("error").is_some();
                if let Some(tokens) = value.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
                    self.answer.tokens = tokens;
                }
                let delta = value.pointer("/choices/0/delta");
                let says = ["content", "reasoning_content"].iter().any(|name| {
                    delta.and_then(|delta| delta.get(name)).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
                });
                if says || delta.is_some_and(|delta| delta.get("tool_calls").is_some()) {
                    self.pieces += 1;
                    match self.last.replace(now) {
                        None => self.answer.first = Some(now - self.from),
                        Some(before) => self.answer.gaps.push(micros(now - before)),
                    }
                }
            }
        }
    }

    fn finish(mut self, total: Duration, steps: Vec<(String, f64)>) -> Result<Answer, Fault> {
        self.answer.total = total;
        self.answer.steps = steps;
        if self.is_stream {
            if self.failed {
                return Err(Fault::InBand);
            }
            if !self.done {
                return Err(Fault::Cut);
            }
            if self.answer.tokens == 0 {
                self.answer.tokens = self.pieces;
            }
            return Ok(self.answer);
        }
        let value: Value = serde_json::from_slice(&self.bytes).map_err(|_| Fault::Broken)?;
        self.answer.tokens = value.pointer("/usage/completion_tokens").and_then(Value::as_u64).unwrap_or(0);
        Ok(self.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target: Target = "sluice=https://api.example.com/v1/,key-env=KEY,model=m".parse().unwrap();
        assert_eq!((target.name.as_str(), target.base_url.path()), ("sluice", "/v1"));
        assert_eq!((target.key_env.as_deref(), target.model.as_deref()), (Some("KEY"), Some("m")));
        let target: Target = "p=http://a/v1,header=x-to:http://b:1/v1,header=x-a: b".parse().unwrap();
        assert_eq!(target.headers[0].1, "http://b:1/v1");
        assert_eq!(target.headers[1], (HeaderName::from_static("x-a"), HeaderValue::from_static("b")));
        for text in ["http://a/v1", "a=http://b,header=x", "a=ftp://b", "a=http://b/v1,speed=1", "=http://b"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_is_read_in_any_pieces() {
        let body = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"usage\":{\"completion_tokens\":9}}\n\ndata: [DONE]\n\n";
        for size in [1, 7, body.len()] {
            let mut reading = Reading::new(Instant::now(), true);
            body.as_bytes().chunks(size).for_each(|piece| reading.read(piece));
            let answer = reading.finish(Duration::from_millis(1), Vec::new()).unwrap();
            assert_eq!((answer.tokens, answer.gaps.len(), answer.first.is_some()), (9, 1, true));
        }
        let mut cut = Reading::new(Instant::now(), true);
        cut.read(&body.as_bytes()[..80]);
        assert_eq!(cut.finish(Duration::ZERO, Vec::new()).unwrap_err(), Fault::Cut);
        let mut failed = Reading::new(Instant::now(), true);
        failed.read(b"data: {\"error\":{}}\n\ndata: [DONE]\n\n");
        assert_eq!(failed.finish(Duration::ZERO, Vec::new()).unwrap_err(), Fault::InBand);
    }

    #[test]
    fn steps_are_microseconds() {
        let mut headers = HeaderMap::new();
        headers.insert("server-timing", "identify;dur=0.012, own;desc=\"all\";dur=1.5, cache".parse().unwrap());
        assert_eq!(steps(&headers), [("identify".to_owned(), 12.0), ("own".to_owned(), 1_500.0)]);
    }
}
