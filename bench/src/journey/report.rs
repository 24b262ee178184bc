//! From rounds to a verdict: medians, the bars they are held against, a table for people and JSON for machines.

use super::Case;
use super::process::Time;
use crate::load::Report;
use crate::statistics::{bootstrap, median};
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::fs;

/// How much of what it costs the bare proxy a request with a key and a limit may cost, also where the answer is a stream
/// of 32 events.
const LIMIT_OVER_FLOOR: f64 = 1.0;
/// How many microseconds everything may add to that when the context is cached; to that and so many times what the plain
/// library calls cost when it is not; and to so many times what a stream costs the bare proxy when it is restored.
const ADDED_US: f64 = 80.0;
const OVER: f64 = 1.25;
/// By how many microseconds the answer, or its first text, may be later than through the bare proxy, of a hundred the
/// latest, everything on with cached context.
const LATER_US: f64 = 300.0;
/// A round counts for the claims about that where the mock itself was not later than so many times its median over
/// the rounds.
const DISTURBED: f64 = 2.0;

/// How long a proxy may wait for its core before the figures are those of a busy machine.
const BUSY: f64 = 0.05;

/// All that was measured.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) rounds: Vec<Round>,
    pub(super) latencies: Vec<Latencies>,
}

/// One round of open loops: half and one in a hundred of the answers were later than so many microseconds, until their
/// first text where they are streams.
#[derive(Default, Clone, Copy)]
pub(super) struct Latencies {
    /// Of the mock without a proxy, plain and streamed.
    direct: [Late; 2],
    through: [Late; Case::ALL.len()],
}

#[derive(Default, Clone, Copy)]
struct Late {
    p50: f64,
    p99: f64,
    requests: u64,
}

impl Late {
    fn of(is_streamed: bool, report: &Report) -> Late {
        let at = |percent| match is_streamed {
            true => report.first_percentile_us(percent) as f64,
            false => report.percentile_us(percent) as f64,
        };
        Late { p50: at(50.0), p99: at(99.0), requests: report.requests }
    }
}

impl Latencies {
    pub(super) fn direct(&mut self, is_streamed: bool, report: &Report) {
        self.direct[usize::from(is_streamed)] = Late::of(is_streamed, report);
    }

    pub(super) fn through(&mut self, case: Case, report: &Report) {
        self.through[case as usize] = Late::of(case.is_streamed(), report);
    }

    fn direct_of(&self, case: Case) -> Late {
        self.direct[usize::from(case.is_streamed())]
    }
}

/// How much later the answers of one case are than those of another, of a hundred the latest: the median over rounds of
/// the difference, and its interval.
#[derive(Serialize)]
struct Later {
    name: &'static str,
    p99_us: f64,
    /// The middle 95 % of resampled rounds.
    interval_us: (f64, f64),
    requests_a_side: u64,
    rounds: usize,
    /// In which the mock itself was disturbed.
    discarded: usize,
}

impl Later {
    fn of(name: &'static str, rounds: &[Latencies], case: Case, than: Case) -> Later {
        let usual = median(rounds.iter().map(|round| round.direct_of(case).p99).collect());
        let quiet = |round: &&Latencies| round.direct_of(case).p99 <= DISTURBED * usual;
        let kept: Vec<&Latencies> = rounds.iter().filter(quiet).collect();
        let difference = |round: &&Latencies| round.through[case as usize].p99 - round.through[than as usize].p99;
        let differences: Vec<f64> = kept.iter().map(difference).collect();
        let (from, to) = bootstrap(&differences, median);
        Later {
            name,
            p99_us: tidy(median(differences)),
            interval_us: (tidy(from), tidy(to)),
            requests_a_side: kept.iter().map(|round| round.through[case as usize].requests).sum(),
            rounds: kept.len(),
            discarded: rounds.len() - kept.len(),
        }
    }
}

/// One round of closed loops, summed over its slices.
#[derive(Default, Clone, Copy)]
pub(super) struct Round {
    cases: [Cost; Case::ALL.len()],
    recall: Cost,
}

/// What requests of one kind took.
#[derive(Default, Clone, Copy)]
struct Cost {
    time: Time,
    requests: u64,
    seconds: f64,
}

impl Cost {
    fn cpu_us_per_request(&self) -> f64 {
        self.time.ran_nanoseconds as f64 / 1_000.0 / self.requests as f64
    }

    fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

impl Round {
    /// Adds a slice of `case`.
    pub(super) fn add(&mut self, case: Case, spent: Time, report: &Report) {
        let cost = &mut self.cases[case as usize];
        cost.time.ran_nanoseconds += spent.ran_nanoseconds;
        cost.time.waited_nanoseconds += spent.waited_nanoseconds;
        cost.requests += report.requests;
        cost.seconds += report.elapsed.as_secs_f64();
    }

