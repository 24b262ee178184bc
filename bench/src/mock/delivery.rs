//! How an answer is handed over: whole or in events, at the script's pace, and broken where its fault says.

use super::body::{Heartbeat, Scripted, Step};
use super::dialect::Dialect;
use super::ledger::InFlight;
use super::reply::{MARK, Order};
use super::script::Fault;
use super::wait::Wait;
use crate::statistics::Random;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use std::io::Write;
use std::mem;
use std::time::Duration;

/// The most bytes of a plain answer that are handed over at once, so that a large answer counts as completed only
/// when nearly all of it has been taken.
const PLAIN_PIECE: usize = 64 << 10;

/// The time between the last bytes before a RST and the RST, which would overtake what the client has not read.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// What follows a terminator that does not end the body.
const GARBAGE: Bytes = Bytes::from_static(b"garbage after the end\n\ndata: {\"late\":\n\n");

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer before pace and faults.
pub(super) enum Answer {
    /// One JSON document.
    Plain(Vec<u8>),
    Stream(Stream),
}

/// A streamed answer.
pub(super) struct Stream {
    pub(super) dialect: Dialect,
    /// In their order; each is a whole server-sent event.
    pub(super) events: Vec<Event>,
    pub(super) heartbeat: Heartbeat,
    /// Whether the events are sent as the elements of one JSON array, as Gemini does when nobody asks for events.
    pub(super) array: bool,
}

pub(super) struct Event {
    part: Part,
    bytes: Bytes,
}

impl Event {
    pub(super) fn new(part: Part, bytes: Bytes) -> Event {
        Event { part, bytes }
    }

    /// An event that has a name.
    pub(super) fn named(part: Part, name: &str, data: &str) -> Event {
        Event::new(part, Bytes::from(format!("event: {name}\ndata: {data}\n\n")))
    }
}

/// The part that an event has in its stream; only deltas are paced and counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Opens the message and says nothing yet.
    Opening,
    Delta,
    /// Begins or ends a block of deltas.
    Frame,
    /// The finish reason, and the usage.
    Closing,
    /// What a complete stream ends with.
    Terminator,
}

/// What breaks an answer off.
fn break_off(fault: Fault) -> Vec<Step> {
    match fault {
        Fault::CloseAfterHeader | Fault::CloseMidStream => vec![Step::Close],
        Fault::ResetAfterHeader | Fault::ResetMidStream => vec![Step::Wait(BEFORE_RESET), Step::Reset],
        _ => vec![Step::Stall],
    }
}

/// A plain answer, whole or broken as the script says.
pub(super) fn plain(order: Order, dialect: Dialect, body: Vec<u8>, in_flight: InFlight) -> Response<Scripted> {
    let body = match order.fault {
        Fault::ErrorFirst | Fault::ErrorMidStream => Bytes::from(dialect.late_error()),
        Fault::EmptyStream => Bytes::new(),
        Fault::MalformedJson => Bytes::from(body[..body.len() / 2].to_vec()),
        Fault::GarbageAfterDone => Bytes::from([&body[..], &GARBAGE].concat()),
        Fault::InvalidUtf8 => unmark(&body),
        _ => Bytes::from(body),
    };
    let mut declared = Some(body.len() as u64);
    let steps = match order.fault {
        Fault::CloseAfterHeader | Fault::ResetAfterHeader | Fault::StallAfterHeader | Fault::StallFirstToken => {
            [vec![Step::Flush], break_off(order.fault)].into_iter().flatten().collect()
        }
        Fault::CloseMidStream | Fault::ResetMidStream | Fault::StallMidStream => {
            let half = vec![Step::Send(body.slice(..body.len() / 2)), Step::Flush];
            half.into_iter().chain(break_off(order.fault)).collect()
        }
        Fault::MetadataForever => {
            declared = None;
            vec![Step::Flush, Step::Beat(Heartbeat::Same(Bytes::from_static(b" ")))]
        }
        Fault::Trickle | Fault::SplitUtf8 | Fault::Gzip => {
            declared = declared.filter(|_| order.fault != Fault::Gzip);
            let mut writer = Writer::new(order, false, 1);
            writer.write(&body);
            writer.end()
        }
        _ => in_pieces(body),
    };
    numbered(order, dialect, respond(order, JSON, steps, declared, in_flight))
}

fn in_pieces(mut body: Bytes) -> Vec<Step> {
    let mut steps = Vec::with_capacity(1);
    while body.len() > PLAIN_PIECE {
        steps.push(Step::Send(body.split_to(PLAIN_PIECE)));
    }
    if !body.is_empty() {
        steps.push(Step::Send(body));
    }
    steps
}

