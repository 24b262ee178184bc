//! What is in force: one bundle of configuration and snapshot, swapped at once.
//!
//! A [`Prepared`] is made aside, and everything that can fail happens there. Swapping it in cannot fail, and an
//! exchange keeps the one that it began with to its end.

use crate::metrics::{Metrics, RouteMeters};
use arc_swap::ArcSwap;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use sluice_config::{BaseUrl, Config, Provider, Route, ScrubKind, WILDCARD};
use sluice_index::{Assembled, Scope};
use sluice_policies::grant::{Allow, Assert, Grant};
use sluice_policies::limits::{Moment, RateLimits};
use sluice_policies::scrub::Kind;
use sluice_segment::ArchivedPrompt;
use sluice_state::Snapshot;
use sluice_text::Template;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What outlives configurations and snapshots: limits, connections, caches, counters.
pub struct Live {
    prepared: ArcSwap<Prepared>,
    pub(crate) limits: RateLimits,
    pub(crate) connector: TransportConnector,
    pub(crate) recalled: moka::sync::Cache<[u8; 32], Arc<Assembled>>,
    /// Keys the hashes of queries, so that a cache key tells nothing outside this process.
    pub(crate) cache_key: [u8; 32],
    pub(crate) pepper: [u8; 32],
    pub(crate) metrics: Metrics,
    origin: Instant,
    running: AtomicUsize,
}

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
    pub(crate) prompts: HashMap<([u8; 16], String), Vec<PromptEntry>>,
    pub(crate) routes: HashMap<String, Arc<RouteEntry>>,
}

/// A key of the snapshot, ready for use.
pub struct KeyEntry {
    pub id: [u8; 16],
    pub tenant: [u8; 16],
    pub scope: Scope,
    pub grant: Grant,
}

/// A deployed prompt, compiled when it is first used.
pub struct PromptEntry {
    pub alias: String,
    pub environment: String,
    pub version: u32,
    template: OnceLock<Result<Template, String>>,
    messages: Vec<(String, String)>,
    variables: BTreeMap<String, Option<serde_json::Value>>,
}

/// A route with its provider's connection data.
pub struct RouteEntry {
    pub name: String,
    pub route: Route,
    pub scrub: Vec<Kind>,
    pub provider: Provider,
    pub provider_name: String,
    pub base: BaseUrl,
    pub host_header: String,
    pub authorization: Option<String>,
    pub peer: HttpPeer,
    meters: OnceLock<RouteMeters>,
}

/// A configuration that cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("provider `{provider}`: cannot resolve `{host}`")]
    Resolve { provider: String, host: String, source: std::io::Error },
    #[error("provider `{provider}`: `{host}` has no address")]
    NoAddress { provider: String, host: String },
    #[error("provider `{0}` is built in, and the built-in provider is not running here")]
    NoMock(String),
}

/// Whether the edge can serve.
pub struct Readiness {
    pub ready: bool,
    pub epoch: u64,
    pub reason: Option<&'static str>,
}

impl Live {
    pub fn new(prepared: Prepared, pepper: [u8; 32]) -> Live {
        let recall = &prepared.config.recall;
        let recalled = moka::sync::Cache::builder()
            .weigher(|_, block: &Arc<Assembled>| {
                u32::try_from(block.sources.len() + 64 * block.used.len() + 128).unwrap_or(u32::MAX)
            })
            .max_capacity(recall.cache_max_bytes)
            .time_to_live(recall.cache_time_to_live)
            .build();
        let mut cache_key = [0; 32];
        // A predictable key would only make hashes guessable to who can read this process's memory.
        let _ = getrandom::fill(&mut cache_key);
        let metrics = Metrics::new();
        metrics.epoch.set(prepared.epoch() as i64);
        Live {
            prepared: ArcSwap::from_pointee(prepared),
            limits: RateLimits::default(),
            connector: TransportConnector::new(Some(ConnectorOptions::new(1024))),
            recalled,
            cache_key,
            pepper,
            metrics,
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

    /// What is in force, for building the next one on.
    pub fn current(&self) -> (Arc<Config>, Option<Arc<Snapshot>>) {
        let prepared = self.load();
        (Arc::clone(&prepared.config), prepared.snapshot.clone())
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
        // A full second ahead of zero, which in a limiter's cell stands for «never».
        self.origin.elapsed() + std::time::Duration::from_secs(1)
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
        Readiness { ready: reason.is_none(), epoch: prepared.epoch(), reason }
    }

    /// All metrics, as `/metrics` gives them.
    pub fn render_metrics(&self) -> String {
        self.metrics.render()
    }

    /// Counts a poll that failed.
    pub fn count_sync_failure(&self) {
        self.metrics.sync_failures.inc();
    }
}

impl Prepared {
    /// Builds a bundle: resolves providers and indexes the snapshot. `mock` is where the built-in provider listens.
    pub async fn new(
        config: Arc<Config>,
        snapshot: Option<Arc<Snapshot>>,
        mock: Option<SocketAddr>,
    ) -> Result<Prepared, PrepareError> {
        let mut addresses = HashMap::new();
        for (name, provider) in &config.providers {
            addresses.insert(name.clone(), resolve(name, provider, mock).await?);
        }
        let mut routes = HashMap::new();
        for (name, route) in &config.routes {
            // The configuration's check made sure that the provider exists.
            let (Some(provider), Some((base, address))) =
                (config.providers.get(&route.provider), addresses.get(&route.provider))
            else {
                continue;
            };
            routes.insert(name.clone(), Arc::new(RouteEntry::new(name, route, provider, base.clone(), *address)));
        }
        let mut keys = HashMap::new();
        let mut prompts: HashMap<_, Vec<PromptEntry>> = HashMap::new();
        for tenant in snapshot.iter().flat_map(|snapshot| snapshot.registry.get().tenants.iter()) {
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
                    Arc::new(KeyEntry { id: key.id, tenant: tenant.id, scope: Scope::of_tenant(tenant.id), grant }),
                );
            }
            for prompt in tenant.prompts.iter() {
                let entry = PromptEntry::new(prompt);
                prompts.entry((tenant.id, entry.alias.clone())).or_default().push(entry);
            }
        }
        Ok(Prepared { config, snapshot, keys, prompts, routes })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.epoch)
    }

    /// Whether the snapshot is too old to admit anybody at `now`.
    pub(crate) fn is_stale(&self, now: i64) -> bool {
        let age = self.snapshot.as_ref().map_or(0, |snapshot| now - snapshot.published_at);
        age > self.config.snapshot.max_snapshot_age.as_micros() as i64
    }

    pub(crate) fn prompt(&self, tenant: [u8; 16], alias: &str, environment: &str) -> Option<&PromptEntry> {
        self.prompts.get(&(tenant, alias.to_owned()))?.iter().find(|prompt| prompt.environment == environment)
    }

    /// The route of that name, or the wildcard's.
    pub(crate) fn route(&self, name: &str) -> Option<&Arc<RouteEntry>> {
        self.routes.get(name)
    }

    pub(crate) fn wildcard(&self) -> Option<&Arc<RouteEntry>> {
        self.routes.get(WILDCARD)
    }
}

