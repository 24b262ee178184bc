//! Edits of a body, by span.

use std::ops::Range;

/// Replacements to be made in one text. Everything outside their ranges is copied byte for byte.
#[derive(Clone, Debug, Default)]
pub struct Splices {
    edits: Vec<(Range<usize>, String)>,
}

impl Splices {
    /// Replaces `range`. Ranges must not overlap; edits at one place are made in the order in which they were given.
    pub fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.edits.push((range, text.into()));
    }

    /// Takes `range` out, with all edits in it.
    pub fn remove(&mut self, range: Range<usize>) {
        self.edits.retain(|(other, _)| {
            other.start < range.start || other.end > range.end || other.is_empty() && other.start == range.start
        });
        self.replace(range, "");
    }

    /// Puts `text` before the byte at `at`.
    pub fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.replace(at..at, text);
    }

    /// Whether something is put before the byte at `at`.
    pub fn inserts_at(&self, at: usize) -> bool {
        self.edits.iter().any(|(range, _)| *range == (at..at))
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The text with every edit made. An edit that overlaps an earlier one is left out.
    pub fn apply(&self, text: &str) -> String {
        let mut order: Vec<usize> = (0..self.edits.len()).collect();
        // What is inserted at a place stands before what replaces the text from there on.
        order.sort_by_key(|&index| (self.edits[index].0.start, !self.edits[index].0.is_empty(), index));
        let added: usize = self.edits.iter().map(|(_, text)| text.len()).sum();
        let mut out = String::with_capacity(text.len() + added);
        let mut at = 0;
        for index in order {
            let (range, replacement) = &self.edits[index];
            debug_assert!(range.start >= at, "edits overlap");
            if range.start < at {
                continue;
            }
            out.push_str(&text[at..range.start]);
            out.push_str(replacement);
            at = range.end;
        }
        out.push_str(&text[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_made_in_place_and_in_order() {
        let mut splices = Splices::default();
        splices.replace(6..11, "there");
        splices.insert(0, "[");
        splices.insert(0, "(");
        assert_eq!(splices.apply("hello world!"), "[(hello there!");
    }
}
