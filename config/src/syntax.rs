//! Parses TOML as far as possible, so that one broken line does not hide the faults of the others.
//!
//! The parser recovers by itself from most mistakes but not from all: at some it gives up, and at others it takes
//! the keys of one table for those of another. Such lines are blanked for a second look.

use crate::report::Report;
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::{DeTable, Error};

/// The parser's words for a line without `=`. They matter because it gives up there and returns what came before;
/// `tests/samples/invalid/key_without_value.toml` notices when they change.
const PARSER_GIVES_UP: &[&str] = &["key with no value", "missing value for key"];

/// The parser's words for a key or a header that stands twice, noticed likewise by `duplicate_key.toml`.
const STANDS_TWICE: &str = "duplicate key";

/// A text that the parser reads to its end, and what is wrong with the original.
pub(crate) struct Syntax {
    /// The text with blanks for what the parser cannot cope with. Offsets are the original's.
    pub(crate) readable: Option<String>,
    errors: Vec<Error>,
}

impl Syntax {
    pub(crate) fn check(text: &str) -> Syntax {
        let (_, mut errors) = DeTable::parse_recoverable(text);
        let Some(readable) = without_hopeless_lines(text, &errors) else {
            return Syntax { readable: None, errors };
        };
        let (_, more) = DeTable::parse_recoverable(&readable);
        errors.extend(more);
        Syntax { readable: Some(readable), errors }
    }

    pub(crate) fn tell(&self, report: &mut Report<'_>) {
        for error in &self.errors {
            let span = error.span().unwrap_or(0..0);
            match description(error) {
                STANDS_TWICE => {
                    let message = match report.origins.slice(&span) {
                        quoted if quoted.starts_with(['"', '\'']) => "this key stands twice".to_owned(),
                        bare => format!("`{bare}` stands twice"),
                    };
                    report.repetition(span, message, "keep one of them");
                }
                description => {
                    let (message, hint) = told(description, error.message());
                    report.syntax(span, message, hint);
                }
            }
        }
    }
}

/// The tree of a text; what is wrong with it is known from [`Syntax::check`].
pub(crate) fn tree(text: &str) -> Spanned<DeTable<'_>> {
    DeTable::parse_recoverable(text).0
}

/// The parser's message without the list of what it would have accepted.
fn description(error: &Error) -> &str {
    error.message().split(", expected ").next().unwrap_or_default()
}

/// The parser's message in words for somebody who does not know the grammar's terms.
fn told(description: &str, message: &str) -> (String, Option<String>) {
    let expected = message.strip_prefix(description).and_then(|rest| rest.strip_prefix(", expected "));
    let hint = match description {
        "string values must be quoted" => Some("put the text in double quotes".to_owned()),
        "key with no value" => Some("write `key = value`".to_owned()),
        // A number was expected to end where an address or a version goes on.
        _ if expected == Some("nothing") => Some("put a text in double quotes".to_owned()),
        _ => expected.map(|expected| format!("expected {expected}")),
    };
    (description.to_owned(), hint)
}

/// The text with spaces instead of each line at which the parser gives up, and of each table whose header is not
/// closed; `None` when there are none.
fn without_hopeless_lines(text: &str, errors: &[Error]) -> Option<String> {
    let starts = |error: &Error| Some(error.span()?.start);
    let broken: BTreeSet<usize> = errors.iter().filter_map(starts).collect();
    let hopeless = errors.iter().filter(|error| PARSER_GIVES_UP.contains(&description(error)));
    let hopeless: BTreeSet<usize> = hopeless.filter_map(starts).collect();

    let mut readable = String::with_capacity(text.len());
    let mut in_unclosed_table = false;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let within = readable.len()..=readable.len() + content.len();
        if content.trim_start().starts_with('[') {
            in_unclosed_table = broken.range(within.clone()).next().is_some() && is_unclosed(content.trim_start());
        }
        if in_unclosed_table || hopeless.range(within).next().is_some() {
            readable.push_str(&" ".repeat(content.len()));
            readable.push_str(line.get(content.len()..).unwrap_or_default());
        } else {
            readable.push_str(line);
        }
    }
    (readable != text).then_some(readable)
}

fn is_unclosed(header: &str) -> bool {
    let close = if header.starts_with("[[") { "]]" } else { "]" };
    !header.contains(close)
}
