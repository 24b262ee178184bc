//! The benchmark of the whole journey: what a request through Sluice costs beside a bare pingora proxy and beside
//! plain calls of the search libraries.
//!
//! Absolute times of a shared machine say little: the same loop of plain arithmetic was seen to take anything from 55
//! to 104 ms within a minute, without the kernel noticing. So every claim is a ratio or a difference taken within one
//! round, a round goes through all cases many times in slices of some 50 ms, and the report gives medians over rounds.
//! The proxies have one core, the mock and the load the other. A proxy's cost is the processor time of its whole
//! process tree, which does not move when the load generator or the mock is slow.

mod failure;
pub mod plain_recall;
mod process;
mod report;
mod workload;

pub use failure::Failure;
pub use report::Outcome;
pub use workload::{Line, read_lines};

use crate::load::{self, Report, Requests};
use failure::Doing;
use plain_recall::Meter;
use process::{Process, free_addresses};
use report::{Latencies, Measured, Round};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use workload::Workload;

/// The core of the proxies and of the plain library calls.
const PROXY_CORE: &str = "0";
/// The core of the mock and of the load generator.
const LOAD_CORE: &str = "1";

/// The connections of a closed loop.
const CONNECTIONS: usize = 32;
/// The connections of an open loop; far more than answers are outstanding at its rate: a stream takes 70 ms.
const OPEN_CONNECTIONS: usize = 48;
/// Requests each second of an open loop, low enough that nothing queues.
const OPEN_RATE: f64 = 200.0;
/// Queries of the warm case, few enough to stay in any cache.
const WARM_QUERIES: u64 = 50;
/// How many times a round goes through all cases.
const SLICES: u64 = 10;
/// The most a case may deviate from what it claims to measure (cache hits, cache misses).
const TOLERANCE: f64 = 0.01;

/// What to measure, and with what.
pub struct Options {
    /// The built `sluice` binary.
    pub sluice: PathBuf,
    /// The built `floor` binary.
    pub floor: PathBuf,
    /// The documents, a JSONL file.
    pub corpus: PathBuf,
    /// The queries, a JSONL file.
    pub queries: PathBuf,
    /// Fewer rounds and requests: shows that everything works, and little more.
    pub quick: bool,
}

/// How much is sent.
struct Effort {
    rounds: usize,
    /// Requests of a closed loop round of the cheap cases, of the streamed ones, of the warm one and of the cold one;
    /// multiples of `SLICES`.
    plain: u64,
    stream: u64,
    hit: u64,
    miss: u64,
    /// Requests of an open loop round.
    open: u64,
}

const FULL_EFFORT: Effort = Effort { rounds: 7, plain: 20_000, stream: 2_000, hit: 8_000, miss: 4_000, open: 1_500 };
const QUICK_EFFORT: Effort = Effort { rounds: 3, plain: 4_000, stream: 800, hit: 2_000, miss: 1_000, open: 100 };

/// The cases in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// The bare pingora proxy.
    Floor,
    /// Sluice with a key and a limit, and nothing else.
    Limit,
    /// Everything on, a query that was never asked before.
    FullMiss,
    /// Everything on, a query that was asked before.
    FullHit,
    /// The bare pingora proxy, a streamed answer of 32 events at a pace.
    FloorStream,
    /// Sluice with a key and a limit, the same streamed answer.
    LimitStream,
    /// Everything on, a query that was asked before and names an address, which the streamed answer names too.
    FullStream,
}

