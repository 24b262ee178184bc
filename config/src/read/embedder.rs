//! `[embedders.NAME]` and `[summarizers.NAME]`: models that Sluice itself calls.

use super::DAY_SECONDS;
use super::route::provider;
use super::table::Table;
use crate::{Embedder, Provider, ProviderKind, Summarizer};
use std::collections::BTreeMap;

/// The longest that a question may wait for its vector.
const LONGEST_TIMEOUT_MILLISECONDS: u64 = 10_000;
/// The longest that a summary may take, in seconds.
const LONGEST_SUMMARY: u64 = 3_600;

/// What a model of a table is for, in words of faults: who calls it, at which path, and a name that it may have.
struct Use {
    by: &'static str,
    path: &'static str,
    example: &'static str,
}

const EMBED: Use = Use { by: "embedder", path: "/embeddings", example: "text-embedding-3-small" };
const SUMMARIZE: Use = Use { by: "summarizer", path: "/chat/completions", example: "gpt-4.1-mini" };

/// `None` without a provider, a model or a length, which is a fault; there is no default to stand in for them.
pub(super) fn read(
    mut table: Table<'_, '_, '_>,
    names: &[&str],
    providers: &BTreeMap<String, Provider>,
) -> Option<Embedder> {
    let (provider, model) = called(&mut table, &EMBED, names, providers);
    let dimensions = table.integer("dimensions", 2..=8_192);
    if !table.has("dimensions") {
        table.missing("dimensions", "add how many numbers a vector has, such as `dimensions = 512`");
    }
    let timeout = table.milliseconds("timeout_milliseconds", 200, LONGEST_TIMEOUT_MILLISECONDS);
    Some(Embedder { provider: provider?, model: model?, dimensions: dimensions?, timeout })
}

/// `None` without a provider or a model, which is a fault.
pub(super) fn read_summarizer(
    mut table: Table<'_, '_, '_>,
    names: &[&str],
    providers: &BTreeMap<String, Provider>,
) -> Option<Summarizer> {
    let (provider, model) = called(&mut table, &SUMMARIZE, names, providers);
    let max_tokens = table.integer("max_tokens", 32..=100_000).unwrap_or(400);
    let max_input_tokens = table.integer("max_input_tokens", 256..=10_000_000).unwrap_or(16_000);
    let timeout = table.seconds("timeout_seconds", 60, LONGEST_SUMMARY);
    let keep = table.seconds("keep_seconds", 7 * DAY_SECONDS, 365 * DAY_SECONDS);
    Some(Summarizer { provider: provider?, model: model?, max_tokens, max_input_tokens, timeout, keep })
}

/// Provider and model of what is called with the configuration's own key, in OpenAI's form.
fn called(
    table: &mut Table<'_, '_, '_>,
    Use { by, path, example }: &Use,
    names: &[&str],
    providers: &BTreeMap<String, Provider>,
) -> (Option<String>, Option<String>) {
    let provider = provider(table, names);
    let kind = provider.as_ref().and_then(|name| providers.get(name)).map(|provider| provider.kind);
    if let (Some(kind), Some(span)) = (kind, table.span("provider"))
        && !matches!(kind, ProviderKind::OpenAi)
    {
        let message = format!("{} names a provider of another kind", table.label("provider"));
        table.fault(span, message, format!("name one with `kind = \"openai\"`: its `{path}` is called"));
    }
    let sealed = provider.as_ref().and_then(|name| providers.get(name)).is_some_and(|p| p.api_key_secret.is_some());
    if let (true, Some(span)) = (sealed, table.span("provider")) {
        let message = format!("{} names a provider whose key each tenant has of its own", table.label("provider"));
        table.fault(span, message, format!("give the {by} a provider with `api_key_env` or `api_key_file`"));
    }
    let model = table.text("model").map(|text| text.value.to_owned());
    if !table.has("model") {
        table.missing("model", format!("add the model's name, such as `model = \"{example}\"`"));
    }
    (provider, model)
}
