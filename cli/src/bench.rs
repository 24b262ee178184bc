//! `sluice bench`.

use crate::Outcome;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_bench::measure::{Load, Plan, Target, Workload, measure, page, table};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub struct Bench {
    /// A server: NAME=BASE_URL[,key-env=VARIABLE][,model=MODEL][,header=NAME:VALUE]. The first is what the others are compared with.
    #[arg(long = "target", required = true, value_name = "TARGET")]
    targets: Vec<Target>,
    /// Requests a second, sent at their times whatever the server does; `50..500` rises evenly.
    #[arg(long, default_value = "200", value_parser = rate, conflicts_with = "closed")]
    rate: (f64, f64),
    /// Even gaps between requests instead of those of many independent callers (Poisson).
    #[arg(long)]
    even: bool,
    /// Every connection sends its next request as soon as it has an answer.
    #[arg(long)]
    closed: bool,
    /// Connections; in an open loop the most answers that may be outstanding.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests of each target in a round.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Rounds, in which the targets take turns.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Requests of each target before the first round, which do not count.
    #[arg(long, default_value_t = 50)]
    warm_up: u64,
    /// Ask for streams, and measure the first token and the gaps.
    #[arg(long)]
    stream: bool,
    /// Size of a body, in bytes.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    bytes: u32,
    /// Turns of the user's in a conversation.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    turns: u32,
    #[arg(long)]
    max_tokens: Option<u32>,
    /// The same question each time, so that caches may answer; otherwise each has a number of its own.
    #[arg(long)]
    repeat: bool,
    /// Bodies to send, one JSON object a line, instead of made ones.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bytes", "turns", "max_tokens"])]
    replay: Option<PathBuf>,
    /// Longest that an answer may take.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout_seconds: u64,
    /// Writes the figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a page with plots here, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn rate(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    number(from).zip(number(to)).ok_or_else(|| "write a rate as 200, or as 50..500".to_owned())
}

impl Bench {
    pub async fn run(self) -> Outcome {
        let connections = self.connections as usize;
        let load = match self.closed {
            true => Load::Closed { connections },
            false => Load::Open { from: self.rate.0, to: self.rate.1, poisson: !self.even, connections },
        };
        let workload = match &self.replay {
            Some(file) => Workload::recorded(file, self.stream.then_some(true), !self.repeat)?,
            None => Workload::conversation(
                self.bytes as usize,
                self.turns as usize,
                self.max_tokens,
                self.stream,
                !self.repeat,
            ),
        };
        let plan = Plan {
            targets: self.targets,
            load,
            workload,
            rounds: self.rounds as usize,
            requests: self.requests,
            warm_up: self.warm_up,
            timeout: Duration::from_secs(self.timeout_seconds),
        };
        // Drawn on standard error, and only where that is a terminal.
        let bar = ProgressBar::new(plan.requests * plan.rounds as u64 * plan.targets.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        let measured = measure(&plan, |progress| {
            bar.set_position(progress.done);
            let at = |percentile: f64| progress.series.total.value_at_percentile(percentile) as f64 / 1e3;
            bar.set_message(format!(
                "round {} {}: p50 {:.2} ms, p99 {:.2} ms, {} failed",
                progress.round + 1,
                progress.target,
                at(50.0),
                at(99.0),
                progress.series.failed()
            ));
        })
        .await?;
        bar.finish_and_clear();
        print!("{}", table(&measured));
        if let Some(file) = &self.json {
            std::fs::write(file, format!("{:#}\n", measured.json()))?;
        }
        if let Some(file) = &self.html {
            std::fs::write(file, page(&measured, &format!("Latency of {}", measured.names.join(", "))))?;
        }
        let failed: u64 = (0..measured.names.len()).map(|place| measured.whole(place).failed()).sum();
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
