//! Where requests can go: providers with their addresses and credentials, and their models as targets of routes.
//!
//! What is learnt of them (addresses, health, speed, budgets) outlives configurations: it lives in [`States`], and each
//! configuration's [`Provider`]s and [`Target`]s point to it.

use crate::embedders::{EmbedderError, Embedders};
use crate::head::said;
use crate::http1::Connections;
use crate::live::{PrepareError, Prepared};
use crate::metrics::{Metrics, TargetMeters};
use crate::refuse::{ErrorCode, Refusal};
use crate::summaries::{SummarizerError, Summarizers};
use crate::tunnel::Tunnel;
use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sluice_config::{BaseUrl, Config, Provider as ProviderConfig, ProviderKind};
use sluice_policies::limits::Moment;
use sluice_policies::upstream::{Breaker, BreakerPolicy, Budget, Latency};
use sluice_wire::Family;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What is known of every provider and target, by name; kept for as long as the process runs.
#[derive(Default)]
pub struct States {
    embedders: Mutex<Arc<Embedders>>,
    summarizers: Mutex<Arc<Summarizers>>,
    providers: Mutex<HashMap<(String, String, u16), Arc<ProviderState>>>,
    targets: Mutex<HashMap<(String, String), Arc<TargetState>>>,
}

impl States {
    /// The embedding models of `config`, with the connections of those that were there before.
    pub fn embedders(&self, config: &Config) -> Result<Arc<Embedders>, EmbedderError> {
        let mut known = self.embedders.lock();
        *known = Arc::new(Embedders::of(config, &known)?);
        Ok(Arc::clone(&known))
    }

    /// The models that summarise for `config`, with the connections and orders of those that were there before.
    pub fn summarizers(&self, config: &Config) -> Result<Arc<Summarizers>, SummarizerError> {
        let mut known = self.summarizers.lock();
        *known = Arc::new(Summarizers::of(config, &known)?);
        Ok(Arc::clone(&known))
    }
}

/// What is known of a provider.
#[derive(Default)]
pub struct ProviderState {
    addresses: ArcSwap<Vec<SocketAddr>>,
    looked_up: Mutex<Option<Instant>>,
    pub budget: Budget,
    pub connections: Connections,
    running: AtomicUsize,
}

/// What is known of one model of a provider.
#[derive(Default)]
pub struct TargetState {
    pub breaker: Breaker,
    pub latency: Latency,
}

/// A provider as one configuration gives it.
pub struct Provider {
    pub name: String,
    pub config: ProviderConfig,
    /// The dialects that it speaks; `None` speaks all, as the built-in one does.
    pub family: Option<Family>,
    pub base: BaseUrl,
    pub host_header: String,
    pub credential: Option<(HeaderName, String)>,
    ca: Option<Arc<CaType>>,
    peers: ArcSwap<Vec<Arc<Peer>>>,
    pub state: Arc<ProviderState>,
}

/// An address of a provider, ready to connect to.
pub struct Peer {
    pub http: HttpPeer,
    /// Tells connections apart that cannot stand for one another.
    pub key: u64,
}

/// A provider's model that a route may go to.
pub struct Target {
    pub provider: Arc<Provider>,
    /// `None` keeps what the client named.
    pub model: Option<String>,
    pub weight: u32,
    pub max_output_tokens: Option<u32>,
    pub context_window: Option<u32>,
    /// What it is called in headers and messages, in ASCII.
    pub label: HeaderValue,
    /// Names it in hashes.
    pub identity: u64,
    pub state: Arc<TargetState>,
    meters: OnceLock<TargetMeters>,
}

/// Why a target cannot be tried now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It failed too often; it will be probed after this time.
    Broken(Duration),
    /// As many requests as it may have are running.
    Full,
}

/// One attempt's place at a target: counted, and given back on any exit.
pub struct Permit {
    target: Arc<Target>,
    probe: bool,
    told: bool,
}

impl States {
    fn provider(&self, name: &str, base: &BaseUrl) -> Arc<ProviderState> {
        let key = (name.to_owned(), base.host.clone(), base.port);
        Arc::clone(self.providers.lock().entry(key).or_default())
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        self.providers.lock().values().for_each(|provider| provider.connections.sweep());
    }

