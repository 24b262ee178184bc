//! A lean load generator for HTTP/1.1 with keep-alive connections.
//!
//! It shares a core with the mock in the benchmark, so each request is bytes that were prepared by the caller and a
//! response is only framed, never interpreted. Two loops answer two questions: [`closed`] keeps the server busy
//! ("what does a request cost?"), [`open`] keeps to a rate whatever the server does ("how late is an answer?").

mod response;

pub use response::{Malformed, Reader, Response};

use bytes::Bytes;
use hdrhistogram::Histogram;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Makes the bytes of a request from its number, so that each request can differ.
pub type Requests = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

/// How long an answer may take; a server that is stuck must not hang the benchmark.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest latency that is recorded exactly, in microseconds.
const LONGEST: u64 = 60_000_000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Requests sent, those that failed included.
    pub requests: u64,
    /// Answers with a status other than 2xx.
    pub status_errors: u64,
    /// Connections that failed, closed early, timed out or sent no HTTP.
    pub io_errors: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latency of the good answers in microseconds.
    pub latencies: Histogram<u64>,
    /// Of an open loop: until the first text of the good answers arrived, which of an answer that is no stream is its end.
    pub firsts: Histogram<u64>,
}

impl Report {
    /// An empty report, which others are merged into.
    pub fn new() -> Report {
        // Three digits are well below the noise of any machine.
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are constants that hdrhistogram allows"))
        };
        let (latencies, firsts) = (empty(), empty());
        Report { requests: 0, status_errors: 0, io_errors: 0, elapsed: Duration::ZERO, latencies, firsts }
    }

    /// Adds what another part of the same run found.
    pub fn merge(&mut self, other: &Report) {
        self.requests += other.requests;
        self.status_errors += other.status_errors;
        self.io_errors += other.io_errors;
        self.elapsed += other.elapsed;
        // Both have the same bounds, so nothing can be out of range.
        let _ = self.latencies.add(&other.latencies);
        let _ = self.firsts.add(&other.firsts);
    }

    /// Requests that had no good answer.
    pub fn errors(&self) -> u64 {
        self.status_errors + self.io_errors
    }

    /// Requests answered each second.
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency in microseconds that `percent` of the good answers kept.
    pub fn percentile_us(&self, percent: f64) -> u64 {
        self.latencies.value_at_percentile(percent)
    }

    /// The same until the first text.
    pub fn first_percentile_us(&self, percent: f64) -> u64 {
        self.firsts.value_at_percentile(percent)
    }

    fn count(&mut self, answer: io::Result<Response>, latency: Duration, first: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        self.requests += 1;
        match answer {
            Ok(response) if (200..300).contains(&response.status) => {
                self.latencies.saturating_record(micros(latency));
                self.firsts.saturating_record(micros(first));
            }
            Ok(_) => self.status_errors += 1,
            Err(_) => self.io_errors += 1,
        }
    }
}

impl Default for Report {
    fn default() -> Report {
        Report::new()
    }
}

// ------------------------------------------------------------ closed loop ---

/// Sends the requests of `numbers` over `connections`, each of which sends the next as soon as it has an answer.
pub async fn closed(addr: SocketAddr, connections: usize, numbers: Range<u64>, requests: Requests) -> Report {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let begun = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (next, requests) = (Arc::clone(&next), Arc::clone(&requests));
        workers.spawn(async move {
            let mut report = Report::new();
            let mut connection = None;
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= numbers.end {
                    return report;
                }
                let request = requests(number);
                let sent = Instant::now();
                let answer = exchange(addr, &mut connection, &request).await;
                let took = sent.elapsed();
                report.count(answer, took, took);
            }
        });
    }
    let mut report = Report::new();
    while let Some(part) = workers.join_next().await {
        // A worker neither panics nor is aborted; were it so, its requests would be missing from the count.
        if let Ok(part) = part {
            report.merge(&part);
        }
    }
    report.elapsed = begun.elapsed();
    report
}

/// Sends one request over `connection`, which is opened when it is missing and dropped when it cannot be used again.
async fn exchange(addr: SocketAddr, connection: &mut Option<TcpStream>, request: &[u8]) -> io::Result<Response> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let answer = async {
        stream.write_all(request).await?;
        let mut reader = Reader::new();
        loop {
            if stream.read_buf(reader.buffer()).await? == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            if let Some(response) = reader.advance()? {
                return Ok(response);
            }
        }
    };
    let response = tokio::time::timeout(PATIENCE, answer).await??;
    if response.keep_alive {
        *connection = Some(stream);
    }
    Ok(response)
}

