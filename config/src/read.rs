//! The journey from text to [`Config`]: parse, override, check each table, and believe the result only if nothing
//! was wrong.
//!
//! A reader of a value always returns something, be it the default, and tells the report when it should not be
//! believed. That is what lets one run find every fault: no check has to wait for another to pass.

mod address;
mod api_key;
mod base_url;
mod cors_origin;
mod embedder;
mod provider;
mod route;
mod scrub;
mod server;
mod snapshot;
mod table;

use crate::fault::{Fault, Faults};
use crate::origin::Origins;
use crate::report::Report;
use crate::source::Environment;
use crate::syntax::{self, Syntax};
use crate::{Config, Limits, Log, LogFormat, LogLevel, Recall, overrides, schema};
use std::collections::BTreeMap;
use table::Table;

/// The longest that a time in the file may be, unless a key says otherwise.
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The parser bounds how deep tables nest, and how many parts a dotted key has, but not their product: a dozen
/// kilobytes make a tree of 6,000 levels, which is walked and dropped level by level. An unoptimized build needs up to
/// half of this for it, far more than the stack of a thread that somebody else started.
const STACK_BYTES: usize = 64 << 20;

pub(crate) fn read(name: &str, text: &str, environment: &Environment) -> Result<Config, Faults> {
    let here = std::thread::Builder::new().name("configuration".to_owned()).stack_size(STACK_BYTES);
    std::thread::scope(|scope| match here.spawn_scoped(scope, || checked(name, text, environment)) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(error) => {
            let message = format!("no thread could be started to read the file: {error}");
            Err(Fault::of_file(name.to_owned(), message).into())
        }
    })
}

fn checked(name: &str, text: &str, environment: &Environment) -> Result<Config, Faults> {
    let syntax = Syntax::check(text);
    let mut report = Report::new(Origins::new(name, text));
    syntax.tell(&mut report);
    let mut tree = syntax::tree(syntax.readable.as_deref().unwrap_or(text));
    overrides::apply(tree.get_mut(), environment, &mut report);
    let config = config(Table::root(tree.get_ref(), &mut report), environment);
    match report.finish() {
        Some(faults) => Err(faults),
        None => Ok(config),
    }
}

fn config(mut root: Table<'_, '_, '_>, environment: &Environment) -> Config {
    let server = server::read(root.section("server", schema::SERVER));
    let log = log(root.section("log", schema::LOG));
    let snapshot = snapshot::read(root.section("snapshot", schema::SNAPSHOT));
    let recall = recall(root.section("recall", schema::RECALL));
    let limits = limits(root.section("limits", schema::LIMITS));

    let named_providers = root.named("providers");
    let named_routes = root.named("routes");
    let mut names = route::Names {
        providers: named_providers.iter().map(|named| named.name).collect(),
        routes: named_routes.iter().map(|named| named.name).collect(),
        summarizers: Vec::new(),
        aliases: BTreeMap::new(),
    };
    let mut providers = BTreeMap::new();
    for named in &named_providers {
        let table = root.entry("providers", named, schema::PROVIDER);
        providers.extend(provider::read(table, environment).map(|provider| (named.name.to_owned(), provider)));
    }
    let mut embedders = BTreeMap::new();
    for named in &root.named("embedders") {
        let table = root.entry("embedders", named, schema::EMBEDDER);
        let embedder = embedder::read(table, &names.providers, &providers);
        embedders.extend(embedder.map(|embedder| (named.name.to_owned(), embedder)));
    }
    let mut summarizers = BTreeMap::new();
    for named in &root.named("summarizers") {
        let table = root.entry("summarizers", named, schema::SUMMARIZER);
        let summarizer = embedder::read_summarizer(table, &names.providers, &providers);
        summarizers.extend(summarizer.map(|summarizer| (named.name.to_owned(), summarizer)));
    }
    names.summarizers = summarizers.keys().cloned().collect();
    let mut routes = BTreeMap::new();
    for named in &named_routes {
        route::check_name(&mut root, named);
        let table = root.entry("routes", named, schema::ROUTE);
        routes.extend(route::read(table, named.name, &mut names).map(|route| (named.name.to_owned(), route)));
    }
    Config { server, log, snapshot, recall, limits, providers, embedders, summarizers, routes }
}

fn log(mut table: Table<'_, '_, '_>) -> Log {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("human", LogFormat::Human), ("json", LogFormat::Json)];
    Log {
        level: table.choice("level", &levels).unwrap_or(LogLevel::Info),
        format: table.choice("format", &formats).unwrap_or(LogFormat::Human),
    }
}

fn recall(mut table: Table<'_, '_, '_>) -> Recall {
    Recall {
        // 0 turns the cache off.
        cache_max_bytes: table.integer("cache_max_bytes", 0..=1 << 40).unwrap_or(64 << 20),
        cache_time_to_live: table.seconds("cache_time_to_live_seconds", 300, DAY_SECONDS),
        query_max_characters: table.integer("query_max_characters", 1..=1_000_000).unwrap_or(2_048),
    }
}

fn limits(mut table: Table<'_, '_, '_>) -> Limits {
    Limits { requests_per_minute: table.integer("requests_per_minute", 1..=1_000_000_000).unwrap_or(600) }
}
