//! What is in force: one bundle of configuration and snapshot, swapped at once.
//!
//! A [`Prepared`] is made aside, and everything that can fail happens there. Swapping it in cannot fail, and an
//! exchange keeps the one that it began with to its end.

use crate::embedders::{EmbedderError, Embedders};
use crate::head::said;
use crate::metrics::{Metrics, RouteMeters};
use crate::prompt::{DEFAULT, PromptEntry};
use crate::summaries::{SummarizerError, Summarizers};
use crate::upstreams::{Provider as UpstreamProvider, States, Target};
use crate::window::Measured;
use arc_swap::ArcSwap;
use http::HeaderValue;
use pingora_core::connectors::http::Connector as HttpConnector;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use sluice_config::{Config, RecallFusion, Route, Secret};
use sluice_index::{Assembled, Boost, Decay, Fusion, Ranking, Scope};
use sluice_policies::grant::{Allow, Assert, Grant};
use sluice_policies::limits::{Moment, RateLimits};
use sluice_scrub::Rules;
use sluice_segment::{Contents, SealedSecret, unit_key, unseal};
use sluice_state::{Journal, SessionsHandle, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What outlives configurations and snapshots: limits, connections, caches, counters.
pub struct Live {
    prepared: ArcSwap<Prepared>,
    pub(crate) limits: RateLimits,
    /// Connects to providers; connections are kept by [`crate::http1::Connections`].
    pub(crate) connector: TransportConnector,
    /// For providers that are spoken to over HTTP/2.
    pub(crate) http2: HttpConnector,
    states: Arc<States>,
    pub(crate) recalled: moka::sync::Cache<[u8; 32], Arc<Assembled>>,
    /// Tokens and terms of texts of conversations, by keyed hash.
    pub(crate) measured: moka::sync::Cache<[u8; 32], Arc<Measured>>,
    /// Keys the hashes of queries, so that a cache key tells nothing outside this process.
    pub(crate) cache_key: [u8; 32],
    pub(crate) pepper: [u8; 32],
    /// Of what hashed placeholders are made. It follows from the pepper, so all edges of a fleet have the same.
    pub(crate) hash_key: [u8; 32],
    /// Of what hashes of sessions and subjects in records are made; also the same at all edges.
    pub(crate) record_key: [u8; 32],
    pub(crate) metrics: Metrics,
    /// Where run records go; `None` where the configuration keeps none.
    pub(crate) journal: Option<Arc<Journal>>,
    /// The same for what is said in runs, of tenants that keep it.
    pub(crate) contents: Option<Arc<Journal>>,
    /// What sessions keep; `None` where the configuration at the start kept nothing.
    pub(crate) sessions: Option<Arc<SessionsHandle>>,
    turn: tokio::sync::Mutex<()>,
    origin: Instant,
    running: AtomicUsize,
}

/// Most idle HTTP/2 connections to providers that are kept.
const MAX_IDLE: usize = 1024;

/// Counts an exchange as running for as long as it lives.
pub(crate) struct Serving<'l>(&'l AtomicUsize);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Everything that one exchange believes.
pub struct Prepared {
    pub(crate) config: Arc<Config>,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) keys: HashMap<[u8; 32], Arc<KeyEntry>>,
    prompts: HashMap<([u8; 16], String), Vec<PromptEntry>>,
    /// The alias that `default` stands for, by tenant.
    default_prompts: HashMap<[u8; 16], String>,
    /// Providers' credentials of tenants, by name, with their origins.
    secrets: HashMap<([u8; 16], String), (String, Secret)>,
    built_in_prompt: PromptEntry,
    pub(crate) embedders: Arc<Embedders>,
    pub(crate) summarizers: Arc<Summarizers>,
    pub(crate) providers: Vec<Arc<UpstreamProvider>>,
    /// By name and by alias.
    pub(crate) routes: HashMap<String, Arc<RouteEntry>>,
    /// Routes and aliases that end in `*`, without it, longest first.
    prefixes: Vec<(String, Arc<RouteEntry>)>,
    wildcard: Option<Arc<RouteEntry>>,
}

