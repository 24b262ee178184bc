//! Log lines: for people or as JSON, to standard error.
//!
//! The level is for Sluice's own lines. Libraries are heard from `warn` upwards only, whatever the level: at `trace`
//! they print headers and bodies, and secrets and prompts never reach logs.

use sluice_config::{Log, LogFormat, LogLevel};
use std::io::IsTerminal;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = level.min(LevelFilter::WARN);
    // pingora logs each request that a peer breaks at `error`, with its URI, whose query may be a secret.
    // async-nats says at each attempt that a server does not let it in; Sluice says it once.
    let filter = Targets::new()
        .with_default(others)
        .with_target("sluice", level)
        .with_target("pingora", LevelFilter::OFF)
        .with_target("async_nats", LevelFilter::OFF);
    let filter = ["proxy", "state", "store", "index", "config"]
        .iter()
        .fold(filter, |filter, name| filter.with_target(format!("sluice_{name}"), level));
    let layer = match log.format {
        LogFormat::Human => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    // A second start in one process would be a fault of this program; the first subscriber stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}
