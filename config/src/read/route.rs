//! `[routes.NAME]`.

use super::DAY_SECONDS;
use super::scrub;
use super::table::{Named, Table, Text};
use crate::{History, RecallFusion, RecallRanking, RecallRecency, Route, Target};
use crate::{hint, schema};
use std::collections::BTreeMap;
use std::time::Duration;

/// The environment of a managed prompt when a route names none.
const ENVIRONMENT: &str = "production";

/// Keys of a route that are short for a single target.
const SHORTHAND: &[&str] = &["provider", "model", "max_output_tokens", "context_window"];

/// What to do about a `*` that is not at the end of a name.
const STAR_HINT: &str = "a `*` stands for the rest of a model's name, as in `gpt-4*`";

/// What routes may refer to, and which names are taken.
pub(super) struct Names<'n> {
    pub(super) providers: Vec<&'n str>,
    pub(super) routes: Vec<&'n str>,
    pub(super) summarizers: Vec<String>,
    /// The aliases of the routes that have been read, each with its route.
    pub(super) aliases: BTreeMap<String, String>,
}

pub(super) fn check_name(root: &mut Table<'_, '_, '_>, named: &Named<'_, '_>) {
    if has_inner_star(named.name) {
        let message = "a name in `[routes]` has a `*` before its end".to_owned();
        root.fault(named.span.clone(), message, STAR_HINT);
    }
}

/// `None` without a target, which is a fault; there is no default to stand in for it.
pub(super) fn read(mut table: Table<'_, '_, '_>, name: &str, names: &mut Names<'_>) -> Option<Route> {
    let targets = targets(&mut table, &names.providers);
    let hedge_after = table.integer("hedge_after_milliseconds", 1..=DAY_SECONDS * 1_000);
    let keepalive_comment = table.integer("keepalive_comment_seconds", 1..=DAY_SECONDS);
    let history = table.choice("history", &HISTORIES).unwrap_or_default();
    let summarizer = summarizer(&mut table, history, &names.summarizers);
    let environment = table.text("environment").map_or(ENVIRONMENT, |text| text.value).to_owned();
    let route = Route {
        targets,
        fallbacks: fallbacks(&mut table, &names.providers),
        aliases: aliases(&mut table, name, names),
        retries: table.integer("retries", 0..=10).unwrap_or(2),
        hedge_after: hedge_after.map(Duration::from_millis),
        keepalive_comment: keepalive_comment.map(Duration::from_secs),
        drop_unsupported: table.boolean("drop_unsupported").unwrap_or(false),
        pass_credentials: table.boolean("pass_credentials").unwrap_or(false),
        prompt: table.text("prompt").map(owned),
        environment,
        collections: table.texts("collections").into_iter().map(owned).collect(),
        context_tokens: table.integer("context_tokens", 0..=1_000_000).unwrap_or(1_500),
        recall: recall(&mut table),
        window_tokens: table.integer("window_tokens", 256..=100_000_000),
        history,
        history_keep_head: table.integer("history_keep_head", 0..=10_000).unwrap_or(0),
        summarizer,
        scrub: scrub::read(&mut table),
        unscrubbable_parts: table.texts("unscrubbable_parts").into_iter().map(owned).collect(),
        unscrubbable_paths: paths(&mut table),
    };
    (!route.targets.is_empty()).then_some(route)
}

fn recall(table: &mut Table<'_, '_, '_>) -> RecallRanking {
    let default = RecallRanking::default();
    let weight = table.integer("recall_vector_weight_percent", 0..=100).unwrap_or(default.vector_weight_percent);
    let diversity = table.integer("recall_diversity_percent", 0..=100).unwrap_or(default.diversity_percent);
    let query_turns = table.integer("recall_query_turns", 1..=32).unwrap_or(default.query_turns);
    let recency = weight_of(table, "recall_recency_key", "recall_recency_percent").map(|(key, weight_percent)| {
        let days = table.integer("recall_recency_half_life_days", 1..=36_500).unwrap_or(30);
        RecallRecency { key, weight_percent, half_life: Duration::from_secs(days * DAY_SECONDS) }
    });
    let importance = weight_of(table, "recall_importance_key", "recall_importance_percent");
    let fusion = table.choice("recall_fusion", &[("score", RecallFusion::Score), ("rank", RecallFusion::Rank)]);
    RecallRanking {
        query_turns,
        recency,
        importance,
        vector_weight_percent: weight,
        fusion: fusion.unwrap_or_default(),
        diversity_percent: diversity,
    }
}

/// A member of payloads and how much it counts, at most a half; a weight without its member is a fault.
fn weight_of(table: &mut Table<'_, '_, '_>, key: &str, percent: &str) -> Option<(String, u8)> {
    let named = table.text(key).map(owned);
    let weight = table.integer(percent, 1..=50);
    if let (None, Some(span)) = (&named, table.span(percent)) {
        let message = format!("{} stands without {}", table.label(percent), table.label(key));
        table.fault(span, message, format!("name the member of payloads that it is the weight of: `{key} = \"…\"`"));
    }
    Some((named?, weight.unwrap_or(20)))
}

const HISTORIES: [(&str, History); 3] =
    [("truncate", History::Truncate), ("importance", History::Importance), ("summarize", History::Summarize)];

