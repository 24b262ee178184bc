//! Turns text into a checked [`Config`].
//!
//! This crate reads TOML and environment overrides, and reports *every* fault of a file in one run, each with
//! file, line, column, the offending text and a hint. It knows nothing of sockets, async or any runtime type:
//! addresses stay `SocketAddr`, times are `Duration`, and nothing is opened except the files that the text names
//! as holding a secret.
//!
//! One struct mirrors what the program believes ([`Config`]); the file's form exists only in [`read`].

mod fault;
mod hint;
mod mask;
mod origin;
mod overrides;
mod quote;
mod read;
mod report;
mod schema;
mod source;
mod syntax;

pub use fault::{Fault, Faults};
pub use source::Environment;

pub use sluice_scrub::{Action as ScrubAction, Kind as ScrubKind};
use sluice_scrub::{Action, Kind};
use sluice_scrub::{DEFAULT_THRESHOLD, PatternError, Rules};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the program believes after every check has passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub server: Server,
    pub log: Log,
    pub snapshot: Snapshot,
    pub recall: Recall,
    pub limits: Limits,
    /// By name, as `[providers.NAME]`.
    pub providers: BTreeMap<String, Provider>,
    /// By name, as `[embedders.NAME]`: models that collections may have their vectors from.
    pub embedders: BTreeMap<String, Embedder>,
    /// By name, as `[summarizers.NAME]`: models that summarise what no longer fits.
    pub summarizers: BTreeMap<String, Summarizer>,
    /// By name, as `[routes.NAME]`; the name is what a client gives as `model`. [`WILDCARD`] serves every model
    /// that no route names, and every `/v1` path that names no model.
    pub routes: BTreeMap<String, Route>,
}

/// An embedding model behind a provider's `/embeddings`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedder {
    /// Of kind `openai` (checked).
    pub provider: String,
    pub model: String,
    /// How many numbers a vector has.
    pub dimensions: usize,
    /// How long a question waits for its vector; then it is asked without.
    pub timeout: Duration,
}

/// A model behind a provider's `/chat/completions` that summarises conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct Summarizer {
    /// Of kind `openai` (checked).
    pub provider: String,
    pub model: String,
    /// Most tokens of a summary.
    pub max_tokens: usize,
    /// Most tokens of a conversation that are summarised at once, the newest.
    pub max_input_tokens: usize,
    /// How long a summary may take; no request waits for it.
    pub timeout: Duration,
    /// How long a summary is kept.
    pub keep: Duration,
}

/// The route that serves what no other route names.
pub const WILDCARD: &str = "*";

/// Listeners and the limits of what a client may send.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Public listener: `/v1`, `/healthz`.
    pub listen: SocketAddr,
    /// Admin listener: `/metrics`, `/readyz`. Always loopback (checked), as it has no credentials yet.
    pub admin_listen: SocketAddr,
    /// Threads that serve requests; 0 in the file means one per core and arrives here as 0.
    pub worker_threads: usize,
    /// Largest request body in bytes; above it 413.
    pub max_body_bytes: usize,
    /// Bytes of what sessions keep at this edge; those that end first go earlier when there are more.
    pub session_max_bytes: u64,
    /// Longest wait for a request's head once a connection is open.
    pub header_timeout: Duration,
    /// Longest silence while a client sends its body.
    pub body_timeout: Duration,
    /// Longest that a single write to a client may block; bounds a client that does not read.
    pub write_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keepalive_timeout: Duration,
    /// How long running exchanges get to finish at shutdown.
    pub drain_timeout: Duration,
    /// TLS on the public listener.
    pub tls: Option<Tls>,
    /// Origins that browsers may call from, as their `Origin` header spells them; `*` is any. Empty = no CORS.
    pub cors_allowed_origins: Vec<String>,
}