/// A key of the snapshot, ready for use.
pub struct KeyEntry {
    pub id: [u8; 16],
    pub tenant: [u8; 16],
    /// Tenant and id as records name them.
    pub tenant_name: String,
    pub id_name: String,
    pub scope: Scope,
    pub grant: Grant,
    /// Present where the tenant keeps what is said in runs.
    pub contents: Option<Contents>,
}

/// A route with its targets.
pub struct RouteEntry {
    pub name: String,
    /// The name for headers, which hold ASCII; a route may be named in any script.
    pub label: HeaderValue,
    pub route: Route,
    /// What is taken out of requests.
    pub scrub: Arc<Rules>,
    /// Of these rules alone, also after others took their place.
    pub scrub_number: u64,
    /// Never empty.
    pub targets: Vec<Arc<Target>>,
    pub fallbacks: Vec<Arc<Target>>,
    meters: OnceLock<RouteMeters>,
}

/// A configuration that cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("provider `{provider}`: cannot resolve `{host}`")]
    Resolve { provider: String, host: String, source: std::io::Error },
    #[error("provider `{provider}`: `{host}` has no address")]
    NoAddress { provider: String, host: String },
    #[error("provider `{provider}`: cannot use the certificates in `{file}`: {reason}")]
    Certificates { provider: String, file: String, reason: String },
    #[error(transparent)]
    Embedder(#[from] EmbedderError),
    #[error(transparent)]
    Summarizer(#[from] SummarizerError),
    #[error("provider `{0}` is built in, and the built-in provider is not running here")]
    NoMock(String),
}

/// Whether the edge can serve.
pub struct Readiness {
    pub ready: bool,
    pub epoch: u64,
    pub reason: Option<&'static str>,
    /// Whether tokens are still estimated, because the vocabulary is being loaded.
    pub estimates_tokens: bool,
}

impl Live {
    pub fn new(
        prepared: Prepared,
        pepper: [u8; 32],
        states: Arc<States>,
        journal: Option<Arc<Journal>>,
        contents: Option<Arc<Journal>>,
        sessions: Option<SessionsHandle>,
    ) -> Live {
        let recall = &prepared.config.recall;
        let recalled = moka::sync::Cache::builder()
            .weigher(|_, block: &Arc<Assembled>| {
                u32::try_from(block.sources.len() + 64 * block.used.len() + 128).unwrap_or(u32::MAX)
            })
            .max_capacity(recall.cache_max_bytes)
            .time_to_live(recall.cache_time_to_live)
            .build();
        let recall_bytes = recall.cache_max_bytes;
        let mut cache_key = [0; 32];
        // A predictable key would only make hashes guessable to who can read this process's memory.
        let _ = getrandom::fill(&mut cache_key);
        let metrics = Metrics::new();
        metrics.epoch.set(prepared.epoch() as i64);
        Live {
            prepared: ArcSwap::from_pointee(prepared),
            limits: RateLimits::default(),
            connector: TransportConnector::new(None),
            http2: HttpConnector::new(Some(ConnectorOptions::new(MAX_IDLE))),
            states,
            recalled,
            measured: moka::sync::Cache::builder()
                .weigher(|_, measured: &Arc<Measured>| measured.weight())
                .max_capacity(recall_bytes)
                .build(),
            cache_key,
            pepper,
            hash_key: blake3::derive_key("sluice 2026-11 hashed placeholders", &pepper),
            record_key: unit_key(&pepper),
            metrics,
            journal,
            contents,
            sessions: sessions.map(Arc::new),
            turn: tokio::sync::Mutex::default(),
            origin: Instant::now(),
            running: AtomicUsize::new(0),
        }
    }

    pub(crate) fn load(&self) -> Arc<Prepared> {
        self.prepared.load_full()
    }

    pub(crate) fn serving(&self) -> Serving<'_> {
        self.running.fetch_add(1, Ordering::AcqRel);
        Serving(&self.running)
    }

    /// Whether no exchange is running.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Acquire) == 0
    }

    /// Writes what waits to be written; the process is about to end.
    pub(crate) fn close(&self) {
        if let Some(sessions) = &self.sessions {
            sessions.flush(std::time::Duration::from_secs(2));
        }
    }

    /// Forgets what sessions keep of subjects that were erased, by their hashes; says whether it could.
    pub fn forget_subjects(&self, units: &[([u8; 16], i64)]) -> bool {
        self.sessions.as_ref().is_none_or(|sessions| sessions.erase(units))
    }

    /// What is in force, for building the next one on.
    pub fn current(&self) -> (Arc<Config>, Option<Arc<Snapshot>>) {
        let prepared = self.load();
        (Arc::clone(&prepared.config), prepared.snapshot.clone())
    }

    /// What is known of providers, for building the next configuration on.
    pub fn states(&self) -> &Arc<States> {
        &self.states
    }

    /// Looks up anew, for as long as it is polled, the addresses of the providers in force, and closes connections to
    /// providers that nothing uses.
    pub async fn keep_connections(&self) {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            self.states.sweep();
            for provider in &self.load().providers {
                provider.refresh().await;
            }
        }
    }

    /// To be held from [`Live::current`] to [`Live::swap`] by whoever builds the next on what is in force.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Puts `next` in force. Exchanges that began before keep what they have.
    pub fn swap(&self, next: Prepared) {
        self.metrics.epoch.set(next.epoch() as i64);
        let keys: std::collections::HashSet<[u8; 16]> = next.keys.values().map(|key| key.id).collect();
        self.prepared.store(Arc::new(next));
        self.limits.retain(|key| keys.contains(key));
    }

    /// The time since this process began to serve.
    pub(crate) fn moment(&self) -> Moment {
        self.moment_at(Instant::now())
    }

    /// The same of a time that is known: each look at the clock costs some 25 ns, a request made thirty of them.
    pub(crate) fn moment_at(&self, time: Instant) -> Moment {
        // A full second ahead of zero, which in a limiter's cell stands for «never».
        time.saturating_duration_since(self.origin) + std::time::Duration::from_secs(1)
    }

    pub fn readiness(&self) -> Readiness {
        let prepared = self.load();
        let reason = match &prepared.snapshot {
            None => Some("no snapshot has arrived yet"),
            Some(_) if prepared.is_stale(now_microseconds()) => {
                Some("the snapshot is older than `snapshot.max_snapshot_age_seconds`")
            }
            Some(_) => None,
        };
        let estimates_tokens = counts_tokens(&prepared.config) && !sluice_text::token_counter_is_warm();
        Readiness { ready: reason.is_none(), epoch: prepared.epoch(), reason, estimates_tokens }
    }

    /// All metrics, as `/metrics` gives them.
    pub fn render_metrics(&self) -> String {
        let metrics = &self.metrics;
        for (counter, dropped) in [
            (&metrics.journal_dropped, self.journal.as_ref().map(|journal| journal.dropped())),
            (&metrics.contents_dropped, self.contents.as_ref().map(|contents| contents.dropped())),
            (&metrics.sessions_dropped, self.sessions.as_ref().map(|sessions| sessions.dropped())),
        ] {
            counter.inc_by(dropped.unwrap_or(0).saturating_sub(counter.get()));
        }
        self.metrics.render()
    }

    /// Counts an announcement that was heard.
    pub fn count_announcement(&self) {
        self.metrics.announcements.inc();
    }

    /// Counts a poll that failed.
    pub fn count_sync_failure(&self) {
        self.metrics.sync_failures.inc();
    }
}

