//! `[embedders.NAME]`.

use super::route::provider;
use super::table::Table;
use crate::{Embedder, Provider, ProviderKind};
use std::collections::BTreeMap;

/// The longest that a question may wait for its vector.
const LONGEST_TIMEOUT_MILLISECONDS: u64 = 10_000;

/// `None` without a provider, a model or a length, which is a fault; there is no default to stand in for them.
pub(super) fn read(
    mut table: Table<'_, '_, '_>,
    names: &[&str],
    providers: &BTreeMap<String, Provider>,
) -> Option<Embedder> {
    let provider = provider(&mut table, names);
    let kind = provider.as_ref().and_then(|name| providers.get(name)).map(|provider| provider.kind);
    if let (Some(kind), Some(span)) = (kind, table.span("provider"))
        && !matches!(kind, ProviderKind::OpenAi)
    {
        let message = format!("{} names a provider of another kind", table.label("provider"));
        table.fault(
            span,
            message,
            "vectors come from a provider with `kind = \"openai\"`: its `/embeddings` is called",
        );
    }
    let sealed = provider.as_ref().and_then(|name| providers.get(name)).is_some_and(|p| p.api_key_secret.is_some());
    if let (true, Some(span)) = (sealed, table.span("provider")) {
        let message = format!("{} names a provider whose key each tenant has of its own", table.label("provider"));
        table.fault(span, message, "give the embedder a provider with `api_key_env` or `api_key_file`");
    }
    let model = table.text("model").map(|text| text.value.to_owned());
    if !table.has("model") {
        table.missing("model", "add the model's name, such as `model = \"text-embedding-3-small\"`");
    }
    let dimensions = table.integer("dimensions", 2..=8_192);
    if !table.has("dimensions") {
        table.missing("dimensions", "add how many numbers a vector has, such as `dimensions = 512`");
    }
    let timeout = table.milliseconds("timeout_milliseconds", 200, LONGEST_TIMEOUT_MILLISECONDS);
    Some(Embedder { provider: provider?, model: model?, dimensions: dimensions?, timeout })
}
