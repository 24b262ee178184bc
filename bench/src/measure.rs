//! `sluice bench`: how long answers take at any URL that speaks OpenAI's chat completions, and what one server adds to
//! another.
//!
//! Targets are measured in turns, round by round, so that whatever else the machine does falls on all of them. An
//! open loop sends at its own times whatever the server does, and a late answer counts from the time at which its
//! request was due ("coordinated omission"; G. Tene).

mod client;
mod html;
mod outcome;
mod report;
mod schedule;
mod workload;

pub use client::{Target, TargetError};
pub use html::page;
pub use outcome::{Fault, Series};
pub use report::{Comparison, Measured, table};
pub use schedule::Load;
pub use workload::{Workload, WorkloadError};

use client::Client;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// What is to be measured.
pub struct Plan {
    /// The first is what the others are compared with.
    pub targets: Vec<Target>,
    pub load: Load,
    pub workload: Workload,
    pub rounds: usize,
    /// Requests of a target in a round.
    pub requests: u64,
    /// Requests before the first round, which do not count.
    pub warm_up: u64,
    /// Longest that an answer may take.
    pub timeout: Duration,
}

/// What is told while it runs, of one target's part of a round.
pub struct Progress {
    pub round: usize,
    /// Its place in [`Plan::targets`].
    pub target: usize,
    /// Answers so far, of all targets and rounds.
    pub done: u64,
    pub failed: u64,
    /// Good answers a second.
    pub rate: f64,
    /// Half of the good answers, and 99 in 100, took no longer, in microseconds.
    pub total_us: [u64; 2],
    /// The same until the first token; nothing where none are streams.
    pub first_us: Option<[u64; 2]>,
}

/// Where in the plan it is: answers before this part were `done`.
struct Place {
    round: usize,
    target: usize,
    done: u64,
}

impl Place {
    fn progress(&self, series: &Series, elapsed: Duration) -> Progress {
        let middle_and_99 = |times: &Histogram<u64>| [50.0, 99.0].map(|at| times.value_at_percentile(at));
        Progress {
            round: self.round,
            target: self.target,
            done: self.done + series.good() + series.failed(),
            failed: series.failed(),
            rate: series.good() as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            total_us: middle_and_99(&series.total),
            first_us: (!series.first.is_empty()).then(|| middle_and_99(&series.first)),
        }
    }
}

/// How often it is told.
const GLANCE: Duration = Duration::from_millis(200);

/// Measures; `tell` hears of it while it goes on, and at the end of each target's part of a round.
pub async fn measure(plan: &Plan, mut tell: impl FnMut(Progress)) -> Result<Measured, TargetError> {
    let clients: Vec<Arc<Client>> = plan
        .targets
        .iter()
        .map(|target| Client::new(target.clone(), plan.timeout).map(Arc::new))
        .collect::<Result<_, _>>()?;
    for client in &clients {
        let load = Load::Closed { connections: plan.load.connections().min(8) };
        run(plan, client, 0, plan.warm_up, load, |_, _| {}).await;
    }
    let mut rounds: Vec<Vec<Series>> = vec![Vec::new(); clients.len()];
    let mut done = 0;
    for round in 0..plan.rounds {
        // Each round begins with another target, so that none always goes first.
        for turn in 0..clients.len() {
            let target = (round + turn) % clients.len();
            let first = plan.warm_up + round as u64 * plan.requests;
            let place = Place { round, target, done };
            let series = run(plan, &clients[target], first, plan.requests, plan.load, |series, elapsed| {
                let progress = place.progress(&series.lock(), elapsed);
                // Drawing takes its time, in which answers are counted on.
                tell(progress);
            })
            .await;
            done += plan.requests;
            rounds[target].push(series);
        }
    }
    Ok(Measured { names: plan.targets.iter().map(|target| target.name.clone()).collect(), rounds, load: plan.load })
}

/// Tells when requests are due: a permit for each, from a thread, as tokio's timer has ticks of a millisecond. A provider
/// that paces its answers by such ticks, too, would have every request at one place between two of its own, and what a
/// server adds would be nothing, or a whole tick.
fn start_clock(begin: Instant, times: Arc<Vec<Duration>>, connections: usize) -> Arc<Semaphore> {
    let due = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&due);
    thread::spawn(move || {
        for time in times.iter() {
            thread::sleep((begin + *time).saturating_duration_since(Instant::now()));
            told.add_permits(1);
        }
        // Whoever waits is to find out that nothing is due any more.
        told.add_permits(connections);
    });
    due
}

/// Sends `count` requests, from number `first` on, as `load` says; `tell` hears what came so far, and in which time.
async fn run(
    plan: &Plan,
    client: &Arc<Client>,
    first: u64,
    count: u64,
    load: Load,
    mut tell: impl FnMut(&Mutex<Series>, Duration),
) -> Series {
    let next = Arc::new(AtomicU64::new(0));
    let times = Arc::new(load.times(count, first));
    // Connections are made before the first request is due.
    let begin = Instant::now() + Duration::from_millis(50);
    let due = start_clock(begin, Arc::clone(&times), load.connections());
    let series = Arc::new(Mutex::new(Series::default()));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..load.connections() {
        let (next, times, due) = (Arc::clone(&next), Arc::clone(&times), Arc::clone(&due));
        let (workload, client, series) = (plan.workload.clone(), Arc::clone(client), Arc::clone(&series));
        workers.spawn(async move {
            let mut connection = client.connect().await.ok();
            let is_open = !times.is_empty();
            if !is_open {
                tokio::time::sleep_until(begin.into()).await;
            }
            loop {
                let free = Instant::now();
                // The clock never closes the semaphore.
                if is_open && let Ok(permit) = due.acquire().await {
                    permit.forget();
                }
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return;
                }
                let body = workload.body(first + number, client.target());
                // The clock's own lateness is not the server's; that all connections were busy is.
                let from = match times.get(number as usize).map(|time| begin + *time) {
                    Some(due) if due < free => due,
                    _ => Instant::now(),
                };
                let answer = client.ask(&mut connection, body, from).await;
                series.lock().add(from.saturating_duration_since(begin), answer);
            }
        });
    }
    let mut glances = tokio::time::interval(GLANCE);
    glances.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            // A worker neither panics nor is aborted.
            ended = workers.join_next() => if ended.is_none() { break },
            _ = glances.tick() => tell(&series, begin.elapsed()),
        }
    }
    let elapsed = begin.elapsed();
    tell(&series, elapsed);
    let mut series = std::mem::take(&mut *series.lock());
    series.elapsed = elapsed;
    series
}