fn counts_tokens(config: &Config) -> bool {
    let states_window = |target: &sluice_config::Target| target.context_window.is_some();
    config
        .routes
        .values()
        .any(|route| route.window_tokens.is_some() || route.targets.iter().chain(&route.fallbacks).any(states_window))
}

/// Begins to load what the routes of `config` need: the vocabulary behind estimates, while requests are served already;
/// the scrubber's tables at once, since nothing leaves without them.
fn warm(config: &Config) {
    if counts_tokens(config) && !sluice_text::token_counter_is_warm() {
        drop(std::thread::Builder::new().name("vocabulary".to_owned()).spawn(sluice_text::warm_token_counter));
    }
    // Its tables are twelve megabytes, which an edge that scrubs nothing does not need.
    if config.routes.values().any(|route| !route.scrub.rules().is_empty()) {
        sluice_scrub::warm();
    }
}

impl Prepared {
    /// Builds a bundle: resolves providers and indexes the snapshot. `mock` is where the built-in provider listens,
    /// `fleet_key` opens the snapshot's secrets.
    pub async fn new(
        config: Arc<Config>,
        snapshot: Option<Arc<Snapshot>>,
        mock: Option<SocketAddr>,
        states: &States,
        fleet_key: Option<&[u8; 32]>,
    ) -> Result<Prepared, PrepareError> {
        let embedders = states.embedders(&config)?;
        let summarizers = states.summarizers(&config)?;
        warm(&config);
        let mut providers = BTreeMap::new();
        for (name, provider) in &config.providers {
            providers.insert(name.clone(), Arc::new(UpstreamProvider::new(name, provider, mock, states).await?));
        }
        let mut routes = HashMap::new();
        let mut prefixes = Vec::new();
        let mut wildcard = None;
        for (name, route) in &config.routes {
            let entry = Arc::new(RouteEntry::new(name, route, &providers, states));
            for name in std::iter::once(name).chain(&route.aliases) {
                match name.strip_suffix('*') {
                    Some("") => wildcard = Some(Arc::clone(&entry)),
                    Some(prefix) => prefixes.push((prefix.to_owned(), Arc::clone(&entry))),
                    None => drop(routes.insert(name.clone(), Arc::clone(&entry))),
                }
            }
        }
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let mut keys = HashMap::new();
        let mut prompts: HashMap<_, Vec<PromptEntry>> = HashMap::new();
        let mut default_prompts = HashMap::new();
        let mut secrets = HashMap::new();
        for tenant in snapshot.iter().flat_map(|snapshot| snapshot.registry.get().tenants.iter()) {
            let contents = tenant
                .contents
                .as_ref()
                .map(|contents| Contents { key: contents.key, max_bytes: contents.max_bytes.to_native() });
            for key in tenant.keys.iter() {
                let requests_per_minute = key.requests_per_minute.to_native();
                let expires_at = key.expires_at.to_native();
                let grant = Grant {
                    routes: Allow::of_names(key.routes.iter().map(|name| name.as_str().to_owned())),
                    models: Allow::of_names(key.models.iter().map(|name| name.as_str().to_owned())),
                    asserts: key.asserts.iter().filter_map(|name| Assert::of_name(name.as_str())).collect(),
                    requests_per_minute: (requests_per_minute > 0).then_some(requests_per_minute),
                    expires_at: (expires_at > 0).then_some(expires_at),
                };
                keys.insert(
                    key.hash,
                    Arc::new(KeyEntry {
                        id: key.id,
                        tenant: tenant.id,
                        tenant_name: hex::encode(tenant.id),
                        id_name: hex::encode(key.id),
                        scope: Scope::of_tenant(tenant.id),
                        grant,
                        contents,
                    }),
                );
            }
            for prompt in tenant.prompts.iter() {
                let entry = PromptEntry::new(prompt);
                prompts.entry((tenant.id, entry.alias.clone())).or_default().push(entry);
            }
            for sealed in tenant.secrets.iter() {
                let (name, origin) = (sealed.name.as_str(), sealed.origin.as_str());
                let context = SealedSecret::context(&tenant.id, name, origin);
                let opened = fleet_key.and_then(|key| unseal(key, &context, &sealed.sealed));
                match opened.and_then(|value| String::from_utf8(value).ok()) {
                    Some(value) => {
                        secrets.insert((tenant.id, name.to_owned()), (origin.to_owned(), Secret::new(value)));
                    }
                    None => tracing::warn!(
                        secret = name,
                        "a secret of the snapshot cannot be opened; is `fleet.key` the publisher's?"
                    ),
                }
            }
            if let Some(alias) = tenant.default_prompt.as_ref() {
                default_prompts.insert(tenant.id, alias.as_str().to_owned());
            }
        }
        let providers = providers.into_values().collect();
        let built_in_prompt = PromptEntry::built_in();
        Ok(Prepared {
            config,
            snapshot,
            keys,
            prompts,
            default_prompts,
            secrets,
            built_in_prompt,
            embedders,
            summarizers,
            providers,
            routes,
            prefixes,
            wildcard,
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.epoch)
    }

    /// Whether the snapshot is too old to admit anybody at `now`.
    pub(crate) fn is_stale(&self, now: i64) -> bool {
        let age = self.snapshot.as_ref().map_or(0, |snapshot| now - snapshot.published_at);
        age > self.config.snapshot.max_snapshot_age.as_micros() as i64
    }

    /// The tenant's credential for a provider at `origin`. One that is for another place is as good as none.
    pub(crate) fn secret(&self, tenant: [u8; 16], name: &str, origin: &str) -> Option<&Secret> {
        let (bound_to, secret) = self.secrets.get(&(tenant, name.to_owned()))?;
        (bound_to == origin).then_some(secret)
    }

    /// The prompt in force. `default` is the tenant's default prompt, or the built-in one where that is not in force.
    pub(crate) fn prompt(&self, tenant: [u8; 16], alias: &str, environment: &str) -> Option<&PromptEntry> {
        let in_force = |alias: &str| {
            let entries = self.prompts.get(&(tenant, alias.to_owned()))?;
            entries.iter().find(|prompt| prompt.environment == environment)
        };
        match alias {
            DEFAULT => {
                let chosen = self.default_prompts.get(&tenant).and_then(|alias| in_force(alias));
                Some(chosen.unwrap_or(&self.built_in_prompt))
            }
            alias => in_force(alias),
        }
    }

    /// The route of that name: its own, an alias, or the longest prefix.
    pub(crate) fn route(&self, name: &str) -> Option<&Arc<RouteEntry>> {
        self.routes.get(name).or_else(|| {
            let fitting = self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_str()));
            fitting.map(|(_, route)| route)
        })
    }

    pub(crate) fn wildcard(&self) -> Option<&Arc<RouteEntry>> {
        self.wildcard.as_ref()
    }
}

