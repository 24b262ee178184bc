//! Puts the environment's `SLUICE__SERVER__LISTEN=…` into the tree that the file became.
//!
//! This happens before anything is checked, so that an override is checked by the same code as the file. An
//! override changes what a file says about a provider or a route but cannot add one: a variable's name has lost
//! case and dashes, so a misspelled name would quietly become a new entry.

use crate::hint;
use crate::origin::Span;
use crate::report::Report;
use crate::source::{Environment, Variable};
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables whose keys are names that the operator chose.
const NAMED: &[&str] = &["providers", "routes"];

pub(crate) fn apply<'e>(tree: &mut DeTable<'e>, environment: &'e Environment, report: &mut Report<'e>) {
    for (name, path, variable) in environment.overrides() {
        let Variable::Text(text) = variable else {
            let start = report.origins.add_variable(name, "…");
            report.value(start..start + name.len(), format!("the value of `{name}` is not UTF-8"), "set it anew");
            continue;
        };
        let start = report.origins.add_variable(name, text);
        let text_start = start + name.len() + 1;
        let segments = segments(path, start + name.len() - path.len());
        match put(tree, &segments, value(text, text_start)) {
            Ok(None) => {}
            // The file's line may still be quoted for another reason, but its values are no longer looked at.
            Ok(Some(replaced)) => report.mask_strings(&replaced),
            Err(Misfit { span, message, hint }) => {
                report.mask_span(text_start..text_start + text.len());
                report.value(span, message, hint);
            }
        }
    }
}

/// Why an override has no place in the tree.
struct Misfit {
    span: Span,
    message: String,
    hint: String,
}

/// One level of an override's path.
struct Segment {
    key: String,
    span: Span,
}

fn segments(path: &str, start: usize) -> Vec<Segment> {
    let mut start = start;
    let segment = |part: &str| {
        let span = start..start + part.len();
        start = span.end + "__".len();
        Segment { key: part.to_lowercase(), span }
    };
    path.split("__").map(segment).collect()
}

/// Puts `value` where the segments lead and returns what stood there.
fn put<'e>(
    tree: &mut DeTable<'e>,
    segments: &[Segment],
    value: Spanned<DeValue<'e>>,
) -> Result<Option<Spanned<DeValue<'e>>>, Misfit> {
    let Some((last, parents)) = segments.split_last() else {
        return Ok(None);
    };
    let mut table = tree;
    let mut container = None;
    for (segment, child) in parents.iter().zip(segments.iter().skip(1)) {
        let key = resolve(table, container, segment)?;
        container = NAMED.iter().copied().find(|named| container.is_none() && *named == key);
        let spanned_key = Spanned::new(segment.span.clone(), Cow::Owned(key));
        let entry = table.entry(spanned_key);
        let entry = entry.or_insert_with(|| Spanned::new(segment.span.clone(), DeValue::Table(DeTable::new())));
        table = match entry.get_mut() {
            DeValue::Table(inner) => inner,
            DeValue::Array(_) => {
                return Err(no_table(segment, child, "an array", "an override replaces an array as a whole"));
            }
            _ => return Err(no_table(segment, child, "a single value", "an override names a key of a table")),
        };
    }
    let key = resolve(table, container, last)?;
    // A map keeps the old key when it replaces a value, and with it the old place.
    let replaced = table.remove(key.as_str());
    table.insert(Spanned::new(last.span.clone(), Cow::Owned(key)), value);
    Ok(replaced)
}

fn no_table(segment: &Segment, child: &Segment, what: &str, hint: &str) -> Misfit {
    Misfit {
        span: child.span.clone(),
        message: format!("`{}` is {what} and has no key `{}`", segment.key, child.key),
        hint: hint.to_owned(),
    }
}

/// The key that a segment stands for: itself, except among names that the operator chose, where it has to be one of
/// those that are there.
fn resolve(table: &DeTable<'_>, container: Option<&str>, segment: &Segment) -> Result<String, Misfit> {
    let Some(container) = container else {
        return Ok(segment.key.clone());
    };
    let names = || table.keys().map(|name| name.get_ref().as_ref());
    let fits = |name: &&str| name.to_lowercase().replace('-', "_") == segment.key;
    if let Some(exact) = names().find(|name| *name == segment.key) {
        return Ok(exact.to_owned());
    }
    let mut fitting = names().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only.to_owned()),
        (Some(first), Some(second)) => Err(Misfit {
            span: segment.span.clone(),
            message: format!("`{}` can mean either of `[{container}]`'s `{first}` and `{second}`", segment.key),
            hint: "rename one of them".to_owned(),
        }),
        (None, _) => Err(Misfit {
            span: segment.span.clone(),
            message: format!("the file has no `[{container}.{}]` to override", segment.key),
            hint: match hint::nearest(&segment.key, names()) {
                Some(near) => format!("did you mean `{}`?", near.to_uppercase().replace('-', "_")),
                None => "add it to the file first".to_owned(),
            },
        }),
    }
}

/// The text as a TOML value if it is one, else as a string, so that an address needs no second pair of quotes.
fn value(text: &str, start: usize) -> Spanned<DeValue<'_>> {
    let trimmed = text.trim();
    let skipped = text.len() - text.trim_start().len();
    match DeValue::parse(trimmed) {
        Ok(value) => moved(value, start + skipped),
        Err(_) => Spanned::new(start..start + text.len(), DeValue::String(Cow::Borrowed(text))),
    }
}

/// Moves every span to where the value's text lies among the origins.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = moved_span(value.span(), by);
    let value = match value.into_inner() {
        DeValue::Array(elements) => DeValue::Array(elements.into_iter().map(|element| moved(element, by)).collect()),
        DeValue::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let span = moved_span(key.span(), by);
                (Spanned::new(span, key.into_inner()), moved(value, by))
            });
            DeValue::Table(entries.collect())
        }
        scalar => scalar,
    };
    Spanned::new(span, value)
}

fn moved_span(span: Span, by: usize) -> Span {
    span.start + by..span.end + by
}