impl Effort {
    fn requests(&self, case: Case) -> u64 {
        match case {
            Case::Floor | Case::Limit => self.plain,
            Case::FloorStream | Case::LimitStream | Case::FullStream => self.stream,
            Case::FullHit => self.hit,
            Case::FullMiss => self.miss,
        }
    }
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 7] = [
        Case::Floor,
        Case::Limit,
        Case::FullMiss,
        Case::FullHit,
        Case::FloorStream,
        Case::LimitStream,
        Case::FullStream,
    ];

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Case::Floor => "floor",
            Case::Limit => "limit",
            Case::FullMiss => "full_miss",
            Case::FullHit => "full_hit",
            Case::FloorStream => "floor_stream",
            Case::LimitStream => "limit_stream",
            Case::FullStream => "full_stream",
        }
    }

    /// The model, which names the route.
    fn model(self) -> &'static str {
        match self {
            Case::FullMiss | Case::FullHit | Case::FullStream => "full",
            _ => "limit",
        }
    }

    fn is_streamed(self) -> bool {
        matches!(self, Case::FloorStream | Case::LimitStream | Case::FullStream)
    }

    /// Whether its queries are in the cache.
    fn is_warm(self) -> bool {
        matches!(self, Case::FullHit | Case::FullStream)
    }

    fn is_floor(self) -> bool {
        matches!(self, Case::Floor | Case::FloorStream)
    }
}

/// Runs the benchmark.
pub fn run(options: &Options) -> Result<Outcome, Failure> {
    process::pin_self(LOAD_CORE)?;
    let effort = if options.quick { QUICK_EFFORT } else { FULL_EFFORT };
    let workload = Workload::read(&options.corpus, &options.queries)?;
    let folder = tempfile::tempdir().doing("making a folder for the run")?;
    let mut stage = Stage::set(options, workload, folder.path())?;
    stage.warm_up(&effort)?;
    for case in Case::ALL {
        stage.verify(case)?;
    }
    let mut measured = Measured::default();
    for number in 0..effort.rounds {
        eprintln!("round {} of {}", number + 1, effort.rounds);
        measured.rounds.push(stage.costs(&effort, number)?);
        stage.latencies(&effort, number, &mut measured)?;
    }
    Ok(Outcome::new(&measured))
}

/// Everything that runs, ready to be measured.
struct Stage {
    mock: Process,
    mock_addr: SocketAddr,
    floor: Process,
    floor_addr: SocketAddr,
    edge: Process,
    edge_addr: SocketAddr,
    admin_addr: SocketAddr,
    plain: Meter,
    workload: Workload,
    /// The next query number of the cold case; a number is never asked twice.
    cold: u64,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn set(options: &Options, workload: Workload, folder: &Path) -> Result<Stage, Failure> {
        let [mock_addr, floor_addr, edge_addr, admin_addr] = free_addresses()?;
        let plain = Meter::start(PROXY_CORE, &options.corpus, &options.queries, folder)?;

        let mock = process::pinned(LOAD_CORE, &options.sluice)
            .args(["mock", "--listen", &mock_addr.to_string(), "--no-record"])
            .start("mock", folder)?;
        mock.wait_for(mock_addr, "/mock/stats")?;
        let script = workload.script();
        let (answer, text) =
            load::ask(mock_addr, &workload.post("/mock/script", "", &script)).doing("scripting the mock")?;
        if answer.status != 200 {
            return Err(Failure::because("scripting the mock", text));
        }

        let floor = process::pinned(PROXY_CORE, &options.floor)
            .args(["--listen", &floor_addr.to_string(), "--upstream", &mock_addr.to_string()])
            .start("floor", folder)?;
        floor.wait_for(floor_addr, "/mock/stats")?;

        let data = folder.join("data");
        let configuration = folder.join("edge.toml");
        fs::write(&configuration, workload::configuration(edge_addr, admin_addr, mock_addr))
            .doing("writing the configuration")?;
        let prompt = folder.join("bench.jinja");
        fs::write(&prompt, workload::PROMPT).doing("writing the prompt")?;
        let call = |arguments: &[&str], files: &[&Path]| {
            process::output(Command::new(&options.sluice).args(arguments).args(files).arg("--data").arg(&data))
        };
        let created = call(&["key", "create", "bench", "--rpm", "1000000000", "--json"], &[])?;
        let key = workload::key(&created)?;
        call(&["prompt", "put", "bench"], &[&prompt])?;
        call(&["prompt", "deploy", "bench"], &[])?;
        eprint!("{}", call(&["ingest", "scifact"], &[&options.corpus])?);
        call(&["publish"], &[])?;
        // An edge alone, as one runs behind a store: `up` would also collect the records that it writes.
        let edge = process::pinned(PROXY_CORE, &options.sluice)
            .args(["serve", "--config"])
            .arg(&configuration)
            .arg("--data")
            .arg(&data)
            .env(workload::PROVIDER_KEY_ENV, "sk-mock")
            .start("sluice", folder)?;
        edge.wait_for(admin_addr, "/readyz")?;

        let workload = workload.with_key(key);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().doing("starting the load generator")?;
        Ok(Stage { mock, mock_addr, floor, floor_addr, edge, edge_addr, admin_addr, plain, workload, cold: 0, runtime })
    }

