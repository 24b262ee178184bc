//! HTTP/1.1 to providers (RFC 9112): connections that are kept, and one exchange on each.
//!
//! pingora connects, verifies and encrypts; what is said on a connection is written and read here. Its own client writes
//! head and body apart, asks the kernel for the peer's name whenever a kept connection is used again, and watches each
//! kept one with a task.

use crate::timer;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use pingora_core::{Error, ErrorType, RetryType};
use pingora_http::ResponseHeader;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

/// Most idle connections that are kept to one provider; more are closed.
const MAX_IDLE: usize = 1024;

/// Longest head of an answer, in bytes, and most fields in it.
const MAX_HEAD: usize = 256 << 10;
const MAX_FIELDS: usize = 256;

/// Most informational answers before the answer.
const MAX_INFORMED: usize = 16;

/// Longest line in front of a chunk, with its extensions, and longest trailer section, in bytes.
const MAX_LINE: usize = 8 << 10;

/// How much is read at once where nothing says how much there is, and the most where something does, in bytes.
const READ: usize = 8 << 10;
const MOST_READ: usize = 64 << 10;

/// A copy is cheaper than a second system call up to about this size of body, in bytes.
const MAX_COPIED: usize = 64 << 10;

/// The idle connections to one provider, by what they are connected to and how.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<u64, Vec<Kept>>>);

struct Kept {
    stream: Stream,
    /// When it is closed if nobody wants it.
    until: Instant,
}

impl Connections {
    /// The connection that was used last, if its other side has not closed it meanwhile.
    pub fn take(&self, key: u64) -> Option<Stream> {
        let now = Instant::now();
        loop {
            let Kept { mut stream, until } = self.0.lock().get_mut(&key)?.pop()?;
            if now < until && is_open(&mut stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection that is ready for another exchange, for at most `idle`.
    pub fn keep(&self, key: u64, mut stream: Stream, idle: Duration) {
        if !is_open(&mut stream) {
            return;
        }
        let mut kept = self.0.lock();
        let kept = kept.entry(key).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(Kept { stream, until: Instant::now() + idle });
        }
    }

    /// Closes those that were idle for too long or that the other side closed.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.0.lock().retain(|_, kept| {
            kept.retain_mut(|kept| now < kept.until && is_open(&mut kept.stream));
            !kept.is_empty()
        });
    }
}

/// Marks an error that a connection gives which had been closed before it was used again.
pub fn stale(mut error: Box<Error>) -> Box<Error> {
    error.retry = RetryType::ReusedOnly;
    error
}

/// Whether an idle connection has nothing to say: bytes that nobody asked for are as bad as its end.
fn is_open(stream: &mut Stream) -> bool {
    let mut byte = [0];
    let mut read = ReadBuf::new(&mut byte);
    Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut read).is_pending()
}

/// One request and its answer on a connection.
pub struct Exchange {
    stream: Stream,
    /// What was read and not yet given out.
    held: BytesMut,
    body: Body,
    /// Whether the connection serves another exchange after this one.
    persists: bool,
    /// Whether the request's body is written in chunks.
    writes_chunks: bool,
    is_head: bool,
    read_timeout: Option<Duration>,
    /// When no read waits any longer, whatever its own time-out.
    read_until: Option<Instant>,
    write_timeout: Duration,
}

impl Exchange {
    /// Begins on a connection that nothing else uses. Waits at most `write_timeout` for each write.
    pub fn new(stream: Stream, write_timeout: Duration) -> Exchange {
        Exchange {
            stream,
            held: BytesMut::new(),
            body: Body::Ended,
            persists: false,
            writes_chunks: false,
            is_head: false,
            read_timeout: None,
            read_until: None,
            write_timeout,
        }
    }

    /// How long a single read may take, which `None` leaves to the caller, and the time at which no read waits any longer.
    pub fn set_read_limits(&mut self, timeout: Option<Duration>, until: Option<Instant>) {
        (self.read_timeout, self.read_until) = (timeout, until);
    }