    pub fn target(&self, provider: &str, model: &str) -> Arc<TargetState> {
        Arc::clone(self.targets.lock().entry((provider.to_owned(), model.to_owned())).or_default())
    }
}

/// The header in which a provider of that kind looks for its key.
pub fn credential(kind: ProviderKind, key: &str) -> (HeaderName, String) {
    match kind {
        ProviderKind::OpenAi | ProviderKind::Mock => (http::header::AUTHORIZATION, format!("Bearer {key}")),
        ProviderKind::Azure => (HeaderName::from_static("api-key"), key.to_owned()),
        ProviderKind::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
        ProviderKind::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
    }
}

impl Provider {
    pub async fn new(
        name: &str,
        config: &ProviderConfig,
        mock: Option<SocketAddr>,
        states: &States,
    ) -> Result<Provider, PrepareError> {
        let base = match &config.base_url {
            Some(base) => base.clone(),
            None => {
                let address = mock.ok_or_else(|| PrepareError::NoMock(name.to_owned()))?;
                BaseUrl { tls: false, host: address.ip().to_string(), port: address.port(), prefix: String::new() }
            }
        };
        let family = match config.kind {
            ProviderKind::OpenAi | ProviderKind::Azure => Some(Family::OpenAi),
            ProviderKind::Anthropic => Some(Family::Anthropic),
            ProviderKind::Gemini => Some(Family::Gemini),
            ProviderKind::Mock => None,
        };
        let credential = config.api_key.as_ref().map(|key| credential(config.kind, key.expose()));
        let default_port = if base.tls { 443 } else { 80 };
        let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
        let provider = Provider {
            name: name.to_owned(),
            family,
            host_header: if base.port == default_port { host } else { format!("{host}:{}", base.port) },
            credential,
            ca: config.ca_file.as_deref().map(|file| certificates(name, file)).transpose()?,
            peers: ArcSwap::default(),
            state: states.provider(name, &base),
            config: config.clone(),
            base,
        };
        if provider.state.addresses.load().is_empty() {
            provider.look_up().await?;
        }
        provider.make_peers();
        Ok(provider)
    }

    /// What proves to the provider who pays: its own, or the calling tenant's of that name.
    pub fn credential_for(
        &self,
        prepared: &Prepared,
        tenant: [u8; 16],
    ) -> Result<Option<(HeaderName, String)>, Refusal> {
        let Some(name) = &self.config.api_key_secret else { return Ok(self.credential.clone()) };
        let scheme = if self.base.tls { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.host_header);
        match prepared.secret(tenant, name, &origin) {
            Some(secret) => Ok(Some(credential(self.config.kind, secret.expose()))),
            None => Err(Refusal::new(
                ErrorCode::CredentialMissing,
                format!(
                    "There is no credential `{name}` for the provider `{}`. Run `sluice secret put {name} --origin {origin}`.",
                    self.name
                ),
            )),
        }
    }

    /// Looks the host's addresses up.
    async fn look_up(&self) -> Result<(), PrepareError> {
        let base = &self.base;
        *self.state.looked_up.lock() = Some(Instant::now());
        if self.config.proxy.is_some() {
            // The proxy looks the name up; here stands only what tells connections apart in the pool.
            let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), base.port);
            self.state.addresses.store(Arc::new(vec![nowhere]));
            return Ok(());
        }
        let failed = |source| PrepareError::Resolve { provider: self.name.clone(), host: base.host.clone(), source };
        let found = tokio::net::lookup_host((base.host.as_str(), base.port)).await.map_err(failed)?;
        let mut found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(PrepareError::NoAddress { provider: self.name.clone(), host: base.host.clone() });
        }
        found.dedup();
        self.state.addresses.store(Arc::new(found));
        Ok(())
    }

    /// Looks the addresses up anew when it is time. What fails leaves the old ones in use.
    pub async fn refresh(&self) {
        let due = self.state.looked_up.lock().is_none_or(|at| at.elapsed() >= self.config.dns_refresh);
        if !due || self.base.host.parse::<IpAddr>().is_ok() {
            return;
        }
        let before = self.state.addresses.load_full();
        match self.look_up().await {
            Ok(()) if *before != **self.state.addresses.load() => self.make_peers(),
            Ok(()) => {}
            Err(error) => tracing::warn!(provider = self.name, %error, "the provider's old addresses stay in use"),
        }
    }

    fn make_peers(&self) {
        let peers = self.state.addresses.load().iter().map(|address| Arc::new(self.peer(*address))).collect();
        self.peers.store(Arc::new(peers));
    }

    fn peer(&self, address: SocketAddr) -> Peer {
        let mut peer = HttpPeer::new(address, self.base.tls, self.base.host.clone());
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer.options.ca = self.ca.clone();
        peer.options.alpn = match (self.config.http2, self.base.tls) {
            (false, _) => ALPN::H1,
            (true, true) => ALPN::H2H1,
            (true, false) => ALPN::H2,
        };
        if let Some(proxy) = &self.config.proxy {
            peer.options.custom_l4 = Some(Arc::new(Tunnel::new(proxy, &self.base)));
        }
        let mut key = DefaultHasher::new();
        peer.reuse_hash().hash(&mut key);
        self.config.proxy.as_ref().map(|proxy| (&proxy.host, proxy.port)).hash(&mut key);
        self.config.ca_file.hash(&mut key);
        Peer { key: key.finish(), http: peer }
    }

    /// The host's addresses, ready to connect to.
    pub fn peers(&self) -> Arc<Vec<Arc<Peer>>> {
        self.peers.load_full()
    }
}