/// The next number of a route's rules.
static RULES: AtomicU64 = AtomicU64::new(1);

impl RouteEntry {
    fn new(
        name: &str,
        route: &Route,
        providers: &BTreeMap<String, Arc<UpstreamProvider>>,
        states: &States,
    ) -> RouteEntry {
        // The configuration's check made sure that the providers exist.
        let targets = |targets: &[sluice_config::Target]| {
            let made = targets.iter().filter_map(|target| {
                Some(Arc::new(Target::new(target, Arc::clone(providers.get(&target.provider)?), states)))
            });
            made.collect()
        };
        RouteEntry {
            name: name.to_owned(),
            label: said(&name.escape_default().to_string()),
            scrub: Arc::new(route.scrub.rules()),
            scrub_number: RULES.fetch_add(1, Ordering::Relaxed),
            targets: targets(&route.targets),
            fallbacks: targets(&route.fallbacks),
            route: route.clone(),
            meters: OnceLock::new(),
        }
    }

    /// How what is found is ranked at `now`, seconds since 1970.
    pub fn ranking(&self, now: f64) -> Ranking {
        let recall = &self.route.recall;
        let share = |percent: u8| f32::from(percent) / 100.0;
        let recency = recall.recency.as_ref().map(|recency| Boost {
            path: recency.key.clone(),
            weight: share(recency.weight_percent),
            decay: Some(Decay { half_life_seconds: recency.half_life.as_secs_f64(), now }),
        });
        let importance = recall.importance.as_ref();
        let importance =
            importance.map(|(key, percent)| Boost { path: key.clone(), weight: share(*percent), decay: None });
        Ranking {
            vector_weight: share(recall.vector_weight_percent),
            diversity: share(recall.diversity_percent),
            fusion: match recall.fusion {
                RecallFusion::Score => Fusion::Score,
                RecallFusion::Rank => Fusion::Rank,
            },
            boosts: recency.into_iter().chain(importance).collect(),
            ..Ranking::default()
        }
    }

    pub fn meters(&self, metrics: &Metrics) -> &RouteMeters {
        self.meters.get_or_init(|| metrics.route(&self.name))
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