    /// Writes the head and the whole body.
    pub async fn send(&mut self, head: &Parts, path: &str, body: &[u8]) -> Result<(), Box<Error>> {
        let mut wire = self.begin(head, path, body.len().min(MAX_COPIED))?;
        let apart = if body.len() <= MAX_COPIED {
            wire.extend_from_slice(body);
            &[]
        } else {
            body
        };
        self.write([&wire, apart]).await
    }

    /// Writes the head alone; the body follows by [`Exchange::send_piece`].
    pub async fn send_head(&mut self, head: &Parts, path: &str) -> Result<(), Box<Error>> {
        let wire = self.begin(head, path, 0)?;
        self.write([&wire, &[]]).await
    }

    /// Writes a piece of the body, as the head that was written announces it.
    pub async fn send_piece(&mut self, piece: &[u8]) -> Result<(), Box<Error>> {
        if piece.is_empty() || !self.writes_chunks {
            return self.write([piece, &[]]).await;
        }
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        self.write([&chunk, &[]]).await
    }

    /// Ends a body that was written in pieces.
    pub async fn finish(&mut self) -> Result<(), Box<Error>> {
        match self.writes_chunks {
            true => self.write([b"0\r\n\r\n", &[]]).await,
            false => Ok(()),
        }
    }

    /// The head as it is written, with room for so many bytes behind it.
    fn begin(&mut self, head: &Parts, path: &str, room: usize) -> Result<Vec<u8>, Box<Error>> {
        self.is_head = head.method == Method::HEAD;
        self.writes_chunks = head.headers.contains_key(TRANSFER_ENCODING);
        let path = path.as_bytes();
        // Bytes that would end the target, or the line (RFC 9112 section 3.2).
        if path.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n' | b' ')) {
            return Err(Error::new(ErrorType::InvalidHTTPHeader));
        }
        let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
        let mut wire = Vec::with_capacity(path.len() + fields + room + 64);
        let first = [head.method.as_str().as_bytes(), b" ", path, b" HTTP/1.1\r\n"];
        first.iter().for_each(|part| wire.extend_from_slice(part));
        for (name, value) in &head.headers {
            let field = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
            field.iter().for_each(|part| wire.extend_from_slice(part));
        }
        wire.extend_from_slice(b"\r\n");
        Ok(wire)
    }

    async fn write(&mut self, pieces: [&[u8]; 2]) -> Result<(), Box<Error>> {
        let writing = async {
            for piece in pieces {
                if !piece.is_empty() {
                    self.stream.write_all(piece).await?;
                }
            }
            self.stream.flush().await
        };
        match timer::timeout(self.write_timeout, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(stale(Error::because(ErrorType::WriteError, "while writing the request", error))),
            Err(_) => Err(Error::new(ErrorType::WriteTimedout)),
        }
    }

    /// Waits for the answer's head; informational ones before it are passed over. An error before its first byte is
    /// marked as one that a kept connection may give.
    pub async fn read_head(&mut self) -> Result<ResponseHeader, Box<Error>> {
        let mut informed = 0;
        // The first read has the whole of its time; what comes piece by piece has no more of it than that.
        let until = self.read_until.take();
        loop {
            if let Some(mut head) = take_head(&mut self.held)? {
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(Error::explain(ErrorType::InvalidHTTPHeader, "a protocol that nobody asked for"));
                }
                if head.status.is_informational() {
                    informed += 1;
                    if informed > MAX_INFORMED {
                        return Err(Error::explain(
                            ErrorType::InvalidHTTPHeader,
                            "informational answers without an end",
                        ));
                    }
                    continue;
                }
                let (body, persists) = framing(&head, self.is_head)?;
                self.body = body;
                self.persists = persists;
                if matches!(body, Body::Chunked(_)) {
                    // It says nothing (RFC 9112 section 6.3), and is not to be passed on.
                    head.remove_header(&CONTENT_LENGTH);
                }
                return Ok(head);
            }
            if self.held.len() > MAX_HEAD {
                return Err(Error::explain(
                    ErrorType::InvalidHTTPHeader,
                    format!("the head is longer than {MAX_HEAD} bytes"),
                ));
            }
            let is_first = informed == 0 && self.held.is_empty();
            if !is_first {
                self.read_until = until;
            }
            let read = match self.fill(READ).await {
                Ok(0) => Err(Error::new(ErrorType::ConnectionClosed)),
                read => read,
            };
            read.map_err(|error| if is_first { stale(error) } else { error })?;
        }
    }

    /// The next piece of the body, without its framing; `None` at its end. All that one read brought is one piece,
    /// however many chunks it is in.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        loop {
            match self.body.take(&mut self.held)? {
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::Nothing => {}
            }
            let wanted = match self.body {
                Body::Length(left) => usize::try_from(left).unwrap_or(MOST_READ).clamp(READ, MOST_READ),
                _ => READ,
            };
            if self.fill(wanted).await? == 0 {
                if matches!(self.body, Body::UntilClose) {
                    self.body = Body::Ended;
                    return Ok(None);
                }
                return Err(Error::new(ErrorType::ConnectionClosed));
            }
        }
    }

    async fn fill(&mut self, room: usize) -> Result<usize, Box<Error>> {
        self.held.reserve(room);
        let mut patience = self.read_timeout;
        // What is there already is given out without a look at the clock.
        if let Some(until) = self.read_until {
            let left = until.saturating_duration_since(Instant::now());
            patience = Some(patience.map_or(left, |patience| patience.min(left)));
        }
        if patience.is_some_and(|patience| patience.is_zero()) {
            return Err(Error::new(ErrorType::ReadTimedout));
        }
        let reading = self.stream.read_buf(&mut self.held);
        let read = match patience {
            None => reading.await,
            Some(timeout) => match timer::timeout(timeout, reading).await {
                Ok(read) => read,
                Err(_) => return Err(Error::new(ErrorType::ReadTimedout)),
            },
        };
        read.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Error::because(ErrorType::ConnectionClosed, "while reading the answer", error)
            }
            _ => Error::because(ErrorType::ReadError, "while reading the answer", error),
        })
    }

    /// The connection, if another exchange may follow on it.
    pub fn into_kept(self) -> Option<Stream> {
        (self.persists && self.body == Body::Ended && self.held.is_empty()).then_some(self.stream)
    }
}