/// PEM files of the public listener's certificate chain and key.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// Where the edge finds its snapshots and whom it believes.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// A `file:///absolute/path` or `s3://bucket/prefix` URL; `None` = `objects` in the data folder.
    pub location: Option<String>,
    /// URL of the NATS server or PostgreSQL database by which publications are announced; it may hold a password. An
    /// announcement is a hint to look at once: what is not announced is found by polling.
    pub notify: Option<String>,
    pub poll_interval: Duration,
    /// Older snapshots admit nobody, or a revocation would never arrive offline.
    pub max_snapshot_age: Duration,
    /// Ed25519 public keys; empty = the `publisher.pub` of the data folder.
    pub trusted_keys: Vec<[u8; 32]>,
    /// Bytes of run records that wait to be shipped; beyond it the oldest go. `None` keeps no records.
    pub journal_max_bytes: Option<u64>,
    /// Bytes of sealed contents of runs that wait to be shipped, of tenants that keep them; beyond it the oldest go.
    /// `None` keeps none here.
    pub contents_max_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    pub cache_max_bytes: u64,
    pub cache_time_to_live: Duration,
    /// A query is the last user turn, cut to this many characters.
    pub query_max_characters: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// For keys that state none of their own. At least 1.
    pub requests_per_minute: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub kind: ProviderKind,
    /// Scheme, host, port and path prefix, without a trailing slash. `None` only for `mock`: the address of the
    /// built-in provider, known once it listens.
    pub base_url: Option<BaseUrl>,
    /// Read from `api_key_env` or `api_key_file`; replaces the caller's credentials. `None` sends none.
    pub api_key: Option<Secret>,
    /// The name of a secret of the store, which every tenant has of its own.
    pub api_key_secret: Option<String>,
    /// Azure's `api-version` (required there), Anthropic's `anthropic-version` (sent when the client names none).
    pub api_version: Option<String>,
    pub connect_timeout: Duration,
    /// From the request being sent to the response header.
    pub header_timeout: Duration,
    /// From the request being sent to the first content of a stream, however many metadata events come before it.
    pub first_token_timeout: Duration,
    /// Between two reads of the answer's body.
    pub idle_timeout: Duration,
    /// The whole attempt at the provider.
    pub total_timeout: Duration,
    /// The whole life of a WebSocket.
    pub websocket_timeout: Duration,
    /// Speaks HTTP/2: agreed upon by ALPN over TLS, by prior knowledge without.
    pub http2: bool,
    /// PEM file of certificates that are believed instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `http://host:port` of a proxy that is asked to CONNECT. Its prefix is empty and it has no TLS (checked).
    pub proxy: Option<BaseUrl>,
    /// Most requests at once; what exceeds it goes to another target or is refused.
    pub max_concurrent_requests: usize,
    /// How often the host's addresses are looked up anew.
    pub dns_refresh: Duration,
    /// Failures in a row after which the provider's model is left alone for a while; 0 = never.
    pub breaker_failures: u32,
    /// How long it is left alone the first time; doubled each time, up to a minute.
    pub breaker_open: Duration,
    /// Retries in percent of requests; beside a floor of three a second.
    pub retry_budget_percent: u32,
    /// Whether chat streams may be asked for `stream_options.include_usage`, which accounting needs.
    pub stream_usage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// Anything that speaks OpenAI's dialect: OpenAI, vLLM, Ollama, llama.cpp.
    OpenAi,
    /// OpenAI's dialect below `/deployments/{model}`, with `api-key` and `api-version`.
    Azure,
    Anthropic,
    Gemini,
    /// The built-in provider, in the same process.
    Mock,
}

/// `http(s)://host[:port][/prefix]`, taken apart and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    pub tls: bool,
    /// Never empty, so never an empty TLS server name. Lower case; an IPv6 address stands here without brackets.
    pub host: String,
    pub port: u16,
    /// `""` or `/v1`: begins with a slash, does not end with one.
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Never empty. A client's request goes to one of them, by weight, latency and session.
    pub targets: Vec<Target>,
    /// Tried in this order when no target answers.
    pub fallbacks: Vec<Target>,
    /// Further names; one that ends in `*` stands for every model that begins so.
    pub aliases: Vec<String>,
    /// Further attempts in all after the first.
    pub retries: u32,
    /// A second attempt is begun when the first has not answered after this time; stateless calls only.
    pub hedge_after: Option<Duration>,
    /// How long a stream may be silent before the client gets an SSE comment.
    pub keepalive_comment: Option<Duration>,
    /// What the target's dialect cannot express is dropped (and told) instead of refused.
    pub drop_unsupported: bool,
    /// The caller's own provider credentials go on; its Sluice key comes in `x-sluice-key`.
    pub pass_credentials: bool,
    /// Alias of the managed prompt.
    pub prompt: Option<String>,
    pub environment: String,
    pub collections: Vec<String>,
    /// Most tokens of retrieved context.
    pub context_tokens: usize,
    pub recall: RecallRanking,
    /// Most tokens of a conversation that leaves, all that Sluice adds included; history gives way to it.
    pub window_tokens: Option<usize>,
    /// How history gives way.
    pub history: History,
    /// First exchanges of a conversation that stay.
    pub history_keep_head: usize,
    /// What summarises the exchanges that do not leave: a key of [`Config::summarizers`] (checked), there if and only
    /// if `history` is [`History::Summarize`].
    pub summarizer: Option<String>,
    /// What is taken out of requests.
    pub scrub: Scrub,
    /// Content part types (`image_url`, `input_audio`, `file`) that may leave unread although scrubbing is on.
    pub unscrubbable_parts: Vec<String>,
    /// Path prefixes whose bodies may leave unread although scrubbing is on.
    pub unscrubbable_paths: Vec<String>,
}

