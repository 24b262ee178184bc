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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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

/// What is told while it runs.
pub struct Progress<'p> {
    pub round: usize,
    pub target: &'p str,
    pub done: u64,
    pub series: &'p Series,
}

/// Measures; `tell` hears of it after each target's part of a round.
pub async fn measure(plan: &Plan, mut tell: impl FnMut(Progress<'_>)) -> Result<Measured, TargetError> {
    let clients: Vec<Arc<Client>> = plan
        .targets
        .iter()
        .map(|target| Client::new(target.clone(), plan.timeout).map(Arc::new))
        .collect::<Result<_, _>>()?;
    for client in &clients {
        run(plan, client, 0, plan.warm_up, Load::Closed { connections: plan.load.connections().min(8) }).await;
    }
    let mut rounds: Vec<Vec<Series>> = vec![Vec::new(); clients.len()];
    let mut done = 0;
    for round in 0..plan.rounds {
        // Each round begins with another target, so that none always goes first.
        for turn in 0..clients.len() {
            let place = (round + turn) % clients.len();
            let first = plan.warm_up + round as u64 * plan.requests;
            let series = run(plan, &clients[place], first, plan.requests, plan.load).await;
            done += plan.requests;
            tell(Progress { round, target: &plan.targets[place].name, done, series: &series });
            rounds[place].push(series);
        }
    }
    Ok(Measured { names: plan.targets.iter().map(|target| target.name.clone()).collect(), rounds, load: plan.load })
}

/// Sends `count` requests, from number `first` on, as `load` says.
async fn run(plan: &Plan, client: &Arc<Client>, first: u64, count: u64, load: Load) -> Series {
    let next = Arc::new(AtomicU64::new(0));
    let times = Arc::new(load.times(count, first));
    // Connections are made before the first request is due.
    let begin = Instant::now() + Duration::from_millis(50);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..load.connections() {
        let (next, times, client) = (Arc::clone(&next), Arc::clone(&times), Arc::clone(client));
        let workload = plan.workload.clone();
        workers.spawn(async move {
            let mut series = Series::default();
            let mut connection = client.connect().await.ok();
            tokio::time::sleep_until(begin.into()).await;
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return series;
                }
                let body = workload.body(first + number, client.target());
                let mut from = Instant::now();
                if let Some(due) = times.get(number as usize).map(|time| begin + *time) {
                    if due > from {
                        tokio::time::sleep_until(due.into()).await;
                        // The timer's own lateness is not the server's.
                        from = Instant::now();
                    } else {
                        from = due;
                    }
                }
                let answer = client.ask(&mut connection, body, from).await;
                series.add(from.saturating_duration_since(begin), answer);
            }
        });
    }
    let mut series = Series::default();
    while let Some(part) = workers.join_next().await {
        // A worker neither panics nor is aborted.
        if let Ok(part) = part {
            series.merge(part);
        }
    }
    series.elapsed = begin.elapsed();
    series
}
