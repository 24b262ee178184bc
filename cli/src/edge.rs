//! `sluice serve`, and the edge half of `sluice up`.
//!
//! pingora's runtimes serve requests; a runtime of its own follows snapshots and the configuration and serves the
//! admin listener, so that neither waits for the other.

use crate::{Context, Outcome, admin, chain, location, log};
use clap::Args;
use object_store::ObjectStore;
use sluice_config::{Config, Environment, ProviderKind};
use sluice_proxy::{Live, Prepared, States};
use sluice_segment::VerifyingKey;
use sluice_state::{Follower, Journal, Sessions, Snapshot};
use sluice_store::{read_fleet_key, read_pepper, read_publisher_keys};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

#[derive(Args)]
pub struct Serve {
    /// The configuration; the built-in sample if left out.
    #[arg(long, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    pub fn run(self, context: Context) -> Outcome {
        let runtime = control_runtime()?;
        let Some(config) = load(self.config.as_deref()) else { return Ok(ExitCode::from(2)) };
        log::start(&config.log);
        let edge = Edge { config, config_file: self.config, data: context.data, store: axum::Router::new() };
        edge.run(&runtime)
    }
}

/// The configuration that `sluice up` and `serve` use when none is named.
const SAMPLE: &str = include_str!("../../samples/sluice.toml");

/// How often the configuration file is looked at.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// Reads a configuration; faults go to standard error.
pub fn load(file: Option<&Path>) -> Option<Config> {
    read(file).map_err(|faults| eprintln!("{faults}")).ok()
}

fn read(file: Option<&Path>) -> Result<Config, sluice_config::Faults> {
    let environment = Environment::from_process();
    match file {
        Some(file) => Config::load(file, &environment),
        None => Config::parse("built-in configuration", SAMPLE, &environment),
    }
}

pub fn control_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build()
}

/// An edge that is about to run.
pub struct Edge {
    pub config: Config,
    pub config_file: Option<PathBuf>,
    pub data: PathBuf,
    /// The store's API, where the store is in this process.
    pub store: axum::Router,
}

impl Edge {
    /// Serves until the process is told to end.
    pub fn run(self, runtime: &Runtime) -> Outcome {
        let live = runtime.block_on(self.start())?;
        sluice_proxy::serve(live, &self.config.server)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Opens one of the edge's journals; none where it may hold nothing.
    fn journal(&self, name: &str, max_bytes: Option<u64>) -> Result<Option<Arc<Journal>>, String> {
        let open = |most| {
            Journal::open(&self.data.join("edge").join(name), most)
                .map_err(|error| format!("cannot keep records in {}: {error}", self.data.display()))
        };
        Ok(max_bytes.map(open).transpose()?.map(Arc::new))
    }

    async fn start(&self) -> Result<Arc<Live>, Box<dyn std::error::Error>> {
        let admin = admin::bind(self.config.server.admin_listen).await?;
        let mock = match self.config.providers.values().any(|provider| provider.kind == ProviderKind::Mock) {
            true => Some(start_mock().await?),
            false => None,
        };
        let pepper = read_pepper(&self.data)?;
        let fleet_key = read_fleet_key(&self.data)?;
        let store = location::open(self.config.snapshot.location.as_deref(), &self.data)?;
        let mut follower =
            Follower::new(Arc::clone(&store), self.data.join("edge"), trusted(&self.config, &self.data)?)?;
        let mut snapshot = match follower.poll().await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "the published snapshot is refused; the last one that was served is tried"
                );
                None
            }
        };
        if snapshot.is_none() {
            snapshot = follower.last_known();
        }
        match &snapshot {
            Some(snapshot) => tracing::info!(epoch = snapshot.epoch, "serving a snapshot"),
            None => tracing::warn!("no snapshot yet; requests are refused until one is published"),
        }
        let config = Arc::new(self.config.clone());
        let states = Arc::new(States::default());
        let prepared =
            Prepared::new(Arc::clone(&config), snapshot.map(Arc::new), mock, &states, fleet_key.as_ref()).await?;
        let journal = self.journal("journal", config.snapshot.journal_max_bytes)?;
        let contents = self.journal("contents", config.snapshot.contents_max_bytes)?;
        let sessions = match keeps_sessions(&config) {
            true => {
                Some(Sessions::open(&self.data.join("edge/sessions.redb"), &pepper, config.server.session_max_bytes)?)
            }
            false => None,
        };
        let live = Arc::new(Live::new(prepared, pepper, states, journal.clone(), contents.clone(), sessions));
        for journal in [&journal, &contents].into_iter().flatten() {
            let (journal, location) = (Arc::clone(journal), Arc::clone(&store));
            tokio::spawn(async move { journal.ship(location).await });
        }
        if let Some(journal) = journal {
            tokio::spawn(report(journal, Arc::clone(&store), Arc::clone(&live)));
        }
        tokio::spawn(admin::serve(admin, Arc::clone(&live), self.store.clone()));
        let forgetting = Arc::clone(&live);
        follower.on_erasure(move |units| forgetting.forget_subjects(units));
        let heard = Arc::new(Notify::new());
        if let Some(url) = config.snapshot.notify.clone() {
            tokio::spawn(sluice_state::listen(url, Arc::clone(&heard)));
        }
        tokio::spawn(follow(follower, Arc::clone(&live), mock, self.data.clone(), fleet_key, heard));
        let kept = Arc::clone(&live);
        tokio::spawn(async move { kept.keep_connections().await });
        tokio::spawn(watch_config(self.config_file.clone(), Arc::clone(&live), mock, fleet_key));
        tracing::info!(public = %config.server.listen, admin = %config.server.admin_listen, "listening");
        Ok(live)
    }
}

