//! What came of requests.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Connect,
    Timeout,
    /// The connection broke, or what came was no HTTP.
    Broken,
    Status(u16),
    /// An error inside a stream.
    InBand,
    /// A stream that ended without its `[DONE]`.
    Cut,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Connect => f.write_str("no connection"),
            Fault::Timeout => f.write_str("timed out"),
            Fault::Broken => f.write_str("broken connection"),
            Fault::Status(status) => write!(f, "status {status}"),
            Fault::InBand => f.write_str("error in the stream"),
            Fault::Cut => f.write_str("cut stream"),
        }
    }
}

/// A good answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub total: Duration,
    /// Until the first content of a stream.
    pub first: Option<Duration>,
    /// Between contents of a stream, in microseconds.
    pub gaps: Vec<u64>,
    /// Tokens that the usage tells, or pieces of content.
    pub tokens: u64,
    /// What the server says that its own steps took (`server-timing`), in microseconds.
    pub steps: Vec<(String, f64)>,
}

/// All answers of a target in one round.
#[derive(Clone, Debug)]
pub struct Series {
    /// Microseconds.
    pub total: Histogram<u64>,
    pub first: Histogram<u64>,
    pub gaps: Histogram<u64>,
    /// When each good answer was asked for, in milliseconds from the beginning, and how long it took, in microseconds.
    pub points: Vec<(u32, u32)>,
    pub faults: BTreeMap<Fault, u64>,
    pub tokens: u64,
    pub steps: BTreeMap<String, Histogram<u64>>,
    pub elapsed: Duration,
}

/// The longest time that is told apart, in microseconds; three digits are well below the noise of any machine.
const LONGEST: u64 = 600_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constants that it allows"))
}

impl Default for Series {
    fn default() -> Series {
        Series {
            total: histogram(),
            first: histogram(),
            gaps: histogram(),
            points: Vec::new(),
            faults: BTreeMap::new(),
            tokens: 0,
            steps: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }
}

impl Series {
    pub(super) fn add(&mut self, at: Duration, answer: Result<Answer, Fault>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return *self.faults.entry(fault).or_default() += 1,
        };
        let total = micros(answer.total);
        self.total.saturating_record(total);
        if let Some(first) = answer.first {
            self.first.saturating_record(micros(first));
        }
        answer.gaps.into_iter().for_each(|gap| self.gaps.saturating_record(gap));
        self.points.push((at.as_millis() as u32, u32::try_from(total).unwrap_or(u32::MAX)));
        self.tokens += answer.tokens;
        for (step, micros) in answer.steps {
            // In hundredths, since a step of a fast server takes single microseconds.
            self.steps.entry(step).or_insert_with(histogram).saturating_record((micros * 100.0) as u64);
        }
    }

    /// Adds what another part of the same run found.
    pub fn merge(&mut self, other: Series) {
        // All have the same bounds, so nothing can be out of range.
        let _ = (self.total.add(&other.total), self.first.add(&other.first), self.gaps.add(&other.gaps));
        self.points.extend(other.points);
        self.tokens += other.tokens;
        self.elapsed += other.elapsed;
        other.faults.into_iter().for_each(|(fault, count)| *self.faults.entry(fault).or_default() += count);
        for (step, times) in other.steps {
            let _ = self.steps.entry(step).or_insert_with(histogram).add(&times);
        }
    }

    pub fn good(&self) -> u64 {
        self.total.len()
    }

    pub fn failed(&self) -> u64 {
        self.faults.values().sum()
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST)
}
