//! What was measured, in words and numbers.

use super::outcome::Series;
use super::schedule::Load;
use crate::statistics::{bootstrap, median};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Everything that was measured.
pub struct Measured {
    pub names: Vec<String>,
    /// By target, then by round.
    pub rounds: Vec<Vec<Series>>,
    pub load: Load,
}

/// What a target takes longer than the first one, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The median of the rounds' differences.
    pub added: f64,
    /// The middle 95 % of 2,000 resamples of the rounds; one round says nothing of its own spread.
    pub interval: Option<(f64, f64)>,
}

/// Percentiles that are told.
pub const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 100.0];

/// Which times of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Total,
    First,
    Gaps,
}

impl Times {
    fn of(self, series: &Series) -> &hdrhistogram::Histogram<u64> {
        match self {
            Times::Total => &series.total,
            Times::First => &series.first,
            Times::Gaps => &series.gaps,
        }
    }
}

impl Measured {
    /// All rounds of a target.
    pub fn whole(&self, target: usize) -> Series {
        let mut whole = Series::default();
        for series in &self.rounds[target] {
            whole.merge(series.clone());
        }
        whole
    }

    /// What `target` adds to the first one at a percentile.
    pub fn added(&self, target: usize, times: Times, percentile: f64) -> Option<Comparison> {
        let pairs = self.rounds[0].iter().zip(&self.rounds[target]);
        let known = pairs.filter(|(base, other)| !times.of(base).is_empty() && !times.of(other).is_empty());
        let at = |series: &Series| times.of(series).value_at_percentile(percentile) as f64;
        let differences: Vec<f64> = known.map(|(base, other)| at(other) - at(base)).collect();
        if target == 0 || differences.is_empty() {
            return None;
        }
        let interval = (differences.len() > 2).then(|| bootstrap(&differences, median));
        Some(Comparison { added: median(differences), interval })
    }