/// Takes a whole head off the front, if there is one.
fn take_head(held: &mut BytesMut) -> Result<Option<ResponseHeader>, Box<Error>> {
    if held.is_empty() {
        return Ok(None);
    }
    let invalid = |reason: &str| Error::explain(ErrorType::InvalidHTTPHeader, reason.to_owned());
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    let parsed = parser.parse_response_with_uninit_headers(&mut answer, held, &mut fields);
    let length = match parsed.map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(|| invalid("no status"))?;
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let base = held.as_ptr() as usize;
    // With room for what Sluice says of itself.
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 16);
    // Names are read before the bytes are taken over, values refer to them afterwards.
    let mut values = Vec::with_capacity(answer.headers.len());
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|error| invalid(&error.to_string()))?;
        let from = if field.value.is_empty() { 0 } else { field.value.as_ptr() as usize - base };
        values.push((name, from..from + field.value.len()));
    }
    let head = held.split_to(length).freeze();
    for (name, range) in values {
        let value = HeaderValue::from_maybe_shared(head.slice(range)).map_err(|error| invalid(&error.to_string()))?;
        headers.append(name, value);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = version;
    parts.headers = headers;
    Ok(Some(ResponseHeader::from(parts)))
}

/// How the body of an answer ends (RFC 9112 section 6.3), and whether its connection persists (section 9.3).
fn framing(head: &ResponseHeader, is_head: bool) -> Result<(Body, bool), Box<Error>> {
    let invalid = |reason: &str| Err(Error::explain(ErrorType::InvalidHTTPHeader, reason.to_owned()));
    let mut persists = head.version == Version::HTTP_11;
    for value in head.headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                persists = false;
            } else if option.eq_ignore_ascii_case(b"keep-alive") && head.version == Version::HTTP_10 {
                persists = true;
            }
        }
    }
    if is_head || matches!(head.status.as_u16(), 204 | 304) {
        return Ok((Body::Ended, persists));
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !is_chunked || codings.next().is_some() || head.version != Version::HTTP_11 {
            return invalid("a transfer coding other than `chunked`");
        }
        // With a length beside it, what follows on the connection cannot be trusted.
        return Ok((Body::Chunked(Chunk::Line), persists && !head.headers.contains_key(CONTENT_LENGTH)));
    }
    let mut length = None;
    for value in head.headers.get_all(CONTENT_LENGTH) {
        for number in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let digits = std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse::<u64>().ok()) {
                Some(number) if length.is_none_or(|length| length == number) => length = Some(number),
                _ => return invalid("a `content-length` that is none, or several that differ"),
            }
        }
    }
    Ok(match length {
        Some(0) => (Body::Ended, persists),
        Some(length) => (Body::Length(length), persists),
        None => (Body::UntilClose, false),
    })
}

