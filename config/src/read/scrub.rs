//! The keys `scrub…` of a route.

use super::DAY_SECONDS;
use super::table::Table;
use crate::{Scrub, ScrubAction, ScrubKind, ScrubRule, schema};
use sluice_scrub::{DEFAULT_THRESHOLD, Rules};

/// Every kind that is found by its structure.
const ALL: &str = "ALL";

const ACTIONS: [(&str, ScrubAction); 5] = [
    ("replace", ScrubAction::Replace),
    ("hash", ScrubAction::Hash),
    ("mask", ScrubAction::Mask),
    ("refuse", ScrubAction::Refuse),
    ("report", ScrubAction::Report),
];

pub(super) fn read(table: &mut Table<'_, '_, '_>) -> Scrub {
    let action = table.choice("scrub_action", &ACTIONS).unwrap_or_default();
    Scrub {
        kinds: kinds(table),
        action,
        allow: texts(table, "scrub_allow"),
        rules: rules(table, action),
        outbound_tools: texts(table, "scrub_outbound_tools"),
        session_lifetime: table
            .integer("scrub_session_seconds", 1..=365 * DAY_SECONDS)
            .map(std::time::Duration::from_secs),
        answers: table.boolean("scrub_answers").unwrap_or(false),
        forgiving: table.boolean("scrub_forgiving").unwrap_or(false),
    }
}

fn texts(table: &mut Table<'_, '_, '_>, key: &str) -> Vec<String> {
    table.texts(key).into_iter().map(|text| text.value.to_owned()).collect()
}

fn kinds(table: &mut Table<'_, '_, '_>) -> Vec<ScrubKind> {
    let mut choices: Vec<(&str, Option<ScrubKind>)> =
        ScrubKind::ALL.into_iter().map(|kind| (kind.name(), Some(kind))).collect();
    choices.push((ALL, None));
    let mut kinds = Vec::new();
    for choice in table.choices("scrub", &choices) {
        match choice {
            Some(kind) => kinds.push(kind),
            // Names and addresses are not found by structure, and have to be asked for.
            None => kinds.extend(
                ScrubKind::ALL.into_iter().filter(|kind| !matches!(kind, ScrubKind::Person | ScrubKind::Address)),
            ),
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// The rules, each tried as the scrubber will take it, so that a pattern that cannot be used is seen here.
fn rules(table: &mut Table<'_, '_, '_>, action: ScrubAction) -> Vec<ScrubRule> {
    let Some(elements) = table.elements("scrub_rules") else { return Vec::new() };
    let mut known = Rules::of(&[]);
    let mut rules = Vec::new();
    for element in elements.iter() {
        let mut inner = table.element("scrub_rules", element, schema::SCRUB_RULE);
        let Some(kind) = inner.text("kind") else {
            inner.missing("kind", "name a built-in kind, or name your own beside `pattern`");
            continue;
        };
        let pattern = inner.text("pattern");
        let rule = ScrubRule {
            kind: kind.value.to_owned(),
            pattern: pattern.as_ref().map(|text| text.value.to_owned()),
            action: inner.choice("action", &ACTIONS),
            threshold_percent: inner.integer("threshold_percent", 0..=100),
        };
        if let Err(error) = rule.add_to(&mut known, action) {
            let place = pattern.map_or(kind.span, |pattern| pattern.span);
            let message = format!("the rule `{}` cannot be used: {error}", rule.kind);
            let least = DEFAULT_THRESHOLD;
            let hint = match rule.pattern {
                None => format!(
                    "write a built-in kind (their least score is {least} where nothing is said), or add `pattern`"
                ),
                Some(_) => "patterns are regular expressions of Rust's `regex` crate".to_owned(),
            };
            inner.fault(place, message, hint);
            continue;
        }
        rules.push(rule);
    }
    rules
}