// -------------------------------------------------------------- open loop ---

/// Sends the requests of `numbers` at `rate` each second, each up to a millisecond later than even times; a latency
/// counts from the moment at which the request should have been sent, so a server that stalls cannot hide what it did
/// to the requests behind.
///
/// It runs on blocking threads, one a connection: tokio's timer has ticks of a millisecond, ten times what a good
/// proxy adds. `connections` bounds how many answers may be outstanding before requests leave late.
pub fn open(addr: SocketAddr, connections: usize, rate: f64, numbers: Range<u64>, requests: &Requests) -> Report {
    let next = AtomicU64::new(numbers.start);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let (ready, begin) = (Barrier::new(connections), OnceLock::new());
    let warming = requests(numbers.start);
    let worker = || {
        let mut report = Report::new();
        let mut connection = blocking_connect(addr).ok();
        // What a server does once for each connection is none of a steady rate's.
        let _ = blocking_exchange(addr, &mut connection, &warming, &mut None);
        ready.wait();
        let begin = *begin.get_or_init(|| Instant::now() + Duration::from_millis(20));
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= numbers.end {
                return report;
            }
            let request = requests(number);
            let due = begin + interval.mul_f64((number - numbers.start) as f64) + off_the_tick(number);
            sleep_until(due);
            let mut first = None;
            let answer = blocking_exchange(addr, &mut connection, &request, &mut first);
            let ended = Instant::now();
            report.count(answer, ended - due, first.unwrap_or(ended) - due);
        }
    };
    let mut report = Report::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            if let Ok(part) = worker.join() {
                report.merge(&part);
            }
        }
    });
    report.elapsed = begin.get().map_or(Duration::ZERO, Instant::elapsed);
    report
}

/// A part of a millisecond, another for each request, and all of them alike often. A provider that paces its answers by
/// a timer of milliseconds writes them all at its ticks; requests at even times would meet those always, or never, by
/// when a run happens to begin.
fn off_the_tick(number: u64) -> Duration {
    // Multiples of the golden ratio are spread the most evenly (H. Weyl; Knuth, TAOCP 3, 6.4).
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    Duration::from_millis(1).mul_f64((number as f64 * GOLDEN).fract())
}

/// Sleeps until shortly before `due` and spins for the rest: the kernel wakes a sleeper some 50 µs late.
fn sleep_until(due: Instant) {
    const SPIN: Duration = Duration::from_micros(80);
    if let Some(time) = due.checked_duration_since(Instant::now()).and_then(|left| left.checked_sub(SPIN)) {
        thread::sleep(time);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

fn blocking_connect(addr: SocketAddr) -> io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn blocking_exchange(
    addr: SocketAddr,
    connection: &mut Option<std::net::TcpStream>,
    request: &[u8],
    first: &mut Option<Instant>,
) -> io::Result<Response> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => blocking_connect(addr)?,
    };
    stream.write_all(request)?;
    let mut reader = Reader::new();
    let mut bytes = [0; 16 << 10];
    loop {
        let count = match stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if first.is_none() && has_text(&bytes[..count]) {
            *first = Some(Instant::now());
        }
        reader.buffer().extend_from_slice(&bytes[..count]);
        if let Some(response) = reader.advance()? {
            if response.keep_alive {
                *connection = Some(stream);
            }
            return Ok(response);
        }
    }
}

/// Whether a text of the answer is in what arrived: events that only say who speaks have an empty one.
fn has_text(bytes: &[u8]) -> bool {
    const TEXT: &[u8] = br#""content":""#;
    memchr::memmem::find_iter(bytes, TEXT).any(|at| bytes.get(at + TEXT.len()).is_some_and(|byte| *byte != b'"'))
}

/// Sends one request over a connection of its own and returns the answer with its head and body, for set-up calls
/// and checks.
pub fn ask(addr: SocketAddr, request: &[u8]) -> io::Result<(Response, String)> {
    let mut stream = blocking_connect(addr)?;
    stream.write_all(request)?;
    let mut reader = Reader::new();
    let mut bytes = [0; 16 << 10];
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reader.buffer().extend_from_slice(&bytes[..count]);
        if let Some(response) = reader.advance()? {
            return Ok((response, String::from_utf8_lossy(reader.buffer()).into_owned()));
        }
    }
}