/// What of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Ended,
}

/// What comes next in a chunked body (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The line that says how long the next chunk is.
    Line,
    /// So many bytes of a chunk.
    Data(u64),
    /// The line end behind a chunk.
    End,
    /// The trailer section, of which so many bytes were passed over.
    Trailers(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Piece(Bytes),
    /// More must be read first.
    Nothing,
    End,
}

impl Body {
    /// Takes what can be given out off the front of `held`.
    fn take(&mut self, held: &mut BytesMut) -> Result<Taken, Box<Error>> {
        match self {
            Body::Ended => Ok(Taken::End),
            _ if held.is_empty() => Ok(Taken::Nothing),
            Body::UntilClose => Ok(Taken::Piece(held.split().freeze())),
            Body::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(held.len());
                *left -= most as u64;
                if *left == 0 {
                    *self = Body::Ended;
                }
                Ok(Taken::Piece(held.split_to(most).freeze()))
            }
            Body::Chunked(chunk) => {
                let (piece, ended) = take_chunks(chunk, held)?;
                if ended {
                    *self = Body::Ended;
                }
                match (piece, ended) {
                    (Some(piece), _) => Ok(Taken::Piece(piece)),
                    (None, true) => Ok(Taken::End),
                    (None, false) => Ok(Taken::Nothing),
                }
            }
        }
    }
}

/// Takes all chunks that are there off the front of `held`, as one piece; says whether the body has ended.
fn take_chunks(chunk: &mut Chunk, held: &mut BytesMut) -> Result<(Option<Bytes>, bool), Box<Error>> {
    let invalid = |reason: &str| Err(Error::explain(ErrorType::InvalidHTTPHeader, reason.to_owned()));
    // The piece is `held[first..end]`; what stands from `at` has not been looked at.
    let (mut first, mut end, mut at) = (0, 0, 0);
    let mut ended = false;
    loop {
        let rest = &held[at..];
        match *chunk {
            Chunk::Line => {
                let Some(length) = memchr::memchr(b'\n', rest) else {
                    if rest.len() > MAX_LINE {
                        return invalid("a chunk's first line is too long");
                    }
                    break;
                };
                let Some(size) = chunk_size(&rest[..length]) else { return invalid("a chunk without a size") };
                at += length + 1;
                *chunk = if size == 0 { Chunk::Trailers(0) } else { Chunk::Data(size) };
            }
            Chunk::Data(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if most == 0 {
                    break;
                }
                if first == end {
                    (first, end) = (at, at);
                } else {
                    held.copy_within(at..at + most, end);
                }
                end += most;
                at += most;
                *chunk = if left == most as u64 { Chunk::End } else { Chunk::Data(left - most as u64) };
            }
            Chunk::End => match rest {
                [b'\r', b'\n', ..] => {
                    at += 2;
                    *chunk = Chunk::Line;
                }
                [] | [b'\r'] => break,
                _ => return invalid("a chunk that is longer than it says"),
            },
            Chunk::Trailers(passed) => {
                let Some(length) = memchr::memchr(b'\n', rest) else {
                    if passed + rest.len() > MAX_LINE {
                        return invalid("trailers that are too long");
                    }
                    break;
                };
                at += length + 1;
                if matches!(&rest[..length], [] | [b'\r']) {
                    ended = true;
                    break;
                }
                if passed + length > MAX_LINE {
                    return invalid("trailers that are too long");
                }
                *chunk = Chunk::Trailers(passed + length + 1);
            }
        }
    }
    held.advance(first);
    let piece = (end > first).then(|| held.split_to(end - first).freeze());
    held.advance(at - end.max(first));
    Ok((piece, ended))
}