impl Target {
    pub fn new(config: &sluice_config::Target, provider: Arc<Provider>, states: &States) -> Target {
        let model = config.model.as_deref().unwrap_or("");
        let mut identity = blake3::Hasher::new();
        identity.update(provider.name.as_bytes()).update(&[0]).update(model.as_bytes());
        let hash = *identity.finalize().as_bytes();
        Target {
            state: states.target(&provider.name, model),
            identity: u64::from_le_bytes(hash[..8].try_into().unwrap_or_default()),
            label: said(&match &config.model {
                Some(model) => format!("{}/{model}", provider.name).escape_default().to_string(),
                None => provider.name.escape_default().to_string(),
            }),
            provider,
            model: config.model.clone(),
            weight: config.weight,
            max_output_tokens: config.max_output_tokens,
            context_window: config.context_window,
            meters: OnceLock::new(),
        }
    }

    pub fn meters(&self, metrics: &Metrics) -> &TargetMeters {
        self.meters.get_or_init(|| metrics.target(&self.provider.name))
    }

    /// A place for one attempt.
    pub fn enter(self: &Arc<Self>, now: Moment) -> Result<Permit, Closed> {
        let provider = &self.provider;
        let limit = provider.config.max_concurrent_requests;
        let grow = |running| (running < limit).then_some(running + 1);
        if provider.state.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, grow).is_err() {
            return Err(Closed::Full);
        }
        match self.state.breaker.permit(now) {
            Ok(probe) => {
                self.state.latency.begin();
                Ok(Permit { target: Arc::clone(self), probe, told: false })
            }
            Err(wait) => {
                provider.state.running.fetch_sub(1, Ordering::AcqRel);
                Err(Closed::Broken(wait))
            }
        }
    }
}

impl Permit {
    /// The target answered, its first content after `took`.
    pub fn succeed(&mut self, took: Duration, now: Moment) {
        self.told = true;
        self.target.state.breaker.succeed();
        self.target.state.latency.observe(took, now);
    }

    /// The target failed, before its first content or later.
    pub fn fail(&mut self, now: Moment) {
        self.told = true;
        let config = &self.target.provider.config;
        let policy = BreakerPolicy { failures: config.breaker_failures, open: config.breaker_open };
        self.target.state.breaker.fail(now, policy);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.target.provider.state.running.fetch_sub(1, Ordering::AcqRel);
        self.target.state.latency.end();
        if !self.told {
            self.target.state.breaker.abandon(self.probe);
        }
    }
}

/// The certificates of a PEM file, checked so that pingora can read them.
fn certificates(provider: &str, file: &Path) -> Result<Arc<CaType>, PrepareError> {
    let failed = |reason: String| PrepareError::Certificates {
        provider: provider.to_owned(),
        file: file.display().to_string(),
        reason,
    };
    let mut found = Vec::new();
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        store.add(certificate.clone()).map_err(|error| failed(error.to_string()))?;
        found.push(WrappedX509::new(certificate.to_vec(), parse_x509));
    }
    match found.is_empty() {
        true => Err(failed("it holds no certificate".to_owned())),
        false => Ok(found.into()),
    }
}