    fn addr(&self, case: Case) -> SocketAddr {
        if case.is_floor() { self.floor_addr } else { self.edge_addr }
    }

    fn process(&self, case: Case) -> &Process {
        if case.is_floor() { &self.floor } else { &self.edge }
    }

    /// The numbers of the next `count` requests of `case`.
    fn numbers(&mut self, case: Case, count: u64) -> std::ops::Range<u64> {
        if case != Case::FullMiss {
            return 0..count;
        }
        let first = self.cold;
        self.cold += count;
        first..self.cold
    }

    /// Makes the requests of `case`. The cheap cases send the cold texts too, so that all bodies are alike.
    fn requests(&self, case: Case) -> Requests {
        let workload = self.workload.clone();
        std::sync::Arc::new(move |number| {
            let query = match case {
                Case::FullHit => workload.query(number % WARM_QUERIES).to_owned(),
                Case::FullStream => workload.personal(number % WARM_QUERIES),
                _ => workload.distinct(number),
            };
            workload.chat(case.model(), &query, case.is_streamed())
        })
    }

    fn closed(&mut self, case: Case, count: u64) -> Result<Report, Failure> {
        let numbers = self.numbers(case, count);
        let report = self.runtime.block_on(load::closed(self.addr(case), CONNECTIONS, numbers, self.requests(case)));
        self.check(case, report)
    }

    /// A run with errors measured something else.
    fn check(&self, case: Case, report: Report) -> Result<Report, Failure> {
        if report.errors() == 0 {
            return Ok(report);
        }
        let Report { requests, status_errors, io_errors, .. } = report;
        let reason = format!("of {requests} requests {status_errors} had a bad status and {io_errors} failed");
        Err(Failure::because(
            format!("measuring {}", case.name()),
            format!("{reason}\n{}", self.process(case).last_words()),
        ))
    }

    /// Connections, pools, caches and pages, before anything counts: a whole round's worth, since the first ten
    /// thousand requests of a process can cost twice what the later ones do.
    fn warm_up(&mut self, effort: &Effort) -> Result<(), Failure> {
        for case in Case::ALL {
            self.closed(case, effort.requests(case))?;
        }
        self.plain.spent(0..effort.miss)?;
        Ok(())
    }