    /// Adds a slice of plain recall.
    pub(super) fn add_recall(&mut self, cpu_nanoseconds: u64, queries: u64) {
        self.recall.time.ran_nanoseconds += cpu_nanoseconds;
        self.recall.requests += queries;
    }

    fn cpu(&self, case: Case) -> f64 {
        self.cases[case as usize].cpu_us_per_request()
    }

    fn recall(&self) -> f64 {
        self.recall.cpu_us_per_request()
    }

    /// One line for the impatient.
    pub(super) fn summary(&self) -> String {
        let cases = Case::ALL.map(|case| format!("{} {:.1}", case.name(), self.cpu(case)));
        format!("CPU µs a request: {}, plain recall {:.1}", cases.join(", "), self.recall())
    }

    fn ratios(&self) -> Ratios {
        Ratios {
            limit_over_floor: self.cpu(Case::Limit) / self.cpu(Case::Floor),
            limit_over_floor_stream: self.cpu(Case::LimitStream) / self.cpu(Case::FloorStream),
            full_hit_minus_limit_us: self.cpu(Case::FullHit) - self.cpu(Case::Limit),
            full_miss_minus_limit_and_recall_us: self.cpu(Case::FullMiss)
                - self.cpu(Case::Limit)
                - OVER * self.recall(),
            full_stream_minus_floor_us: self.cpu(Case::FullStream) - OVER * self.cpu(Case::FloorStream),
        }
    }
}

/// What the bars are about, within one round.
#[derive(Serialize, Clone, Copy)]
struct Ratios {
    limit_over_floor: f64,
    limit_over_floor_stream: f64,
    full_hit_minus_limit_us: f64,
    full_miss_minus_limit_and_recall_us: f64,
    full_stream_minus_floor_us: f64,
}

/// The result, as it is written to the JSON file.
#[derive(Serialize)]
pub struct Outcome {
    cases: Vec<CaseOutcome>,
    /// Processor time of plain library calls for one query, the embedding included.
    recall_cpu_us: f64,
    rounds: Vec<Ratios>,
    machine: Machine,
    /// How long the proxies waited for their core, as a share of the time they ran: nothing else should be on it.
    waited_share: f64,
    later: [Later; 2],
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct CaseOutcome {
    name: &'static str,
    cpu_us_per_request: f64,
    requests_per_second: f64,
    /// To the mock's own, until the first text of a stream.
    added_p50_us: f64,
    added_p99_us: f64,
}

#[derive(Serialize)]
struct Bar {
    name: &'static str,
    value: f64,
    limit: f64,
    ok: bool,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// Load averages when the run ended: the run itself makes about one and a half.
    load: String,
}

impl Outcome {
    pub(super) fn new(measured: &Measured) -> Outcome {
        let rounds: Vec<Ratios> = measured.rounds.iter().map(Round::ratios).collect();
        let over_rounds = |value: fn(&Ratios) -> f64| median(rounds.iter().map(value).collect());
        let bar = |name, value: f64, limit| Bar { name, value: tidy(value), limit, ok: value <= limit };
        let later = [
            Later::of("full_hit later than floor", &measured.latencies, Case::FullHit, Case::Floor),
            Later::of(
                "first text, full_stream later than floor_stream",
                &measured.latencies,
                Case::FullStream,
                Case::FloorStream,
            ),
        ];
        Outcome {
            cases: Case::ALL.iter().map(|&case| case_outcome(measured, case)).collect(),
            recall_cpu_us: tidy(median(measured.rounds.iter().map(Round::recall).collect())),
            machine: machine(),
            waited_share: tidy(waited_share(&measured.rounds)),
            // Medians of each round's own ratio: a round that was slow as a whole does not move them.
            bars: vec![
                bar("limit / floor", over_rounds(|ratios| ratios.limit_over_floor), LIMIT_OVER_FLOOR),
                bar(
                    "limit_stream / floor_stream",
                    over_rounds(|ratios| ratios.limit_over_floor_stream),
                    LIMIT_OVER_FLOOR,
                ),
                bar("full_hit - limit, µs", over_rounds(|ratios| ratios.full_hit_minus_limit_us), ADDED_US),
                bar(
                    "full_miss - limit - 1.25 plain recall, µs",
                    over_rounds(|ratios| ratios.full_miss_minus_limit_and_recall_us),
                    ADDED_US,
                ),
                bar(
                    "full_stream - 1.25 floor_stream, µs",
                    over_rounds(|ratios| ratios.full_stream_minus_floor_us),
                    ADDED_US,
                ),
                bar(later[0].name, later[0].p99_us, LATER_US),
                bar(later[1].name, later[1].p99_us, LATER_US),
            ],
            later,
            rounds,
        }
    }