    /// Everything as JSON; times in microseconds.
    pub fn json(&self) -> Value {
        let targets = (0..self.names.len()).map(|place| {
            let whole = self.whole(place);
            let percentiles = |times: Times| {
                let histogram = times.of(&whole);
                let values = PERCENTILES.map(|at| (format!("p{at}"), json!(histogram.value_at_percentile(at))));
                (!histogram.is_empty()).then(|| Value::Object(values.into_iter().collect()))
            };
            let added = |times: Times| {
                let told = [50.0, 99.0].into_iter().filter_map(|at| {
                    let found = self.added(place, times, at)?;
                    Some((format!("p{at}"), json!({ "added": found.added, "interval": found.interval })))
                });
                Value::Object(told.collect())
            };
            let steps = whole.steps.iter().map(|(step, times)| {
                (step.clone(), json!({ "p50": times.value_at_percentile(50.0) as f64 / 100.0, "p99": times.value_at_percentile(99.0) as f64 / 100.0 }))
            });
            json!({
                "name": self.names[place], "requests": whole.good() + whole.failed(), "good": whole.good(),
                "faults": whole.faults.iter().map(|(fault, count)| (fault.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
                "seconds": whole.elapsed.as_secs_f64(), "tokens": whole.tokens,
                "total_us": percentiles(Times::Total), "first_token_us": percentiles(Times::First), "gap_us": percentiles(Times::Gaps),
                "added_total_us": added(Times::Total), "added_first_token_us": added(Times::First),
                "steps_us": steps.collect::<serde_json::Map<_, _>>(),
            })
        });
        json!({ "rounds": self.rounds.first().map_or(0, Vec::len), "load": format!("{:?}", self.load), "targets": targets.collect::<Vec<_>>() })
    }
}

/// A time for people: three digits, with its unit.
pub(super) fn told(micros: f64) -> String {
    match micros.abs() {
        below if below < 1_000.0 => format!("{micros:.0} µs"),
        below if below < 10_000.0 => format!("{:.2} ms", micros / 1e3),
        below if below < 1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// The table for a terminal.
pub fn table(measured: &Measured) -> String {
    let mut out = String::new();
    let width = measured.names.iter().map(String::len).max().unwrap_or(0).max(8);
    for (title, times) in [("total", Times::Total), ("first token", Times::First), ("between tokens", Times::Gaps)] {
        let wholes: Vec<Series> = (0..measured.names.len()).map(|place| measured.whole(place)).collect();
        if wholes.iter().all(|whole| times.of(whole).is_empty()) {
            continue;
        }
        let _ = write!(out, "{title:<width$}");
        for at in PERCENTILES {
            let _ = write!(out, " {:>10}", if at == 100.0 { "max".to_owned() } else { format!("p{at}") });
        }
        if times == Times::Total {
            let _ = write!(out, " {:>9} {:>7} {:>9} {:>10}", "requests", "failed", "req/s", "tokens/s");
        }
        out.push('\n');
        for (name, whole) in measured.names.iter().zip(&wholes) {
            let _ = write!(out, "{name:<width$}");
            for at in PERCENTILES {
                let _ = write!(out, " {:>10}", told(times.of(whole).value_at_percentile(at) as f64));
            }
            if times == Times::Total {
                let seconds = whole.elapsed.as_secs_f64().max(1e-9);
                let _ = write!(
                    out,
                    " {:>9} {:>7} {:>9.1} {:>10.1}",
                    whole.good() + whole.failed(),
                    whole.failed(),
                    whole.good() as f64 / seconds,
                    whole.tokens as f64 / seconds
                );
            }
            out.push('\n');
        }
        out.push('\n');
    }
    for place in 1..measured.names.len() {
        for (title, times) in [("total", Times::Total), ("first token", Times::First)] {
            for at in [50.0, 99.0] {
                let Some(found) = measured.added(place, times, at) else { continue };
                let interval = match found.interval {
                    Some((low, high)) => format!("{} to {}", told(low), told(high)),
                    None => "one or two rounds say nothing of the spread".to_owned(),
                };
                let _ = writeln!(
                    out,
                    "{} adds to {}, {title} p{at}: {} ({interval})",
                    measured.names[place],
                    measured.names[0],
                    told(found.added)
                );
            }
        }
    }
    for place in 0..measured.names.len() {
        let whole = measured.whole(place);
        for (fault, count) in &whole.faults {
            let _ = writeln!(out, "{}: {count} × {fault}", measured.names[place]);
        }
        if !whole.steps.is_empty() {
            let steps = whole
                .steps
                .iter()
                .map(|(step, times)| format!("{step} {:.1}", times.value_at_percentile(50.0) as f64 / 100.0));
            let steps: Vec<String> = steps.collect();
            let _ = writeln!(out, "{}: server-timing, median µs: {}", measured.names[place], steps.join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::{Answer, Fault};
    use std::time::Duration;

    fn series(micros: u64) -> Series {
        let mut series = Series::default();
        for number in 0..100 {
            let answer = Answer { total: Duration::from_micros(micros + number), ..Answer::default() };
            series.add(Duration::ZERO, Ok(answer));
        }
        series
    }

    #[test]
    fn what_is_added_is_the_median_of_rounds_with_its_interval() {
        let rounds =
            vec![vec![series(1_000), series(1_000), series(1_000)], vec![series(1_200), series(1_300), series(1_250)]];
        let load = Load::Closed { connections: 1 };
        let mut measured = Measured { names: vec!["a".into(), "b".into()], rounds, load };
        measured.rounds[1][0].add(Duration::ZERO, Err(Fault::Status(500)));
        let found = measured.added(1, Times::Total, 50.0).unwrap();
        assert!((found.added - 250.0).abs() < 3.0, "{found:?}");
        let (low, high) = found.interval.unwrap();
        assert!(low >= 198.0 && high <= 302.0 && low < high);
        assert_eq!(measured.added(0, Times::Total, 50.0), None);
        let text = table(&measured);
        assert!(text.contains("b adds to a, total p50") && text.contains("b: 1 × status 500"), "{text}");
        assert_eq!(measured.json()["targets"][1]["faults"]["status 500"], 1);
    }
}
