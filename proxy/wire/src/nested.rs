//! JSON inside a JSON string: tool-call arguments.
//!
//! Arguments come from a model and may be cut or malformed, so they are read by a tolerant lexer that only tells
//! strings from what stands between them, and never fails.

use std::ops::Range;

/// A piece of arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NestedText {
    /// Bytes of the (once decoded) arguments; for a string, what is between its quotes.
    pub range: Range<usize>,
    /// Inside a string its text is escaped once more; outside, numbers may stand.
    pub in_string: bool,
}

impl NestedText {
    /// Splits arguments into strings and what is between them. Text that does not begin like JSON is one plain piece
    /// without escapes, which `None` stands for.
    pub fn pieces(arguments: &str) -> Option<Vec<NestedText>> {
        if !arguments.trim_start().starts_with(['{', '[']) {
            return None;
        }
        let bytes = arguments.as_bytes();
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let quote = memchr::memchr(b'"', &bytes[at..]).map_or(bytes.len(), |step| at + step);
            if quote > at {
                pieces.push(NestedText { range: at..quote, in_string: false });
            }
            if quote == bytes.len() {
                break;
            }
            let mut end = quote + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let mut end = end.min(bytes.len());
            while !arguments.is_char_boundary(end) {
                end += 1;
            }
            pieces.push(NestedText { range: quote + 1..end, in_string: true });
            at = end + 1;
        }
        Some(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<(&str, bool)> {
        NestedText::pieces(text).unwrap().iter().map(|piece| (&text[piece.range.clone()], piece.in_string)).collect()
    }

    #[test]
    fn strings_and_what_is_between_them_are_told_apart() {
        assert_eq!(
            pieces(r#"{"a":"x\"y",  "n":12}"#),
            [("{", false), ("a", true), (":", false), (r#"x\"y"#, true), (",  ", false), ("n", true), (":12}", false)]
        );
        assert_eq!(pieces("{\"cut \\"), [("{", false), ("cut \\", true)]);
        assert_eq!(NestedText::pieces("plain"), None);
    }
}
