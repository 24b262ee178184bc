//! Tells where a response ends, and nothing else about it.
//!
//! It does no input of its own, so the asynchronous and the blocking loop share it and tests feed it byte by byte.

use std::io;

/// A response that has arrived completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
}

/// What arrived is not an HTTP/1.1 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/1.1 response")
    }
}

/// Reads one response.
pub struct Reader {
    received: Vec<u8>,
    progress: Progress,
}

#[derive(Clone, Copy)]
enum Progress {
    Head,
    /// The body ends at this offset.
    Length(Response, usize),
    /// The next chunk begins at this offset.
    Chunks(Response, usize),
}

/// No answer of the benchmark comes near it; more headers are an error.
const HEADERS: usize = 64;

impl Reader {
    /// A reader of a response of which nothing has arrived.
    pub fn new() -> Reader {
        Reader { received: Vec::with_capacity(2 << 10), progress: Progress::Head }
    }

    /// Where the caller appends what it receives.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.received
    }

    /// Looks at what has been appended; a response when it is complete.
    pub fn advance(&mut self) -> Result<Option<Response>, Malformed> {
        loop {
            match self.progress {
                Progress::Head => match self.head()? {
                    Some(progress) => self.progress = progress,
                    None => return Ok(None),
                },
                Progress::Length(response, end) => {
                    return match self.received.len() {
                        length if length < end => Ok(None),
                        length if length == end => Ok(Some(response)),
                        // Nothing was asked for that could follow.
                        _ => Err(Malformed),
                    };
                }
                Progress::Chunks(response, start) => match httparse::parse_chunk_size(&self.received[start..]) {
                    Ok(httparse::Status::Partial) => return Ok(None),
                    // The last chunk is followed by an empty line; trailers are not sent by anything measured here.
                    Ok(httparse::Status::Complete((head, 0))) => {
                        self.progress = Progress::Length(response, start + head + 2);
                    }
                    Ok(httparse::Status::Complete((head, size))) => {
                        let size = usize::try_from(size).map_err(|_| Malformed)?;
                        let next = start + head + size + 2;
                        if self.received.len() < next {
                            return Ok(None);
                        }
                        self.progress = Progress::Chunks(response, next);
                    }
                    Err(_) => return Err(Malformed),
                },
            }
        }
    }

    fn head(&self) -> Result<Option<Progress>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(&self.received) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed),
        };
        let mut response = Response { status: head.code.ok_or(Malformed)?, keep_alive: true };
        let (mut content_length, mut chunked) = (None, false);
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let digits = std::str::from_utf8(header.value).map_err(|_| Malformed)?;
                content_length = Some(digits.parse::<usize>().map_err(|_| Malformed)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = header.value.eq_ignore_ascii_case(b"chunked");
            } else if header.name.eq_ignore_ascii_case("connection") {
                response.keep_alive = !header.value.eq_ignore_ascii_case(b"close");
            }
        }
        match (chunked, content_length) {
            (true, _) => Ok(Some(Progress::Chunks(response, length))),
            (false, Some(body)) => Ok(Some(Progress::Length(response, length + body))),
            (false, None) if response.status == 204 => Ok(Some(Progress::Length(response, length))),
            // A body that ends with the connection cannot be told from one that was cut.
            (false, None) => Err(Malformed),
        }
    }
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a response whole and byte by byte; it must be complete exactly at its last byte.
    #[track_caller]
    fn check(text: &str, status: u16, keep_alive: bool) {
        let mut whole = Reader::new();
        whole.buffer().extend_from_slice(text.as_bytes());
        assert_eq!(whole.advance(), Ok(Some(Response { status, keep_alive })));
        let mut slowly = Reader::new();
        for (index, byte) in text.bytes().enumerate() {
            slowly.buffer().push(byte);
            let complete = index + 1 == text.len();
            assert_eq!(slowly.advance(), Ok(complete.then_some(Response { status, keep_alive })), "at byte {index}");
        }
    }

    #[test]
    fn a_response_ends_where_its_framing_says() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, true);
        check("HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", 503, false);
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
            200,
            true,
        );
        check("HTTP/1.1 204 None\r\n\r\n", 204, true);
    }

    #[test]
    fn what_cannot_be_framed_is_refused() {
        for text in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"]
        {
            let mut reader = Reader::new();
            reader.buffer().extend_from_slice(text.as_bytes());
            assert_eq!(reader.advance(), Err(Malformed), "{text}");
        }
    }
}