    /// Whether every bar holds.
    pub fn holds(&self) -> bool {
        self.bars.iter().all(|bar| bar.ok)
    }
}

fn case_outcome(measured: &Measured, case: Case) -> CaseOutcome {
    let costs = |value: fn(&Cost) -> f64| {
        median(measured.rounds.iter().map(|round| value(&round.cases[case as usize])).collect())
    };
    let added = |late: fn(&Late) -> f64| {
        let of_round = |round: &Latencies| late(&round.through[case as usize]) - late(&round.direct_of(case));
        tidy(median(measured.latencies.iter().map(of_round).collect()))
    };
    CaseOutcome {
        name: case.name(),
        cpu_us_per_request: tidy(costs(Cost::cpu_us_per_request)),
        requests_per_second: costs(Cost::requests_per_second).round(),
        added_p50_us: added(|late| late.p50),
        added_p99_us: added(|late| late.p99),
    }
}

fn waited_share(rounds: &[Round]) -> f64 {
    let times = || rounds.iter().flat_map(|round| round.cases).map(|cost| cost.time);
    let waited: u64 = times().map(|time| time.waited_nanoseconds).sum();
    let ran: u64 = times().map(|time| time.ran_nanoseconds).sum();
    waited as f64 / ran as f64
}

/// Three decimals: more would pretend.
fn tidy(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn machine() -> Machine {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    Machine {
        cpu: field(&cpuinfo, "model name"),
        cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load: read("/proc/loadavg").trim().to_owned(),
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let mut table = String::new();
        let Machine { cpu, cores, memory_mib, kernel, load } = &self.machine;
        writeln!(table, "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, load {load}")?;
        writeln!(table, "{} rounds; the proxy on one core, mock and load on the other; medians", self.rounds.len())?;
        writeln!(table)?;
        writeln!(
            table,
            "{:<12} {:>12} {:>12} {:>14} {:>14}",
            "case", "CPU µs/req", "req/s", "added p50 µs", "added p99 µs"
        )?;
        for case in &self.cases {
            let CaseOutcome { name, cpu_us_per_request, requests_per_second, added_p50_us, added_p99_us } = case;
            writeln!(
                table,
                "{name:<12} {cpu_us_per_request:>12.1} {requests_per_second:>12.0} {added_p50_us:>14.0} {added_p99_us:>14.0}"
            )?;
        }
        writeln!(table, "{:<12} {:>12.1}", "plain recall", self.recall_cpu_us)?;
        writeln!(table)?;
        for Bar { name, value, limit, ok } in &self.bars {
            let verdict = if *ok { "ok" } else { "MISSED" };
            writeln!(table, "{name:<48} {value:>9.2}  at most {limit:>7.2}  {verdict}")?;
        }
        writeln!(table)?;
        for Later { name, interval_us: (from, to), requests_a_side, rounds, discarded, .. } in &self.later {
            writeln!(
                table,
                "{name}, p99: {from:.0} to {to:.0} µs (95 %, bootstrap), {rounds} rounds, {requests_a_side} requests a side, {discarded} rounds discarded"
            )?;
        }
        if self.waited_share > BUSY {
            let percent = self.waited_share * 100.0;
            writeln!(
                table,
                "\nThe proxies waited {percent:.0} % of their time for their core: something else ran on it."
            )?;
            writeln!(table, "Caches and memory were shared too, so these figures are worth little.")?;
        }
        formatter.write_str(&table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bar_is_the_median_of_each_rounds_own_ratio() {
        let mut measured = Measured::default();
        // The second round was twice as slow as a whole; its ratio is what it is everywhere.
        for slowness in [1.0, 2.0, 1.1] {
            let mut round = Round::default();
            let nanoseconds = |us: f64| (us * slowness * 1_000.0) as u64;
            for (case, us) in [
                (Case::Floor, 30.0),
                (Case::Limit, 33.0),
                (Case::FullHit, 100.0),
                (Case::FullMiss, 400.0),
                (Case::FloorStream, 400.0),
                (Case::LimitStream, 480.0),
                (Case::FullStream, 590.0),
            ] {
                let one = Report { requests: 1, elapsed: Duration::from_micros(50), ..Report::new() };
                round.add(case, Time { ran_nanoseconds: nanoseconds(us), waited_nanoseconds: 0 }, &one);
            }
            round.add_recall(nanoseconds(200.0), 1);
            measured.rounds.push(round);
        }
        let outcome = Outcome::new(&measured);
        let bars: Vec<(f64, bool)> = outcome.bars.iter().map(|bar| (bar.value, bar.ok)).collect();
        assert_eq!(bars[..5], [(1.1, false), (1.2, false), (73.7, true), (128.7, false), (99.0, false)]);
        assert!(!outcome.holds());
        assert_eq!(outcome.cases[1].cpu_us_per_request, 36.3);
    }
}