/// The size in a chunk's first line, which ends before its line feed: hexadecimal digits, then nothing or extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let behind = line[digits..].trim_ascii_start();
    if !(1..=15).contains(&digits) || !(behind.is_empty() || behind.starts_with(b";")) || behind.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<(ResponseHeader, usize)>, Box<Error>> {
        let mut held = BytesMut::from(text);
        Ok(take_head(&mut held)?.map(|head| (head, held.len())))
    }

    /// What a body gives when it arrives in pieces of `size`.
    fn read(mut body: Body, text: &[u8], size: usize) -> Result<(Vec<u8>, Body, usize), Box<Error>> {
        let mut held = BytesMut::new();
        let mut said = Vec::new();
        for piece in text.chunks(size) {
            held.extend_from_slice(piece);
            while let Taken::Piece(piece) = body.take(&mut held)? {
                said.extend_from_slice(&piece);
            }
        }
        Ok((said, body, held.len()))
    }

    #[test]
    fn a_head_is_taken_when_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Empty:\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\nbody";
        for end in 0..text.len() - 4 {
            assert!(head(&text[..end]).unwrap().is_none(), "{end}");
        }
        let (found, rest) = head(text).unwrap().unwrap();
        assert_eq!((found.status.as_u16(), rest), (200, 4));
        let fields: Vec<_> = found.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(
            fields,
            [("content-type", &b"a/b"[..]), ("x-empty", b""), ("set-cookie", b"a"), ("set-cookie", b"b")]
        );
        assert!(head("HTTP/1.1 2x0 OK\r\n\r\n").is_err());
        assert!(head("HTTP/1.1 200 OK\r\na b: c\r\n\r\n").is_err());
        assert!(head("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n").is_err(), "a folded line");
    }

    #[test]
    fn a_body_is_framed_as_its_head_says() {
        let framing = |fields: &str| {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            framing(&head(&text).unwrap().unwrap().0, false).map_err(|_| ())
        };
        assert_eq!(framing("content-length: 5\r\n"), Ok((Body::Length(5), true)));
        assert_eq!(framing("content-length: 5, 5\r\ncontent-length: 5\r\n"), Ok((Body::Length(5), true)));
        assert_eq!(framing("content-length: 0\r\nconnection: x, Close\r\n"), Ok((Body::Ended, false)));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok((Body::Chunked(Chunk::Line), true)));
        assert_eq!(
            framing("transfer-encoding: chunked\r\ncontent-length: 3\r\n"),
            Ok((Body::Chunked(Chunk::Line), false))
        );
        assert_eq!(framing(""), Ok((Body::UntilClose, false)));
        for wrong in ["content-length: 5\r\ncontent-length: 6\r\n", "content-length: +5\r\n", "content-length: \r\n"] {
            assert_eq!(framing(wrong), Err(()), "{wrong}");
        }
        for wrong in ["gzip, chunked", "gzip", "chunked, chunked", ""] {
            assert_eq!(framing(&format!("transfer-encoding: {wrong}\r\n")), Err(()), "{wrong}");
        }
    }

    #[test]
    fn chunks_are_read_however_they_arrive() {
        let text = b"5\r\nhello\r\n1;name=\"v\"\r\n,\r\n00006 \r\n world\r\n0\r\nx: y\r\n\r\nHTTP/1.1";
        for size in 1..=text.len() {
            let (said, body, rest) = read(Body::Chunked(Chunk::Line), text, size).unwrap();
            assert_eq!((said.as_slice(), body), (&b"hello, world"[..], Body::Ended), "{size}");
            assert_eq!(rest, b"HTTP/1.1".len(), "{size}");
        }
        // One read is one piece.
        let mut held = BytesMut::from(&text[..]);
        let mut body = Body::Chunked(Chunk::Line);
        assert_eq!(body.take(&mut held).unwrap(), Taken::Piece(Bytes::from_static(b"hello, world")));
        assert_eq!(body.take(&mut held).unwrap(), Taken::End);
    }

    #[test]
    fn chunks_that_are_not_well_formed_are_refused() {
        let wrong = ["5\nhello\r\n", "\r\n", "5\r\nhello!\r\n", "-1\r\n", "0x5\r\n", "5 5\r\n", "ffffffffffffffff\r\n"];
        for text in wrong {
            assert!(read(Body::Chunked(Chunk::Line), text.as_bytes(), 64).is_err(), "{text:?}");
        }
        let long = format!("5;{}", "x".repeat(MAX_LINE));
        assert!(read(Body::Chunked(Chunk::Line), long.as_bytes(), 1000).is_err());
        let long = format!("0\r\n{}", "a: b\r\n".repeat(MAX_LINE));
        assert!(read(Body::Chunked(Chunk::Line), long.as_bytes(), 1000).is_err());
    }

    /// Whatever a provider sends: the same is read of it however it is cut, and nothing but what it says.
    #[test]
    fn broken_answers_are_read_alike_however_they_are_cut() {
        let sound = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n1;a=\"b\"\r\n,\r\n0006\r\n world\r\n0\r\nT: z\r\n\r\n";
        let spare = b"\r\n\0 ;:0159afgzAF\t\xff-HTP/,=";
        let outcome = |text: &[u8], size: usize| {
            let (mut held, mut said, mut body) = (BytesMut::new(), Vec::new(), None);
            for piece in text.chunks(size) {
                held.extend_from_slice(piece);
                if body.is_none() {
                    let Ok(head) = take_head(&mut held) else { return (said, None) };
                    let Some(head) = head else { continue };
                    let Ok((framed, _)) = framing(&head, false) else { return (said, None) };
                    body = Some(framed);
                }
                let Some(body) = &mut body else { continue };
                loop {
                    match body.take(&mut held) {
                        Ok(Taken::Piece(piece)) => said.extend_from_slice(&piece),
                        Ok(Taken::Nothing | Taken::End) => break,
                        // What came before the fault is given out earlier where it came in more pieces.
                        Err(_) => return (Vec::new(), None),
                    }
                }
            }
            (said, body)
        };
        let (mut whole, mut refused) = (0, 0);
        for round in 0..4_000_u32 {
            let mut random = blake3::Hasher::new().update(&round.to_le_bytes()).finalize_xof();
            let mut dice = || {
                let mut bytes = [0; 4];
                random.fill(&mut bytes);
                u32::from_le_bytes(bytes) as usize
            };
            let mut text = sound.to_vec();
            for _ in 0..dice() % 4 {
                let at = dice() % text.len();
                match dice() % 3 {
                    0 => text[at] = spare[dice() % spare.len()],
                    1 => text.insert(at, spare[dice() % spare.len()]),
                    _ => drop(text.remove(at)),
                }
            }
            let expected = outcome(&text, text.len());
            for size in [1, 2, 3, 7, 1 + dice() % text.len()] {
                let found = outcome(&text, size);
                match (&expected.1, &found.1) {
                    (Some(_), _) | (_, Some(_)) => assert_eq!(found, expected, "{:?} by {size}", text.escape_ascii()),
                    (None, None) => {}
                }
            }
            whole += u32::from(expected.1 == Some(Body::Ended));
            refused += u32::from(expected.1.is_none());
        }
        assert!(whole > 400 && refused > 400, "{whole} {refused}");
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let (said, body, rest) = read(Body::Length(5), b"hello!", 2).unwrap();
        assert_eq!((said.as_slice(), body, rest), (&b"hello"[..], Body::Ended, 1));
        let (said, body, _) = read(Body::Length(9), b"hello!", 4).unwrap();
        assert_eq!((said.as_slice(), body), (&b"hello!"[..], Body::Length(3)));
    }
}