/// The keys whose snapshots are believed: those of the configuration, or those of the data folder's own publisher.
fn trusted(config: &Config, data: &Path) -> Result<Vec<VerifyingKey>, String> {
    if config.snapshot.trusted_keys.is_empty() {
        return read_publisher_keys(data)
            .map_err(|error| format!("no trusted publisher: {}; set `snapshot.trusted_keys`", chain(&error)));
    }
    let keys = config.snapshot.trusted_keys.iter().map(|bytes| {
        VerifyingKey::from_bytes(bytes)
            .map_err(|_| "a key of `snapshot.trusted_keys` is not an Ed25519 public key".to_owned())
    });
    keys.collect()
}

/// Whether a route keeps the originals of sessions, or summaries of conversations.
fn keeps_sessions(config: &Config) -> bool {
    config.routes.values().any(|route| route.scrub.session_lifetime.is_some() || route.summarizer.is_some())
}

async fn start_mock() -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mock = sluice_bench::mock::Mock::bind(address, Default::default()).await?;
    let address = mock.local_addr();
    tokio::spawn(mock.serve());
    tracing::info!(
        url = format!("http://{address}"),
        "built-in mock provider; GET /mock/requests shows what it received"
    );
    Ok(address)
}

/// Says every few seconds which epoch is served here, and at once when it changes.
async fn report(journal: Arc<Journal>, location: Arc<dyn ObjectStore>, live: Arc<Live>) {
    let mut told: Option<(u64, tokio::time::Instant)> = None;
    loop {
        let epoch = live.readiness().epoch;
        if told.is_none_or(|(known, at)| known != epoch || at.elapsed() > REPORT_PERIOD) {
            match journal.report(&location, epoch).await {
                Ok(()) => told = Some((epoch, tokio::time::Instant::now())),
                // The location's failures are told by those who need it.
                Err(error) => tracing::debug!(%error, "this edge's state is not reported"),
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

/// An edge that says nothing for several of these is taken for dead.
const REPORT_PERIOD: std::time::Duration = std::time::Duration::from_secs(10);

/// Announcements within this are one look, so that a storm of them is no storm of looks.
const GATHER: Duration = Duration::from_millis(20);

/// How soon a look that failed is taken again, at first and at last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Takes over every new snapshot, looking for it when something is `heard` and from time to time. One that is refused is
/// reported, and the old one serves on.
async fn follow(
    mut follower: Follower,
    live: Arc<Live>,
    mock: Option<SocketAddr>,
    data: PathBuf,
    fleet_key: Option<[u8; 32]>,
    heard: Arc<Notify>,
) {
    let mut last_error = String::new();
    // A look that failed is taken again soon, however rarely the location is polled: it may have been announced.
    let mut soon = FIRST_RETRY;
    // What was fetched and is not in force yet.
    let mut fetched: Option<Arc<Snapshot>> = None;
    loop {
        let (config, _) = live.current();
        let mut pause = config.snapshot.poll_interval;
        if last_error.is_empty() {
            soon = FIRST_RETRY;
        } else {
            pause = pause.min(soon);
            soon = (soon * 2).min(LAST_RETRY);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = heard.notified() => {
                live.count_announcement();
                tokio::time::sleep(GATHER).await;
            }
        }
        // Read anew, so that a key which is to be signed with next is trusted ahead.
        let mut failed = None;
        match trusted(&live.current().0, &data) {
            Ok(keys) => follower.trust(keys),
            Err(error) => failed = Some((error, "the keys that are trusted stay as they are")),
        }
        match follower.poll().await {
            Ok(None) => {}
            Ok(Some(snapshot)) => fetched = Some(Arc::new(snapshot)),
            Err(error) => failed = Some((chain(&error), "the published snapshot is refused; the old one serves on")),
        }
        if let Some(snapshot) = fetched.take() {
            let epoch = snapshot.epoch;
            let _turn = live.turn().await;
            let (config, _) = live.current();
            match Prepared::new(config, Some(Arc::clone(&snapshot)), mock, live.states(), fleet_key.as_ref()).await {
                Ok(prepared) => {
                    live.swap(prepared);
                    tracing::info!(epoch, "snapshot in force");
                }
                Err(error) => {
                    failed = Some((chain(&error), "the snapshot cannot be prepared yet; the old one serves on"));
                    fetched = Some(snapshot);
                }
            }
        }
        match failed {
            None => last_error.clear(),
            Some((error, message)) => {
                live.count_sync_failure();
                // Said once for as long as it lasts.
                if error != last_error {
                    tracing::error!(error, "{message}");
                    last_error = error;
                }
            }
        }
    }
}

/// Reloads on SIGHUP and when the file's bytes change.
async fn watch_config(file: Option<PathBuf>, live: Arc<Live>, mock: Option<SocketAddr>, fleet_key: Option<[u8; 32]>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let contents = |file: &Option<PathBuf>| file.as_ref().and_then(|file| std::fs::read(file).ok());
    let mut seen = contents(&file);
    // When a configuration is tried again that could not be put in force: what it names may be there by then.
    let mut again: Option<tokio::time::Instant> = None;
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(CONFIG_POLL) => false,
        };
        let now = contents(&file);
        let is_due = again.is_some_and(|again| again <= tokio::time::Instant::now());
        if !asked && (now.is_none() || now == seen && !is_due) {
            continue;
        }
        seen = now;
        again = None;
        let config = match read(file.as_deref()) {
            Ok(config) => config,
            Err(faults) => {
                for fault in faults.iter() {
                    tracing::error!(fault = %fault, "the changed configuration has a fault; the running one stays in force");
                }
                continue;
            }
        };
        // Whoever builds on what is in force must be the only one, or the other's part is lost.
        let _turn = live.turn().await;
        let (old, snapshot) = live.current();
        if old.server.listen != config.server.listen
            || old.server.admin_listen != config.server.admin_listen
            || old.server.worker_threads != config.server.worker_threads
            || old.server.tls != config.server.tls
            || old.snapshot.location != config.snapshot.location
            || old.snapshot.notify != config.snapshot.notify
            || old.log != config.log
            || old.server.session_max_bytes != config.server.session_max_bytes
            || keeps_sessions(&config) && !keeps_sessions(&old)
        {
            tracing::warn!(
                "listeners, threads, TLS, log, snapshot location, announcements and the first use of sessions take effect with the next start"
            );
        }
        match Prepared::new(Arc::new(config), snapshot, mock, live.states(), fleet_key.as_ref()).await {
            Ok(prepared) => {
                live.swap(prepared);
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                again = Some(tokio::time::Instant::now() + LAST_RETRY);
                tracing::error!(
                    error = chain(&error),
                    "the changed configuration cannot be put in force; the running one stays, and this one is tried again"
                );
            }
        }
    }
}
