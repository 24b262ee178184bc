//! `sluice bench`.

use crate::Outcome;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sluice_bench::measure::{Load, Plan, Progress, Target, Workload, measure, page, table};
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
    /// What an answer may be long at most, in tokens; the provider's limit when absent.
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

/// How far it is, and what each target's last part of a round has so far: drawn on standard error, and only where that
/// is a terminal.
struct View {
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    rounds: usize,
}

impl View {
    fn new(plan: &Plan) -> View {
        let all = MultiProgress::new();
        let styled = |bar: ProgressBar, template: &str| {
            let style = ProgressStyle::with_template(template);
            all.add(bar.with_style(style.unwrap_or_else(|_| unreachable!("templates are constants"))))
        };
        let requests = plan.requests * plan.rounds as u64 * plan.targets.len() as u64;
        let bar = styled(ProgressBar::new(requests), "{bar:30} {pos}/{len} requests, {elapsed}, {eta} left");
        let width = plan.targets.iter().map(|target| target.name.chars().count()).max().unwrap_or_default();
        let lines = plan
            .targets
            .iter()
            .map(|target| {
                let line = styled(ProgressBar::new_spinner(), "{prefix}  {msg}");
                line.set_prefix(format!("{:width$}", target.name));
                line
            })
            .collect();
        View { bar, lines, rounds: plan.rounds }
    }

    fn show(&self, progress: &Progress) {
        let times = |[middle, late]: [u64; 2]| format!("{:.2} / {:.2} ms", middle as f64 / 1e3, late as f64 / 1e3);
        let first = progress.first_us.map(|first| format!(", first token {}", times(first)));
        self.lines[progress.target].set_message(format!(
            "round {} of {}: {:.0}/s, p50 / p99 {}{}, {} failed",
            progress.round + 1,
            self.rounds,
            progress.rate,
            times(progress.total_us),
            first.unwrap_or_default(),
            progress.failed
        ));
        self.bar.set_position(progress.done);
    }

    fn clear(self) {
        for bar in self.lines.iter().chain([&self.bar]) {
            bar.finish_and_clear();
        }
    }
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
        let view = View::new(&plan);
        let measured = measure(&plan, |progress| view.show(&progress)).await?;
        view.clear();
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
