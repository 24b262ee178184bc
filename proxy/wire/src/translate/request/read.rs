//! Reading a client's body so that nothing in it goes unnoticed.
//!
//! Decoders walk every object member by member: what no arm of a `match` knows falls into the arm that calls
//! [`Lost::push`]. A [`Value`] knows where it stands, so its path is spelled only when somebody has to be told.

use crate::json::{Kind, Value, escape_into};
use std::borrow::Cow;

/// Why decoding or encoding cannot go on: a value, or a member that it should have.
pub struct Fault<'d> {
    pub at: Value<'d>,
    /// The missing member of `at`; empty when the fault is `at` itself.
    pub member: &'static str,
    pub reason: Cow<'static, str>,
}

pub type Read<'d, T> = Result<T, Fault<'d>>;

/// A fault of the value itself.
pub fn fault<'d, T>(at: Value<'d>, reason: impl Into<Cow<'static, str>>) -> Read<'d, T> {
    Err(Fault { at, member: "", reason: reason.into() })
}

/// A fault of an object that lacks a member.
pub fn missing<'d, T>(at: Value<'d>, member: &'static str) -> Read<'d, T> {
    Err(Fault { at, member, reason: "is missing".into() })
}

impl Fault<'_> {
    /// Path of what is at fault.
    pub fn field(&self, root: Value<'_>) -> String {
        let mut path = paths(root, vec![self.at.span().start]).pop().unwrap_or_default();
        if !path.is_empty() && !self.member.is_empty() {
            path.push('.');
        }
        path.push_str(self.member);
        path
    }
}

/// What the other dialect cannot express.
#[derive(Default)]
pub struct Lost {
    /// Where each value begins; no two recorded values begin at the same byte.
    starts: Vec<usize>,
}

impl Lost {
    pub fn push(&mut self, value: Value<'_>) {
        self.starts.push(value.span().start);
    }

    /// For a value that is lost only when it was given.
    pub fn given(&mut self, value: Option<Value<'_>>) {
        self.starts.extend(value.map(|value| value.span().start));
    }

    /// The paths in the order of the body, each once.
    pub fn paths(self, root: Value<'_>) -> Vec<String> {
        paths(root, self.starts)
    }
}

/// Paths of the values that begin at `starts`, in one walk over the document.
fn paths(root: Value<'_>, mut starts: Vec<usize>) -> Vec<String> {
    starts.sort_unstable();
    starts.dedup();
    let mut found = Vec::with_capacity(starts.len());
    walk(root, &mut String::new(), &mut starts.as_slice(), &mut found);
    found
}

fn walk(value: Value<'_>, path: &mut String, starts: &mut &[usize], found: &mut Vec<String>) {
    for (position, child) in value.children().enumerate() {
        let Some((&next, after)) = starts.split_first() else { return };
        let span = child.span();
        if next >= span.end {
            continue;
        }
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        match child.key() {
            Some(key) => path.push_str(&key),
            None => path.push_str(&position.to_string()),
        }
        if next == span.start {
            found.push(path.clone());
            *starts = after;
        }
        walk(child, path, starts, found);
        path.truncate(length);
    }
}

/// The members of an object that are not `null`.
pub fn members<'d>(value: Value<'d>) -> Read<'d, impl Iterator<Item = (Cow<'d, str>, Value<'d>)> + use<'d>> {
    if value.kind() != Kind::Object {
        return fault(value, "is not an object");
    }
    Ok(value.children().filter(|member| !member.is_null()).filter_map(|member| Some((member.key()?, member))))
}

/// The elements of an array of strings or containers.
pub fn elements<'d>(value: Value<'d>) -> Read<'d, impl Iterator<Item = Value<'d>> + use<'d>> {
    if value.kind() != Kind::Array {
        return fault(value, "is not an array");
    }
    if value.holds_bare_values() {
        return fault(value, "holds numbers, booleans or nulls");
    }
    Ok(value.children())
}

pub fn string<'d>(value: Value<'d>) -> Read<'d, Cow<'d, str>> {
    match value.string() {
        Some(text) => Ok(text),
        None => fault(value, "is not a string"),
    }
}

pub fn number<'d>(value: Value<'d>) -> Read<'d, Value<'d>> {
    match value.kind() {
        Kind::Number => Ok(value),
        _ => fault(value, "is not a number"),
    }
}

pub fn boolean<'d>(value: Value<'d>) -> Read<'d, bool> {
    match value.raw() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => fault(value, "is not a boolean"),
    }
}

