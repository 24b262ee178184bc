//! `[providers.NAME]`.

use super::table::Table;
use super::{DAY_SECONDS, api_key, base_url};
use crate::source::Environment;
use crate::{BaseUrl, Provider, ProviderKind};

const KINDS: &[(&str, ProviderKind)] = &[
    ("openai", ProviderKind::OpenAi),
    ("azure", ProviderKind::Azure),
    ("anthropic", ProviderKind::Anthropic),
    ("gemini", ProviderKind::Gemini),
    ("mock", ProviderKind::Mock),
];

/// The time that a breaker's doubling ends at.
const LONGEST_BREAKER_OPEN_MILLISECONDS: u64 = 60_000;

/// `None` without a kind, which is a fault; there is no default to stand in for it.
pub(super) fn read(mut table: Table<'_, '_, '_>, environment: &Environment) -> Option<Provider> {
    let kind = table.choice("kind", KINDS);
    if !table.has("kind") {
        table.missing("kind", "add `kind = \"openai\"`, which every service that speaks OpenAI's dialect is");
    }
    Some(Provider {
        base_url: address(&mut table, kind),
        api_key: api_key::read(&mut table, environment),
        api_key_secret: api_key::name(&mut table),
        api_version: api_version(&mut table, kind),
        connect_timeout: table.milliseconds("connect_timeout_milliseconds", 3_000, DAY_SECONDS * 1_000),
        header_timeout: table.seconds("header_timeout_seconds", 120, DAY_SECONDS),
        first_token_timeout: table.milliseconds("first_token_timeout_milliseconds", 60_000, DAY_SECONDS * 1_000),
        idle_timeout: table.seconds("idle_timeout_seconds", 60, DAY_SECONDS),
        total_timeout: table.seconds("total_timeout_seconds", 600, DAY_SECONDS),
        websocket_timeout: table.seconds("websocket_timeout_seconds", 3_600, DAY_SECONDS),
        http2: table.boolean("http2").unwrap_or(false),
        ca_file: table.text("ca_file").map(|text| text.value.into()),
        proxy: proxy(&mut table, kind),
        max_concurrent_requests: table.integer("max_concurrent_requests", 1..=1_000_000).unwrap_or(1_024),
        dns_refresh: table.seconds("dns_refresh_seconds", 30, DAY_SECONDS),
        breaker_failures: table.integer("breaker_failures", 0..=1_000_000).unwrap_or(10),
        breaker_open: table.milliseconds("breaker_open_milliseconds", 1_000, LONGEST_BREAKER_OPEN_MILLISECONDS),
        retry_budget_percent: table.integer("retry_budget_percent", 0..=100).unwrap_or(20),
        stream_usage: table.boolean("stream_usage").unwrap_or(true),
        // Last, so that a provider without a kind is read to its end.
        kind: kind?,
    })
}

fn address(table: &mut Table<'_, '_, '_>, kind: Option<ProviderKind>) -> Option<BaseUrl> {
    let Some(text) = table.text("base_url") else {
        if let Some(example) = kind.and_then(example).filter(|_| !table.has("base_url")) {
            table.missing("base_url", format!("add `base_url = \"{example}\"` or the like"));
        }
        return None;
    };
    if kind == Some(ProviderKind::Mock) {
        let message = format!("{} does not go with `kind = \"mock\"`", table.label("base_url"));
        table.fault(text.span, message, "the built-in provider knows its own address: remove this");
        return None;
    }
    match base_url::parse(text.value) {
        Ok(base_url) => Some(base_url),
        Err(misfit) => {
            let message = format!("{} {}", table.label("base_url"), misfit.problem);
            table.fault(text.span, message, misfit.hint);
            None
        }
    }
}

/// The address of a kind's service, as its documentation has it; `None` for the built-in provider.
fn example(kind: ProviderKind) -> Option<&'static str> {
    match kind {
        ProviderKind::OpenAi => Some("https://api.openai.com/v1"),
        ProviderKind::Azure => Some("https://RESOURCE.openai.azure.com/openai"),
        ProviderKind::Anthropic => Some("https://api.anthropic.com/v1"),
        ProviderKind::Gemini => Some("https://generativelanguage.googleapis.com/v1beta"),
        ProviderKind::Mock => None,
    }
}

/// Azure puts it in a query and Anthropic in a header, so that it may hold only what both can.
fn api_version(table: &mut Table<'_, '_, '_>, kind: Option<ProviderKind>) -> Option<String> {
    let Some(text) = table.text("api_version") else {
        if kind == Some(ProviderKind::Azure) && !table.has("api_version") {
            table.missing("api_version", "add `api_version = \"2024-10-21\"` or the like");
        }
        return None;
    };
    let unversioned = KINDS.iter().find(|(_, other)| kind == Some(*other) && !has_versions(*other));
    if let Some((name, _)) = unversioned {
        let message = format!("{} does not go with `kind = \"{name}\"`", table.label("api_version"));
        table.fault(text.span, message, "only `azure` and `anthropic` have versions: remove this");
        return None;
    }
    if !text.value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        let message = format!("{} is not a version", table.label("api_version"));
        table.fault(text.span, message, "a version has letters, digits, dots and dashes, as in `2024-10-21`");
        return None;
    }
    Some(text.value.to_owned())
}

fn has_versions(kind: ProviderKind) -> bool {
    matches!(kind, ProviderKind::Azure | ProviderKind::Anthropic)
}

fn proxy(table: &mut Table<'_, '_, '_>, kind: Option<ProviderKind>) -> Option<BaseUrl> {
    let text = table.text("proxy")?;
    if kind == Some(ProviderKind::Mock) {
        let message = format!("{} does not go with `kind = \"mock\"`", table.label("proxy"));
        table.fault(text.span, message, "the built-in provider is in the same process: remove this");
        return None;
    }
    match base_url::parse_proxy(text.value) {
        Ok(proxy) => Some(proxy),
        Err(misfit) => {
            let message = format!("{} {}", table.label("proxy"), misfit.problem);
            table.fault(text.span, message, misfit.hint);
            None
        }
    }
}