    /// Sends one request of `case` and looks at the answer, so that a case is what its name says.
    fn verify(&mut self, case: Case) -> Result<(), Failure> {
        if case.is_warm() {
            // The cold case may have driven it out of the cache.
            self.closed(case, WARM_QUERIES)?;
        }
        let numbers = self.numbers(case, 1);
        let request = (self.requests(case))(numbers.start);
        let doing = || format!("checking {}", case.name());
        let (answer, text) = load::ask(self.addr(case), &request).doing(doing())?;
        let context = text.lines().find_map(|line| line.strip_prefix("x-sluice-context: ")).unwrap_or_default();
        let right = match case {
            Case::Floor => true,
            Case::Limit => context.is_empty(),
            // The usage that Sluice asks of the provider is one event more, which it keeps.
            Case::FloorStream | Case::LimitStream => text.matches("data: ").count() == workload::STREAM_EVENTS,
            Case::FullMiss => context.contains("cache=miss") && !context.contains("used=0"),
            Case::FullHit => context.contains("cache=hit") && !context.contains("used=0"),
            Case::FullStream => {
                let said: String =
                    text.split("\"content\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
                context.contains("cache=hit") && said.contains(workload::ADDRESS)
            }
        };
        if answer.status == 200 && right && text.contains("chat.completion") {
            return Ok(());
        }
        Err(Failure::because(doing(), text))
    }

    /// One round of closed loops: what a request of each case costs, and what plain recall of the cold queries costs.
    fn costs(&mut self, effort: &Effort, number: usize) -> Result<Round, Failure> {
        let mut round = Round::default();
        let before = self.cache_counts()?;
        for slice in 0..SLICES {
            for case in rotated(number + slice as usize) {
                if case.is_warm() {
                    // The cold case may have driven them out of the cache.
                    self.closed(case, WARM_QUERIES)?;
                }
                let count = effort.requests(case) / SLICES;
                let cold = self.cold;
                let begun = self.process(case).time()?;
                let report = self.closed(case, count)?;
                let spent = self.process(case).time()?.since(begun);
                round.add(case, spent, &report);
                if case == Case::FullMiss {
                    round.add_recall(self.plain.spent(cold..cold + count)?, count);
                }
            }
        }
        self.check_cache(effort, before)?;
        eprintln!("  {}", round.summary());
        Ok(round)
    }

    fn cache_counts(&self) -> Result<CacheCounts, Failure> {
        let (_, metrics) = load::ask(self.admin_addr, &self.workload.get("/metrics")).doing("reading the metrics")?;
        let count = |result: &str| {
            let label = format!("result=\"{result}\"");
            let lines =
                metrics.lines().filter(|line| line.starts_with("sluice_recall_cache_total{") && line.contains(&label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok(CacheCounts { hits: count("hit"), misses: count("miss") })
    }

    /// The cases of a round are what their names say only if the edge itself counted so many hits and misses.
    fn check_cache(&self, effort: &Effort, before: CacheCounts) -> Result<(), Failure> {
        let after = self.cache_counts()?;
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        // Warming makes a few more of either kind.
        let warming = (2 * SLICES * WARM_QUERIES) as f64;
        let right = |found: f64, asked: u64| {
            let asked = asked as f64;
            (asked * (1.0 - TOLERANCE)..=asked * (1.0 + TOLERANCE) + warming).contains(&found)
        };
        if right(hits, effort.hit + effort.stream) && right(misses, effort.miss) {
            return Ok(());
        }
        let Effort { hit, miss, stream, .. } = effort;
        let reason =
            format!("{} warm and {miss} cold requests made {hits} recall cache hits and {misses} misses", hit + stream);
        Err(Failure::because("checking the round", reason))
    }

    /// One round of open loops: directly to the mock, plain and streamed, and through each case.
    fn latencies(&mut self, effort: &Effort, number: usize, measured: &mut Measured) -> Result<(), Failure> {
        let mut round = Latencies::default();
        for case in [Case::Floor, Case::FloorStream] {
            let requests = self.requests(case);
            let direct = load::open(self.mock_addr, OPEN_CONNECTIONS, OPEN_RATE, 0..effort.open, &requests);
            if direct.errors() > 0 {
                return Err(Failure::because("measuring the mock", self.mock.last_words()));
            }
            round.direct(case.is_streamed(), &direct);
        }
        for case in rotated(number) {
            // The others are told of, but nothing is claimed of how late they are.
            let is_claimed = matches!(case, Case::Floor | Case::FullHit | Case::FloorStream | Case::FullStream);
            if case.is_warm() {
                self.closed(case, WARM_QUERIES)?;
            }
            let numbers = self.numbers(case, if is_claimed { effort.open } else { effort.open / 4 });
            let report = load::open(self.addr(case), OPEN_CONNECTIONS, OPEN_RATE, numbers, &self.requests(case));
            round.through(case, &self.check(case, report)?);
        }
        measured.latencies.push(round);
        Ok(())
    }
}

/// What the edge says of its recall cache.
#[derive(Clone, Copy)]
struct CacheCounts {
    hits: f64,
    misses: f64,
}

/// The cases, each time beginning with another, so that none is always first after a pause.
fn rotated(number: usize) -> [Case; Case::ALL.len()] {
    let mut cases = Case::ALL;
    cases.rotate_left(number % Case::ALL.len());
    cases
}
