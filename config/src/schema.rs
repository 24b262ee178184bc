//! The names that a configuration may use.
//!
//! They stand in one list, apart from the code that reads them, because three others need them as well: the hint
//! for a misspelled key, the hint for a key in the wrong table, and the decision which part of a broken line is
//! harmless enough to be quoted.

pub(crate) const ROOT: &[&str] =
    &["server", "log", "snapshot", "recall", "limits", "providers", "embedders", "summarizers", "routes"];

pub(crate) const SERVER: &[&str] = &[
    "listen",
    "admin_listen",
    "worker_threads",
    "max_body_bytes",
    "session_max_bytes",
    "header_timeout_seconds",
    "body_timeout_seconds",
    "write_timeout_seconds",
    "keepalive_timeout_seconds",
    "drain_timeout_seconds",
    "tls_certificate_file",
    "tls_key_file",
    "cors_allowed_origins",
];

pub(crate) const LOG: &[&str] = &["level", "format"];

pub(crate) const SNAPSHOT: &[&str] = &[
    "location",
    "notify",
    "poll_interval_milliseconds",
    "max_snapshot_age_seconds",
    "trusted_keys",
    "journal_max_bytes",
    "contents_max_bytes",
];

pub(crate) const RECALL: &[&str] = &["cache_max_bytes", "cache_time_to_live_seconds", "query_max_characters"];

pub(crate) const LIMITS: &[&str] = &["requests_per_minute"];

pub(crate) const PROVIDER: &[&str] = &[
    "kind",
    "base_url",
    "api_key_env",
    "api_key_file",
    "api_key_secret",
    "api_version",
    "connect_timeout_milliseconds",
    "header_timeout_seconds",
    "first_token_timeout_milliseconds",
    "idle_timeout_seconds",
    "total_timeout_seconds",
    "websocket_timeout_seconds",
    "http2",
    "ca_file",
    "proxy",
    "max_concurrent_requests",
    "dns_refresh_seconds",
    "breaker_failures",
    "breaker_open_milliseconds",
    "retry_budget_percent",
    "stream_usage",
];

pub(crate) const SUMMARIZER: &[&str] =
    &["provider", "model", "max_tokens", "max_input_tokens", "timeout_seconds", "keep_seconds"];

pub(crate) const EMBEDDER: &[&str] = &["provider", "model", "dimensions", "timeout_milliseconds"];

pub(crate) const ROUTE: &[&str] = &[
    "provider",
    "model",
    "max_output_tokens",
    "context_window",
    "targets",
    "fallbacks",
    "aliases",
    "retries",
    "hedge_after_milliseconds",
    "keepalive_comment_seconds",
    "drop_unsupported",
    "pass_credentials",
    "prompt",
    "environment",
    "collections",
    "context_tokens",
    "recall_vector_weight_percent",
    "recall_fusion",
    "recall_diversity_percent",
    "recall_query_turns",
    "recall_recency_key",
    "recall_recency_percent",
    "recall_recency_half_life_days",
    "recall_importance_key",
    "recall_importance_percent",
    "window_tokens",
    "history",
    "history_keep_head",
    "summarizer",
    "scrub",
    "scrub_action",
    "scrub_allow",
    "scrub_answers",
    "scrub_forgiving",
    "scrub_outbound_tools",
    "scrub_rules",
    "scrub_session_seconds",
    "unscrubbable_parts",
    "unscrubbable_paths",
];

pub(crate) const TARGET: &[&str] = &["provider", "model", "weight", "max_output_tokens", "context_window"];

pub(crate) const FALLBACK: &[&str] = &["provider", "model", "max_output_tokens", "context_window"];

pub(crate) const SCRUB_RULE: &[&str] = &["kind", "pattern", "action", "threshold_percent"];

/// Every table that holds values, as it is written in a header.
pub(crate) const TABLES: &[(&str, &[&str])] = &[
    ("server", SERVER),
    ("log", LOG),
    ("snapshot", SNAPSHOT),
    ("recall", RECALL),
    ("limits", LIMITS),
    ("providers.NAME", PROVIDER),
    ("embedders.NAME", EMBEDDER),
    ("summarizers.NAME", SUMMARIZER),
    ("routes.NAME", ROUTE),
    ("routes.NAME.targets", TARGET),
    ("routes.NAME.fallbacks", FALLBACK),
    ("routes.NAME.scrub_rules", SCRUB_RULE),
];

/// The first table that has this key.
pub(crate) fn home_of(key: &str) -> Option<&'static str> {
    TABLES.iter().find(|(_, keys)| keys.contains(&key)).map(|(table, _)| *table)
}