impl PromptEntry {
    fn new(prompt: &ArchivedPrompt) -> PromptEntry {
        let variables = prompt.variables.iter().map(|variable| {
            let default = variable.default.as_ref().and_then(|default| serde_json::from_str(default.as_str()).ok());
            (variable.name.as_str().to_owned(), default)
        });
        PromptEntry {
            alias: prompt.alias.as_str().to_owned(),
            environment: prompt.environment.as_str().to_owned(),
            version: prompt.version.to_native(),
            template: OnceLock::new(),
            messages: prompt
                .messages
                .iter()
                .map(|message| (message.role.as_str().to_owned(), message.template.as_str().to_owned()))
                .collect(),
            variables: variables.collect(),
        }
    }

    pub fn template(&self) -> Result<&Template, &str> {
        let compile =
            || Template::compile(&self.messages, Some(self.variables.clone())).map_err(|error| error.to_string());
        self.template.get_or_init(compile).as_ref().map_err(String::as_str)
    }
}

impl RouteEntry {
    fn new(name: &str, route: &Route, provider: &Provider, base: BaseUrl, address: SocketAddr) -> RouteEntry {
        let mut peer = HttpPeer::new(address, base.tls, base.host.clone());
        peer.options.connection_timeout = Some(provider.connect_timeout);
        peer.options.total_connection_timeout = Some(provider.connect_timeout);
        peer.options.alpn = ALPN::H1;
        let default_port = if base.tls { 443 } else { 80 };
        let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
        let kinds = route.scrub.iter().map(|kind| match kind {
            ScrubKind::Email => Kind::Email,
            ScrubKind::Phone => Kind::Phone,
            ScrubKind::CreditCard => Kind::CreditCard,
        });
        RouteEntry {
            name: name.to_owned(),
            scrub: kinds.collect(),
            route: route.clone(),
            provider_name: route.provider.clone(),
            provider: provider.clone(),
            host_header: if base.port == default_port { host } else { format!("{host}:{}", base.port) },
            authorization: provider.api_key.as_ref().map(|key| format!("Bearer {}", key.expose())),
            base,
            peer,
            meters: OnceLock::new(),
        }
    }
}

impl RouteEntry {
    pub fn meters(&self, metrics: &Metrics) -> &RouteMeters {
        self.meters.get_or_init(|| metrics.route(&self.name, &self.provider_name))
    }
}

async fn resolve(
    name: &str,
    provider: &Provider,
    mock: Option<SocketAddr>,
) -> Result<(BaseUrl, SocketAddr), PrepareError> {
    let Some(base) = &provider.base_url else {
        let address = mock.ok_or_else(|| PrepareError::NoMock(name.to_owned()))?;
        let base =
            BaseUrl { tls: false, host: address.ip().to_string(), port: address.port(), prefix: "/v1".to_owned() };
        return Ok((base, address));
    };
    let failed = |source| PrepareError::Resolve { provider: name.to_owned(), host: base.host.clone(), source };
    let mut found = tokio::net::lookup_host((base.host.as_str(), base.port)).await.map_err(failed)?;
    let address =
        found.next().ok_or_else(|| PrepareError::NoAddress { provider: name.to_owned(), host: base.host.clone() })?;
    Ok((base.clone(), address))
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
