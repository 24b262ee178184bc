//! `[providers.NAME]`.

use super::table::Table;
use super::{DAY_SECONDS, api_key, base_url};
use crate::source::Environment;
use crate::{BaseUrl, Provider, ProviderKind};

/// `None` without a kind, which is a fault; there is no default to stand in for it.
pub(super) fn read(mut table: Table<'_, '_, '_>, environment: &Environment) -> Option<Provider> {
    let kinds = [("openai", ProviderKind::OpenAi), ("mock", ProviderKind::Mock)];
    let kind = table.choice("kind", &kinds);
    if !table.has("kind") {
        table.missing("kind", "add `kind = \"openai\"`, which every service that speaks OpenAI's dialect is");
    }
    let base_url = address(&mut table, kind);
    let api_key = api_key::read(&mut table, environment);
    let connect_timeout = table.milliseconds("connect_timeout_milliseconds", 3_000, DAY_SECONDS * 1_000);
    let header_timeout = table.seconds("header_timeout_seconds", 120, DAY_SECONDS);
    let idle_timeout = table.seconds("idle_timeout_seconds", 60, DAY_SECONDS);
    let total_timeout = table.seconds("total_timeout_seconds", 600, DAY_SECONDS);
    let kind = kind?;
    Some(Provider { kind, base_url, api_key, connect_timeout, header_timeout, idle_timeout, total_timeout })
}

fn address(table: &mut Table<'_, '_, '_>, kind: Option<ProviderKind>) -> Option<BaseUrl> {
    let Some(text) = table.text("base_url") else {
        if kind == Some(ProviderKind::OpenAi) && !table.has("base_url") {
            table.missing("base_url", "add `base_url = \"https://api.openai.com/v1\"` or the like");
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