/// The name of a summarizer that exists. It and `history = "summarize"` need each other, and a window.
fn summarizer(table: &mut Table<'_, '_, '_>, history: History, summarizers: &[String]) -> Option<String> {
    let named = table.text("summarizer");
    if let Some(text) = &named
        && history != History::Summarize
    {
        let message = format!("{} stands without `history = \"summarize\"`", table.label("summarizer"));
        table.fault(text.span.clone(), message, "add it, or remove this key");
    }
    let span = table.span("history").filter(|_| history == History::Summarize)?;
    if !table.has("window_tokens") {
        let message = format!("{} summarises what does not fit, and there is no window", table.label("history"));
        table.fault(span.clone(), message, "add `window_tokens`");
    }
    let Some(text) = named else {
        if !table.has("summarizer") {
            let message = format!("{} is `summarize`, and no model is named for it", table.label("history"));
            table.fault(span, message, "add `summarizer = \"NAME\"` and a table `[summarizers.NAME]`");
        }
        return None;
    };
    if summarizers.iter().any(|name| name == text.value) {
        return Some(owned(text));
    }
    let message = format!("{} names `{}`, which is not a summarizer", table.label("summarizer"), text.value);
    let hint = match summarizers {
        [] => "add a table `[summarizers.NAME]` for it".to_owned(),
        names => hint::choice(text.value, names.iter().map(String::as_str)),
    };
    table.lacking(text.span, message, hint);
    None
}

fn owned(text: Text<'_>) -> String {
    text.value.to_owned()
}

/// The elements of `targets`, or the one target that the route's own keys are short for.
fn targets(table: &mut Table<'_, '_, '_>, providers: &[&str]) -> Vec<Target> {
    if !table.has("targets") {
        return target(table, providers).into_iter().collect();
    }
    for key in SHORTHAND {
        if let Some(span) = table.span(key) {
            let message = format!("{} stands beside `targets`", table.label(key));
            table.fault(span, message, "move it into an element of `targets`, or remove `targets`");
        }
    }
    let Some(elements) = table.elements("targets") else {
        return Vec::new();
    };
    if let Some(span) = table.span("targets").filter(|_| elements.is_empty()) {
        let message = format!("{} is empty", table.label("targets"));
        table.fault(span, message, "write `[{ provider = \"NAME\" }]`, or `provider` instead of it");
    }
    let read = |element| {
        let mut table = table.element("targets", element, schema::TARGET);
        let weight = table.integer("weight", 1..=10_000).unwrap_or(1);
        target(&mut table, providers).map(|target| Target { weight, ..target })
    };
    elements.iter().filter_map(read).collect()
}

fn fallbacks(table: &mut Table<'_, '_, '_>, providers: &[&str]) -> Vec<Target> {
    let Some(elements) = table.elements("fallbacks") else {
        return Vec::new();
    };
    let read = |element| target(&mut table.element("fallbacks", element, schema::FALLBACK), providers);
    elements.iter().filter_map(read).collect()
}

/// The target that a table describes, with a weight of 1.
fn target(table: &mut Table<'_, '_, '_>, providers: &[&str]) -> Option<Target> {
    let provider = provider(table, providers);
    Some(Target {
        model: table.text("model").map(owned),
        weight: 1,
        max_output_tokens: table.integer("max_output_tokens", 1..=u32::MAX),
        context_window: table.integer("context_window", 1..=u32::MAX),
        provider: provider?,
    })
}

/// The name of a provider that exists.
pub(super) fn provider(table: &mut Table<'_, '_, '_>, providers: &[&str]) -> Option<String> {
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

fn aliases(table: &mut Table<'_, '_, '_>, route: &str, names: &mut Names<'_>) -> Vec<String> {
    let texts = table.texts("aliases");
    for text in &texts {
        let alias = text.value;
        match alias_fault(alias, route, names) {
            None => {
                names.aliases.insert(alias.to_owned(), route.to_owned());
            }
            Some((problem, hint)) => {
                let message = format!("{} names `{alias}`, which {problem}", table.label("aliases"));
                table.fault(text.span.clone(), message, hint);
            }
        }
    }
    texts.into_iter().map(owned).collect()
}

/// Why an alias cannot be one, and what to do about it.
fn alias_fault(alias: &str, route: &str, names: &Names<'_>) -> Option<(String, &'static str)> {
    if has_inner_star(alias) {
        return Some(("has a `*` before its end".to_owned(), STAR_HINT));
    }
    if alias == route {
        return Some(("is the route's own name".to_owned(), "remove it"));
    }
    if names.routes.contains(&alias) {
        return Some(("is a route of its own".to_owned(), "remove it, or rename that route"));
    }
    let other = names.aliases.get(alias)?;
    Some((format!("is an alias of the route `{other}`"), "keep one of them"))
}

/// Whether a `*` stands where it cannot mean "whatever follows".
fn has_inner_star(name: &str) -> bool {
    name.find('*').is_some_and(|star| star + 1 < name.len())
}

fn paths(table: &mut Table<'_, '_, '_>) -> Vec<String> {
    let texts = table.texts("unscrubbable_paths");
    for text in texts.iter().filter(|text| !text.value.starts_with('/')) {
        let message = format!("an element of {} is not a path", table.label("unscrubbable_paths"));
        table.fault(text.span.clone(), message, format!("write `/{}`", text.value));
    }
    texts.into_iter().map(owned).collect()
}