/// A stream, each event in a write of its own, paced and broken as the script says.
pub(super) fn stream(order: Order, stream: Stream, in_flight: InFlight) -> Response<Scripted> {
    let (dialect, array) = (stream.dialect, stream.array);
    let steps = match order.fault {
        Fault::CloseAfterHeader | Fault::ResetAfterHeader | Fault::StallAfterHeader => {
            [vec![Step::Flush], break_off(order.fault)].into_iter().flatten().collect()
        }
        // Without a step hyper would declare the length 0 instead of ending a stream.
        Fault::EmptyStream => vec![Step::Flush],
        _ => stream_steps(order, stream),
    };
    let kind = if array { JSON } else { HeaderValue::from_static("text/event-stream; charset=utf-8") };
    let mut response = respond(order, kind, steps, None, in_flight);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    numbered(order, dialect, response)
}

fn respond(
    order: Order,
    kind: HeaderValue,
    steps: Vec<Step>,
    declared: Option<u64>,
    mut in_flight: InFlight,
) -> Response<Scripted> {
    // An empty body is never polled, so it is finished before it begins.
    if steps.is_empty() {
        in_flight.finish();
    }
    let mut response = Response::new(Scripted::new(steps, declared, Some(in_flight)));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if order.fault == Fault::Gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Providers number their answers in a header, and the SDKs show it.
fn numbered(order: Order, dialect: Dialect, mut response: Response<Scripted>) -> Response<Scripted> {
    if let Ok(value) = HeaderValue::try_from(format!("req_mock{:012}", order.serial)) {
        response.headers_mut().insert(dialect.id_header(), value);
    }
    response
}

fn stream_steps(order: Order, stream: Stream) -> Vec<Step> {
    let deltas = stream.events.iter().filter(|event| event.part == Part::Delta).count();
    let half = deltas.div_ceil(2);
    let mut writer = Writer::new(order, stream.array, stream.events.len());
    writer.wait(order.script.first_token_milliseconds);
    let mut number = 0;
    for event in stream.events {
        if breaks_before(order.fault, event.part, number == half) {
            return writer.broken(order.fault, stream.dialect, stream.heartbeat);
        }
        if event.part != Part::Delta {
            writer.event(&event.bytes);
            continue;
        }
        if number > 0 {
            writer.wait(order.script.token_milliseconds);
        }
        number += 1;
        match order.fault {
            Fault::MalformedJson if number == half => writer.event(&cut(&event.bytes)),
            _ => writer.event(&event.bytes),
        }
    }
    writer.close_array();
    if order.fault == Fault::GarbageAfterDone {
        writer.write(&GARBAGE);
    }
    writer.end()
}

/// Whether a stream is broken off before an event of this part; `half` when half of the deltas are out. With fewer
/// than two deltas the half is all of them.
fn breaks_before(fault: Fault, part: Part, half: bool) -> bool {
    match fault {
        Fault::ErrorFirst => true,
        Fault::StallFirstToken | Fault::MetadataForever => part != Part::Opening,
        Fault::CloseMidStream | Fault::ResetMidStream | Fault::StallMidStream | Fault::ErrorMidStream => {
            half && matches!(part, Part::Delta | Part::Closing | Part::Terminator)
        }
        Fault::NoDone => part == Part::Terminator,
        _ => false,
    }
}

/// An event whose JSON ends half-way; its frame stays whole.
fn cut(event: &[u8]) -> Bytes {
    let mut bytes = event[..event.len() / 2].to_vec();
    bytes.extend_from_slice(b"\n\n");
    Bytes::from(bytes)
}

/// Puts the byte 0xFF where the mark stands.
fn unmark(bytes: &[u8]) -> Bytes {
    let mut buffer = [0; 4];
    let mark = MARK.encode_utf8(&mut buffer).as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, others)) = rest.split_first() {
        match rest.strip_prefix(mark) {
            Some(after) => {
                out.push(0xff);
                rest = after;
            }
            None => {
                out.push(*first);
                rest = others;
            }
        }
    }
    Bytes::from(out)
}

/// Turns events into steps, in the form that the fault asks for.
struct Writer {
    steps: Vec<Step>,
    fault: Fault,
    /// The time between the bytes of a trickle.
    pace: Option<Wait>,
    random: Random,
    array: bool,
    /// How many events have been written.
    sent: usize,
    gzip: Option<Box<GzEncoder<Vec<u8>>>>,
}

impl Writer {
    fn new(order: Order, array: bool, events: usize) -> Writer {
        let gzip = order.fault == Fault::Gzip;
        Writer {
            steps: Vec::with_capacity(3 * events),
            fault: order.fault,
            pace: order.script.token_milliseconds,
            // Other draws than those of the answer's latency.
            random: Random::of(!order.serial),
            array,
            sent: 0,
            gzip: gzip.then(|| Box::new(GzEncoder::new(Vec::new(), Compression::default()))),
        }
    }

