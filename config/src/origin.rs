//! One space of offsets for everything a configuration is read from.
//!
//! The parser's spans count bytes of one text, but a value may also come from an environment variable. Rather than
//! carry a second kind of place through every check, each variable's `NAME=value` is laid behind the file's text,
//! as if it were more of it; a span then says by itself which text it belongs to.

use std::borrow::Cow;
use std::ops::Range;

/// Bytes in the common space.
pub(crate) type Span = Range<usize>;

/// The file and the variables, laid end to end.
pub(crate) struct Origins<'t> {
    file: Origin<'t>,
    variables: Vec<Origin<'t>>,
}

/// One text that a value can come from.
struct Origin<'t> {
    /// The file's name, or the variable's.
    name: &'t str,
    text: Cow<'t, str>,
    /// The offset of the text's first byte in the common space.
    start: usize,
    /// Where each line begins, within the text; never empty, so that a place is found by bisection.
    lines: Vec<usize>,
}

/// A span's first byte, found.
pub(crate) struct Place<'o> {
    /// The file's name, or the variable's.
    pub(crate) name: &'o str,
    pub(crate) in_file: bool,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// The whole line, without its end.
    pub(crate) text: &'o str,
    /// The line's first byte in the common space.
    pub(crate) start: usize,
}

impl<'t> Origins<'t> {
    pub(crate) fn new(name: &'t str, text: &'t str) -> Origins<'t> {
        Origins { file: Origin::new(name, Cow::Borrowed(text), 0), variables: Vec::new() }
    }

    /// Lays a variable behind what is there and returns the offset of its name.
    pub(crate) fn add_variable(&mut self, name: &'t str, value: &str) -> usize {
        // One byte lies between two texts, so that an empty span at one's end is not the next one's start.
        let start = self.variables.last().unwrap_or(&self.file).end() + 1;
        self.variables.push(Origin::new(name, Cow::Owned(format!("{name}={value}")), start));
        start
    }

    /// The bytes of a span; empty when the span leaves its text.
    pub(crate) fn slice(&self, span: &Span) -> &str {
        let origin = self.origin(span.start);
        let start = span.start.saturating_sub(origin.start);
        let end = span.end.saturating_sub(origin.start);
        origin.text.get(start..end).unwrap_or_default()
    }

    pub(crate) fn place(&self, offset: usize) -> Place<'_> {
        let origin = self.origin(offset);
        let local = offset.saturating_sub(origin.start).min(origin.text.len());
        let (line, start) = origin.line(local);
        let rest = origin.text.get(start..).unwrap_or_default();
        let before = origin.text.get(start..local).unwrap_or_default();
        let text = rest.split('\n').next().unwrap_or_default();
        Place {
            name: origin.name,
            in_file: origin.start == 0,
            line,
            column: before.chars().count() + 1,
            text: text.strip_suffix('\r').unwrap_or(text),
            start: origin.start + start,
        }
    }

    /// The offset of the first byte of a line, which tells lines apart.
    pub(crate) fn line_start(&self, offset: usize) -> usize {
        let origin = self.origin(offset);
        origin.start + origin.line(offset.saturating_sub(origin.start)).1
    }

    pub(crate) fn in_file(&self, offset: usize) -> bool {
        self.origin(offset).start == 0
    }

    /// How a sibling of the key at `span` is written where that key was: `key` itself in a file, but
    /// `SLUICE__SERVER__KEY` where the key is part of a variable's name.
    pub(crate) fn spell_sibling(&self, span: &Span, key: &str) -> String {
        let origin = self.origin(span.start);
        let local = span.start.saturating_sub(origin.start);
        match origin.name.get(..local) {
            Some(prefix) if origin.start > 0 => {
                format!("{prefix}{}", key.to_uppercase().replace('-', "_"))
            }
            _ => key.to_owned(),
        }
    }

    fn origin(&self, offset: usize) -> &Origin<'t> {
        let after = self.variables.partition_point(|origin| origin.start <= offset);
        after.checked_sub(1).and_then(|index| self.variables.get(index)).unwrap_or(&self.file)
    }
}

impl<'t> Origin<'t> {
    fn new(name: &'t str, text: Cow<'t, str>, start: usize) -> Origin<'t> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Origin { name, text, start, lines }
    }

    /// The line of a byte, counted from 1, and where it begins.
    fn line(&self, local: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= local);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index));
        (line, start.copied().unwrap_or(0))
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let origins = Origins::new("edge.toml", "a = 1\r\nä = 2\n");
        let place = origins.place(12);
        assert_eq!((place.line, place.column, place.text), (2, 5, "ä = 2"));
    }

    #[test]
    fn a_variable_lies_behind_the_file() {
        let mut origins = Origins::new("edge.toml", "a = 1");
        let start = origins.add_variable("SLUICE__A", "2");
        assert_eq!(origins.slice(&(start + 10..start + 11)), "2");
        assert_eq!(origins.place(start).name, "SLUICE__A");
        assert_eq!(origins.place(5).name, "edge.toml");
    }

    #[test]
    fn a_place_beyond_every_text_is_the_end_of_the_last() {
        let place = Origins::new("edge.toml", "ab");
        assert_eq!(place.place(usize::MAX).column, 3);
    }
}
