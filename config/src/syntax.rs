//! Parses TOML as far as possible, so that one broken line does not hide the faults of the others.

use crate::report::Report;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, Error};

/// The parser's words for a line without `=`. They matter because it gives up there and returns what came before;
/// `tests/samples/invalid/key_without_value.toml` notices when they change.
const PARSER_GIVES_UP: &[&str] = &["key with no value", "missing value for key"];

/// The parser's words for a key or a header that stands twice, noticed likewise by `duplicate_key.toml`.
const STANDS_TWICE: &str = "duplicate key";

/// A text that the parser reads to its end, and what is wrong with the original.
pub(crate) struct Syntax {
    /// The text with every line blanked at which the parser would give up. Offsets are the original's.
    pub(crate) readable: Option<String>,
    errors: Vec<Error>,
}

impl Syntax {
    pub(crate) fn check(text: &str) -> Syntax {
        let (_, mut errors) = DeTable::parse_recoverable(text);
        let hopeless: Vec<usize> = errors
            .iter()
            .filter(|error| PARSER_GIVES_UP.contains(&description(error)))
            .filter_map(|error| error.span())
            .map(|span| span.start)
            .collect();
        if hopeless.is_empty() {
            return Syntax { readable: None, errors };
        }
        let readable = without_lines(text, &hopeless);
        let (_, more) = DeTable::parse_recoverable(&readable);
        errors.extend(more);
        Syntax { readable: Some(readable), errors }
    }

    pub(crate) fn tell(&self, report: &mut Report<'_>) {
        for error in &self.errors {
            let span = error.span().unwrap_or(0..0);
            match description(error) {
                STANDS_TWICE => {
                    let key = report.origins.slice(&span);
                    let message = format!("`{key}` stands twice");
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
        _ => expected.map(|expected| format!("expected {expected}")),
    };
    (description.to_owned(), hint)
}

/// Replaces every line that holds one of `offsets` by as many spaces as it has bytes.
fn without_lines(text: &str, offsets: &[usize]) -> String {
    let mut readable = String::with_capacity(text.len());
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let bounds: Range<usize> = start..start + content.len() + 1;
        if offsets.iter().any(|offset| bounds.contains(offset)) {
            readable.push_str(&" ".repeat(content.len()));
            readable.push_str(line.get(content.len()..).unwrap_or_default());
        } else {
            readable.push_str(line);
        }
        start += line.len();
    }
    readable
}