    fn wait(&mut self, wait: Option<Wait>) {
        // A trickle has a pace of its own.
        if self.fault != Fault::Trickle {
            self.pause(wait);
        }
    }

    fn pause(&mut self, wait: Option<Wait>) {
        self.steps.extend(wait.and_then(|wait| wait.draw(&mut self.random)).map(Step::Wait));
    }

    fn event(&mut self, event: &Bytes) {
        let event = self.framed(event);
        self.sent += 1;
        self.write(&event);
    }

    /// The event as an element of the array, if there is one.
    fn framed(&self, event: &Bytes) -> Bytes {
        if !self.array {
            return event.clone();
        }
        let data = event.strip_prefix(b"data: ").unwrap_or(event);
        let data = data.strip_suffix(b"\n\n").unwrap_or(data);
        let before: &[u8] = if self.sent == 0 { b"[" } else { b",\n" };
        Bytes::from([before, data].concat())
    }

    fn close_array(&mut self) {
        if self.array {
            self.write(&Bytes::from_static(if self.sent == 0 { b"[]" } else { b"]" }));
        }
    }

    fn write(&mut self, bytes: &Bytes) {
        match self.fault {
            Fault::Trickle => {
                for at in 0..bytes.len() {
                    self.pause(self.pace);
                    self.steps.extend([Step::Send(bytes.slice(at..=at)), Step::Flush]);
                }
            }
            Fault::SplitUtf8 => {
                let mut from = 0;
                for at in 1..bytes.len() {
                    // The second byte of a character follows a byte that begins one.
                    if is_continuation(bytes[at]) && !is_continuation(bytes[at - 1]) {
                        self.send(bytes.slice(from..at));
                        from = at;
                    }
                }
                self.send(bytes.slice(from..));
            }
            Fault::InvalidUtf8 => self.send(unmark(bytes)),
            Fault::Gzip => self.compress(|gzip| gzip.write_all(bytes).and_then(|()| gzip.flush())),
            _ => self.send(bytes.clone()),
        }
    }

    fn send(&mut self, bytes: Bytes) {
        self.steps.extend([Step::Send(bytes), Step::Flush]);
    }

    fn compress(&mut self, work: impl FnOnce(&mut GzEncoder<Vec<u8>>) -> std::io::Result<()>) {
        let Some(gzip) = &mut self.gzip else {
            return;
        };
        // Nothing fails that writes to memory.
        let _ = work(gzip);
        let bytes = Bytes::from(mem::take(gzip.get_mut()));
        self.send(bytes);
    }

    /// The steps of a body that ends as it should.
    fn end(mut self) -> Vec<Step> {
        self.compress(|gzip| gzip.try_finish());
        // The end of the body travels with the last event.
        if matches!(self.steps.last(), Some(Step::Flush)) {
            self.steps.pop();
        }
        self.steps
    }

    /// The steps of a stream that breaks off here.
    fn broken(mut self, fault: Fault, dialect: Dialect, heartbeat: Heartbeat) -> Vec<Step> {
        match fault {
            Fault::ErrorFirst | Fault::ErrorMidStream => {
                self.event(&dialect.late_error_event(self.sent));
                self.close_array();
                self.end()
            }
            Fault::NoDone => self.end(),
            Fault::StallFirstToken | Fault::MetadataForever => {
                if let (0, Heartbeat::Same(opening)) = (self.sent, &heartbeat) {
                    self.event(&opening.clone());
                }
                let last = match (fault, heartbeat) {
                    (Fault::StallFirstToken, _) => Step::Stall,
                    (_, Heartbeat::Same(bytes)) => Step::Beat(Heartbeat::Same(self.framed(&bytes))),
                    (_, numbered) => Step::Beat(numbered),
                };
                self.steps.push(last);
                self.steps
            }
            _ => {
                self.steps.extend(break_off(fault));
                self.steps
            }
        }
    }
}

/// Whether a byte is inside a character.
fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_becomes_the_byte_that_no_text_holds() {
        assert_eq!(&unmark(format!("a{MARK}é{MARK}").as_bytes())[..], b"a\xff\xc3\xa9\xff");
        assert_eq!(&unmark(b"")[..], b"");
    }

    #[test]
    fn streams_are_broken_off_after_half_of_the_deltas_and_not_at_a_frame() {
        assert!(breaks_before(Fault::CloseMidStream, Part::Delta, true));
        assert!(breaks_before(Fault::ErrorMidStream, Part::Closing, true));
        assert!(!breaks_before(Fault::StallMidStream, Part::Frame, true));
        assert!(!breaks_before(Fault::ResetMidStream, Part::Delta, false));
        assert!(!breaks_before(Fault::StallFirstToken, Part::Opening, true));
    }
}