pub fn object<'d>(value: Value<'d>) -> Read<'d, Value<'d>> {
    match value.kind() {
        Kind::Object => Ok(value),
        _ => fault(value, "is not an object"),
    }
}

/// Whether an array holds nothing but one word, in capitals or not.
pub fn holds_only(array: Value<'_>, word: &str) -> bool {
    array.kind() == Kind::Array
        && !array.holds_bare_values()
        && array.children().all(|entry| entry.string().is_some_and(|text| text.eq_ignore_ascii_case(word)))
}

/// A member that the object must have.
pub fn required<'d>(object: Value<'d>, member: &'static str) -> Read<'d, Value<'d>> {
    match object.get(member).filter(|value| !value.is_null()) {
        Some(value) => Ok(value),
        None => missing(object, member),
    }
}

/// A string member that the object must have.
pub fn required_string<'d>(object: Value<'d>, member: &'static str) -> Read<'d, Cow<'d, str>> {
    string(required(object, member)?)
}

/// The inside of a JSON string as it was written, escapes and all, so that text is copied and not respelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written<'d>(Cow<'d, str>);

impl<'d> Written<'d> {
    pub fn of(value: Value<'d>) -> Read<'d, Written<'d>> {
        match (value.kind(), value.raw().get(1..value.raw().len().saturating_sub(1))) {
            (Kind::String, Some(inside)) => Ok(Written(Cow::Borrowed(inside))),
            _ => fault(value, "is not a string"),
        }
    }

    /// Text that is yet to be escaped.
    pub fn escaped(text: &str) -> Written<'d> {
        let mut inside = String::with_capacity(text.len());
        escape_into(text, &mut inside);
        Written(Cow::Owned(inside))
    }

    /// Decoded text; escapes it only where it must.
    pub fn decoded(text: Cow<'d, str>) -> Written<'d> {
        match text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            true => Written::escaped(&text),
            false => Written(text),
        }
    }

    /// What stands between the quotes.
    pub fn inside(&self) -> &str {
        &self.0
    }

    /// What it says.
    pub fn text(&self) -> Cow<'_, str> {
        crate::json::decode(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it says nothing but white space.
    pub fn is_blank(&self) -> bool {
        // Most texts begin with a letter: they need not be decoded.
        !self.0.starts_with(|first: char| first != '\\' && !first.is_whitespace()) && self.text().trim().is_empty()
    }

    /// Several as one, with `between` (escaped) between them.
    pub fn joined<'t>(pieces: impl Iterator<Item = &'t Written<'d>>, between: &str) -> Written<'d>
    where
        'd: 't,
    {
        let mut joined = String::new();
        for (position, piece) in pieces.enumerate() {
            if position > 0 {
                joined.push_str(between);
            }
            joined.push_str(&piece.0);
        }
        Written(Cow::Owned(joined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;

    #[test]
    fn paths_are_spelled_as_the_client_wrote_them_and_in_its_order() {
        let body = r#"{"a":[{"b.c":1},{"d":{"e":2}}],"f":"x"}"#;
        let document = Document::parse(body).unwrap();
        let root = document.root(body);
        let second = root.get("a").unwrap().children().nth(1).unwrap();
        let first = root.get("a").unwrap().children().next().unwrap();
        let mut lost = Lost::default();
        lost.push(root.get("f").unwrap());
        lost.push(second.get("d").unwrap().get("e").unwrap());
        lost.push(second);
        lost.push(first.get("b.c").unwrap());
        lost.given(root.get("f"));
        assert_eq!(lost.paths(root), ["a.0.b.c", "a.1", "a.1.d.e", "f"]);
    }

    #[test]
    fn a_fault_names_the_missing_member() {
        let body = r#"{"tools":[{"x":1}]}"#;
        let document = Document::parse(body).unwrap();
        let root = document.root(body);
        let tool = root.get("tools").unwrap().children().next().unwrap();
        assert_eq!(required(tool, "name").err().unwrap().field(root), "tools.0.name");
        assert_eq!(required(root, "messages").err().unwrap().field(root), "messages");
    }

    #[test]
    fn text_is_joined_without_being_respelled() {
        let body = r#"["\u00e9","b\n"]"#;
        let document = Document::parse(body).unwrap();
        let pieces: Vec<_> = document.root(body).children().map(|piece| Written::of(piece).ok().unwrap()).collect();
        assert_eq!(Written::joined(pieces.iter(), "\\n").inside(), r#"\u00e9\nb\n"#);
        assert!(Written::escaped(" \n").is_blank());
    }
}
