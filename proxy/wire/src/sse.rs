//! Server-sent events (WHATWG HTML, section 9.2): bytes in any chunks to whole frames, each with its own bytes.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::ops::Range;

/// A frame grew beyond the limit without ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {0} bytes")]
pub struct FrameTooLong(pub usize);

/// Cuts a byte stream into frames. Lines may end in LF, CR or CRLF, and a chunk may end anywhere.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    /// Up to here the buffer holds whole lines that are not blank.
    scanned: usize,
    /// Whether a line that is not blank has been seen since the last frame.
    content: bool,
    limit: usize,
}

impl Frames {
    /// `limit`: the longest frame in bytes.
    pub fn new(limit: usize) -> Frames {
        Frames { buffer: BytesMut::new(), scanned: 0, content: false, limit }
    }

    /// Takes the next chunk; then call [`Frames::next_frame`] until it gives `None`.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole frame, its blank line included.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        loop {
            let rest = &self.buffer[self.scanned..];
            let Some(step) = memchr::memchr2(b'\n', b'\r', rest) else {
                let length = self.buffer.len();
                return if length > self.limit { Err(FrameTooLong(self.limit)) } else { Ok(None) };
            };
            let mut end = self.scanned + step + 1;
            if rest[step] == b'\r' {
                match rest.get(step + 1) {
                    Some(b'\n') => end += 1,
                    // A CR that ends the chunk may be half of a CRLF. A blank line is complete either way: a LF that
                    // follows then leads the next frame, where blank lines are skipped. Any other line waits.
                    None if step > 0 || !self.content => return Ok(None),
                    _ => {}
                }
            }
            self.scanned = end;
            if step > 0 {
                self.content = true;
            } else if self.content {
                self.content = false;
                self.scanned = 0;
                return Ok(Some(Frame::of(self.buffer.split_to(end).freeze())));
            }
        }
    }

    /// What remains when the stream ends: an unterminated frame, which readers ignore.
    pub fn remainder(mut self) -> Bytes {
        self.buffer.copy_to_bytes(self.buffer.len())
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Frame {
    raw: Bytes,
    /// The `data` lines' values, in order; one, as a rule.
    lines: SmallVec<[Range<usize>; 1]>,
}

impl Frame {
    fn of(raw: Bytes) -> Frame {
        let mut lines = SmallVec::new();
        let mut at = 0;
        // Where each line ends; a CRLF ends an empty line too, which holds no data.
        for end in memchr::memchr2_iter(b'\n', b'\r', &raw).chain([raw.len()]) {
            if let Some(value) = raw[at..end].strip_prefix(b"data:") {
                let value = value.strip_prefix(b" ").unwrap_or(value);
                lines.push(end - value.len()..end);
            }
            at = (end + 1).min(raw.len());
        }
        Frame { raw, lines }
    }

    /// The frame as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The event's data, lines joined by LF; `None` for comments and the like, or when it is not UTF-8.
    pub fn data(&self) -> Option<Cow<'_, str>> {
        let line = |range: &Range<usize>| std::str::from_utf8(&self.raw[range.clone()]).ok();
        match self.lines.as_slice() {
            [] => None,
            [only] => line(only).map(Cow::Borrowed),
            many => Some(Cow::Owned(many.iter().map(line).collect::<Option<Vec<_>>>()?.join("\n"))),
        }
    }

    /// Whether there is data, be it text or not.
    pub fn has_data(&self) -> bool {
        !self.lines.is_empty()
    }

    /// What stands before and behind a range of its data; nothing where that is in several lines.
    pub fn around(&self, range: Range<usize>) -> Option<[&[u8]; 2]> {
        let [only] = self.lines.as_slice() else { return None };
        Some([&self.raw[..only.start + range.start], &self.raw[only.start + range.end..]])
    }

    /// The frame with other data; other lines (`event:`, `id:`) stay.
    pub fn with_data(&self, data: &str) -> Bytes {
        let (Some(first), Some(last)) = (self.lines.first(), self.lines.last()) else { return self.raw.clone() };
        let mut out = BytesMut::with_capacity(self.raw.len() + data.len());
        out.extend_from_slice(&self.raw[..first.start]);
        // A line break inside JSON stands between tokens, and each further line needs its own field name.
        match memchr::memchr(b'\n', data.as_bytes()) {
            None => out.extend_from_slice(data.as_bytes()),
            Some(_) => out.extend_from_slice(data.replace('\n', "\ndata: ").as_bytes()),
        }
        out.extend_from_slice(&self.raw[last.end..]);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> (Vec<Frame>, Bytes) {
        let mut frames = Frames::new(1 << 20);
        let mut out = Vec::new();
        for chunk in chunks {
            frames.push(chunk);
            while let Some(frame) = frames.next_frame().unwrap() {
                out.push(frame);
            }
        }
        (out, frames.remainder())
    }

    #[test]
    fn frames_keep_their_bytes_whatever_ends_their_lines() {
        let (frames, rest) =
            cut(&[b": ping\n\nevent: x\r\ndata: {\"a\":1}\r\n\r\ndata:a\rdata: b\r\r\ndata: [DONE]\n\ndata: cut"]);
        let data: Vec<_> = frames.iter().map(|frame| frame.data().map(Cow::into_owned)).collect();
        assert_eq!(data, [None, Some("{\"a\":1}".into()), Some("a\nb".into()), Some("[DONE]".into())]);
        assert!(frames[3].has_data() && !frames[0].has_data());
        assert_eq!(rest, "data: cut");
        assert_eq!(frames[1].with_data("{}"), "event: x\r\ndata: {}\r\n\r\n");
        assert_eq!(frames[1].around(1..5), Some([&b"event: x\r\ndata: {"[..], b"1}\r\n\r\n"]));
        assert_eq!(frames[2].around(0..1), None);
    }

    #[test]
    fn a_frame_without_end_is_an_error() {
        let mut frames = Frames::new(8);
        frames.push(b"data: 123456789");
        assert_eq!(frames.next_frame().unwrap_err(), FrameTooLong(8));
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(text in "(data: ?[a-z]{0,3}|event: e|:c|)(\n|\r\n|\r)|(data: x(\n\n|\r\n\r\n)){1,3}", more in "((data: ?[a-zé]{0,3}|:c|)(\n|\r\n)){0,8}", cuts in proptest::collection::vec(0usize..64, 0..6)) {
            let text = format!("{text}{more}");
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (frames, rest) = cut(&chunks);
            let mut joined: Vec<u8> = frames.iter().flat_map(|frame| frame.raw().to_vec()).collect();
            joined.extend_from_slice(&rest);
            prop_assert_eq!(joined, bytes);
            let data = |frames: &[Frame]| frames.iter().filter_map(|frame| frame.data().map(Cow::into_owned)).collect::<Vec<_>>();
            prop_assert_eq!(data(&frames), data(&cut(&[bytes]).0));
        }
    }
}