/// How a route asks, and ranks what is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallRanking {
    /// How many of the user's last turns are the question.
    pub query_turns: usize,
    /// Where payloads have their time, how much it counts, and after how long half as much.
    pub recency: Option<RecallRecency>,
    /// Where payloads have their importance (0 to 1), and how much it counts, in per cent.
    pub importance: Option<(String, u8)>,
    /// Weight of the vectors; words have the rest.
    pub vector_weight_percent: u8,
    pub fusion: RecallFusion,
    /// How much being unlike what stands above counts against being relevant.
    pub diversity_percent: u8,
}

impl Default for RecallRanking {
    fn default() -> RecallRanking {
        RecallRanking {
            query_turns: 1,
            recency: None,
            importance: None,
            vector_weight_percent: 30,
            fusion: RecallFusion::default(),
            diversity_percent: 0,
        }
    }
}

/// How much newer counts more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallRecency {
    pub key: String,
    pub weight_percent: u8,
    pub half_life: Duration,
}

/// How what words find and what vectors find become one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecallFusion {
    #[default]
    Score,
    Rank,
}

/// How the history of a conversation is made to fit a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// The oldest exchanges go.
    #[default]
    Truncate,
    /// Exchanges that the last turn does not speak of go.
    Importance,
    /// The oldest exchanges go, and a summary of them that was made before stands in their place.
    Summarize,
}

/// A provider's model that a route may go to.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// A key of [`Config::providers`] (checked).
    pub provider: String,
    /// The provider's model; `None` keeps what the client named.
    pub model: Option<String>,
    /// Its share among a route's targets; a fallback's says nothing.
    pub weight: u32,
    /// The most tokens that the model can answer with; requests for more are reduced to it.
    pub max_output_tokens: Option<u32>,
    /// Tokens of question and answer together; longer requests go to another target.
    pub context_window: Option<u32>,
}

/// What a route takes out of requests, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrub {
    /// Built-in kinds; none and no patterns = scrubbing is off.
    pub kinds: Vec<Kind>,
    /// What is done with a finding where no rule says otherwise.
    pub action: Action,
    /// Values that may leave, as they are written.
    pub allow: Vec<String>,
    pub rules: Vec<ScrubRule>,
    /// Whether placeholders are put back that the model spelt otherwise.
    pub forgiving: bool,
    /// Tools whose arguments leave for somebody else: nothing is put back in them.
    pub outbound_tools: Vec<String>,
    /// Whether what the provider itself says is looked at, too.
    pub answers: bool,
    /// How long the originals of a session are kept after its last request; `None` for one request's time.
    pub session_lifetime: Option<Duration>,
}

/// An exception for a kind, or a pattern of the operator's own.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrubRule {
    /// A built-in kind, or the name of the pattern.
    pub kind: String,
    /// A regular expression (checked).
    pub pattern: Option<String>,
    pub action: Option<Action>,
    /// The least score in per cent.
    pub threshold_percent: Option<u8>,
}

impl Scrub {
    /// The rules as the scrubber takes them.
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::of(&[]);
        for kind in &self.kinds {
            rules.want(*kind, DEFAULT_THRESHOLD, self.action);
        }
        for rule in &self.rules {
            // Reading the file made sure that they can be added.
            let _ = rule.add_to(&mut rules, self.action);
        }
        rules.allow(self.allow.iter().cloned());
        rules
    }
}

impl ScrubRule {
    fn add_to(&self, rules: &mut Rules, action: Action) -> Result<(), PatternError> {
        let action = self.action.unwrap_or(action);
        match (&self.pattern, Kind::of_name(&self.kind)) {
            (Some(pattern), _) => rules.add_pattern(&self.kind, pattern, action),
            (None, Some(kind)) => {
                let threshold = self.threshold_percent.map_or(DEFAULT_THRESHOLD, |percent| f32::from(percent) / 100.0);
                rules.want(kind, threshold, action);
                Ok(())
            }
            (None, None) => Err(PatternError::Name),
        }
    }
}

/// A value that never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Secret {
        Secret(value)
    }
    /// The value; call it only where the bytes leave for their owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Config {
    /// Reads `path` and the overrides in `environment`; reports every fault at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Config, Faults> {
        source::load(path, environment)
    }

    /// The same for text already in memory; `name` stands for the file in messages.
    pub fn parse(name: &str, text: &str, environment: &Environment) -> Result<Config, Faults> {
        read::read(name, text, environment)
    }
}
