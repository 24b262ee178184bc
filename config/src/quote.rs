//! The line of a fault as it is shown: without secrets, without what would move a cursor, and not too long.

use crate::fault::Quote;
use crate::origin::{Place, Span};

/// The most of a line that is quoted; a minified file would otherwise be repeated whole with each of its faults.
const QUOTE_CHARACTERS: usize = 160;

/// How far around a fault a line is looked at. No character has more bytes than four, so that enough are left.
const WINDOW_BYTES: usize = 4 * QUOTE_CHARACTERS;

/// The part of the line at `place` that a quote of `span` can need.
pub(crate) fn window(place: &Place<'_>, span: &Span) -> Span {
    let local = span.start.saturating_sub(place.start);
    let begin = place.text.floor_char_boundary(local.saturating_sub(WINDOW_BYTES));
    let end = place.text.ceil_char_boundary(local.saturating_add(WINDOW_BYTES).min(place.text.len()));
    place.start + begin..place.start + end
}

/// The line of `place` with `masks` replaced, and where `span` then lies in it. The masks are sorted and disjoint.
pub(crate) fn quote(place: &Place<'_>, span: &Span, masks: &[Span]) -> Quote {
    let window = window(place, span);
    let local = window.start - place.start..window.end - place.start;
    let text = place.text.get(local).unwrap_or_default();
    let mut shown: Vec<char> = Vec::new();
    let (mut begin, mut end) = (None, None);
    let mut masks = masks.iter().peekable();
    let mut inside = false;
    for (index, character) in text.char_indices() {
        let offset = window.start + index;
        while masks.next_if(|mask| mask.end <= offset).is_some() {
            inside = false;
        }
        let masked = masks.peek().is_some_and(|mask| mask.start <= offset);
        // A span that begins within a mask points at the one character that is left of it.
        let continued = masked && inside;
        if offset >= span.start && begin.is_none() {
            begin = Some(shown.len() - usize::from(continued));
        }
        if offset >= span.end && end.is_none() {
            end = Some(shown.len());
        }
        match masked {
            true if continued => {}
            true => shown.push('…'),
            // Each character takes one column, and none may move the terminal's cursor.
            false if character.is_control() => shown.push(' '),
            false => shown.push(character),
        }
        inside = masked;
    }
    let begin = begin.unwrap_or(shown.len());
    let end = end.unwrap_or(shown.len());
    clip(shown, begin, end.saturating_sub(begin))
}

fn clip(shown: Vec<char>, indent: usize, length: usize) -> Quote {
    if shown.len() <= QUOTE_CHARACTERS {
        return Quote { line: shown.into_iter().collect(), indent, length: length.max(1) };
    }
    let skipped = indent.saturating_sub(QUOTE_CHARACTERS / 2);
    let mut line: String = shown.iter().skip(skipped).take(QUOTE_CHARACTERS).collect();
    if skipped + QUOTE_CHARACTERS < shown.len() {
        line.push('…');
    }
    if skipped > 0 {
        line.insert(0, '…');
    }
    let indent = indent - skipped + usize::from(skipped > 0);
    let most = (QUOTE_CHARACTERS + 1).saturating_sub(indent).max(1);
    Quote { line, indent, length: length.clamp(1, most) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origins;
    use crate::report::Report;

    fn check(text: &str, span: Span, mask: Span, drawn: &str) {
        let mut report = Report::new(Origins::new("f", text));
        report.mask_span(mask);
        report.value(span, "wrong".to_owned(), "hint");
        let faults = report.finish().map(|faults| faults.to_string());
        assert_eq!(faults.as_deref(), Some(drawn));
    }

    #[test]
    fn carets_follow_a_masked_line() {
        check("k = \"secret\" x", 13..14, 5..11, "f:1:14  wrong\n    1 | k = \"…\" x\n      |         ^ hint");
    }

    #[test]
    fn a_span_inside_a_mask_points_at_what_is_left() {
        check("k = \"secret\" x", 7..9, 5..11, "f:1:8  wrong\n    1 | k = \"…\" x\n      |      ^ hint");
    }

    #[test]
    fn a_long_line_is_quoted_around_its_fault() {
        let text = format!("{}x{}", " ".repeat(500), " ".repeat(500));
        let mut report = Report::new(Origins::new("f", &text));
        report.value(500..501, "wrong".to_owned(), "");
        let faults = report.finish().into_iter().flat_map(|faults| faults.iter().cloned().collect::<Vec<_>>());
        let quotes: Vec<Quote> = faults.filter_map(|fault| fault.quote).collect();
        let expected = Quote { line: format!("…{}x{}…", " ".repeat(80), " ".repeat(79)), indent: 81, length: 1 };
        assert_eq!(quotes, [expected]);
    }
}
