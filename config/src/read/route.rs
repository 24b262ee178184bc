//! `[routes.NAME]`.

use super::table::{Table, Text};
use crate::hint;
use crate::{Route, ScrubKind};

/// The environment of a managed prompt when a route names none.
const ENVIRONMENT: &str = "production";

/// `None` without a provider, which is a fault; there is no default to stand in for it.
pub(super) fn read(mut table: Table<'_, '_, '_>, providers: &[&str]) -> Option<Route> {
    let scrub_kinds =
        [("EMAIL", ScrubKind::Email), ("PHONE", ScrubKind::Phone), ("CREDIT_CARD", ScrubKind::CreditCard)];
    let provider = provider(&mut table, providers);
    let environment = table.text("environment").map_or(ENVIRONMENT, |text| text.value).to_owned();
    let context_tokens = table.integer("context_tokens", 0..=1_000_000).unwrap_or(1_500);
    Some(Route {
        model: table.text("model").map(owned),
        prompt: table.text("prompt").map(owned),
        environment,
        collections: table.texts("collections").into_iter().map(owned).collect(),
        context_tokens,
        scrub: table.choices("scrub", &scrub_kinds),
        unscrubbable_parts: table.texts("unscrubbable_parts").into_iter().map(owned).collect(),
        unscrubbable_paths: paths(&mut table),
        provider: provider?,
    })
}

fn owned(text: Text<'_>) -> String {
    text.value.to_owned()
}

/// The name of a provider that exists.
fn provider(table: &mut Table<'_, '_, '_>, providers: &[&str]) -> Option<String> {
    let Some(text) = table.text("provider") else {
        if !table.has("provider") {
            let hint = match providers {
                [] => "add it, and a table `[providers.NAME]` for it".to_owned(),
                names => format!("add it, with one of {}", hint::list(names.iter().copied())),
            };
            table.missing("provider", hint);
        }
        return None;
    };
    if providers.contains(&text.value) {
        return Some(owned(text));
    }
    let message = format!("{} names `{}`, which is not a provider", table.label("provider"), text.value);
    let hint = match providers {
        [] => "add a table `[providers.NAME]` for it".to_owned(),
        names => hint::choice(text.value, names.iter().copied()),
    };
    table.lacking(text.span, message, hint);
    None
}

fn paths(table: &mut Table<'_, '_, '_>) -> Vec<String> {
    let texts = table.texts("unscrubbable_paths");
    for text in texts.iter().filter(|text| !text.value.starts_with('/')) {
        let message = format!("an element of {} is not a path", table.label("unscrubbable_paths"));
        table.fault(text.span.clone(), message, format!("write `/{}`", text.value));
    }
    texts.into_iter().map(owned).collect()
}
