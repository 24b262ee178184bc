//! Collects what is wrong while a configuration is read, and turns it into [`Faults`] at the end.
//!
//! Quoting waits until then: only after everything has been read is it known which parts of a line are secret, and
//! which faults merely follow from a broken line.

use crate::fault::{Fault, Faults, Position, Quote};
use crate::mask;
use crate::origin::{Origins, Place, Span};
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

/// The most of a line that is quoted; a minified file would otherwise be repeated whole with each of its faults.
const QUOTE_CHARACTERS: usize = 160;

pub(crate) struct Report<'t> {
    pub(crate) origins: Origins<'t>,
    drafts: Vec<Draft>,
    masks: Vec<Span>,
}

/// A fault before its line is quoted.
struct Draft {
    kind: Kind,
    span: Span,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The text is not TOML.
    Syntax,
    /// The text is TOML but for a repetition, so everything else about it can be believed.
    Repetition,
    /// A value or a key that is there is wrong.
    Value,
    /// Something that should be there is not.
    Absence,
}

impl<'t> Report<'t> {
    pub(crate) fn new(origins: Origins<'t>) -> Report<'t> {
        Report {
            origins,
            drafts: Vec::new(),
            masks: Vec::new(),
        }
    }

    pub(crate) fn syntax(&mut self, span: Span, message: String, hint: Option<String>) {
        self.drafts.push(Draft {
            kind: Kind::Syntax,
            span,
            message,
            hint,
        });
    }

    pub(crate) fn repetition(&mut self, span: Span, message: String, hint: &str) {
        self.drafts.push(Draft {
            kind: Kind::Repetition,
            span,
            message,
            hint: Some(hint.to_owned()),
        });
    }

    pub(crate) fn value(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.drafts.push(Draft {
            kind: Kind::Value,
            span,
            message,
            hint: Some(hint.into()),
        });
    }

    /// A fault that is only reported when the file's syntax is sound: what is missing may stand in the broken part.
    pub(crate) fn absence(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.drafts.push(Draft {
            kind: Kind::Absence,
            span,
            message,
            hint: Some(hint.into()),
        });
    }

    /// Whether a message may repeat the key at `span`. In a broken file a quoted key may be the element of an array
    /// whose beginning was lost, and a secret.
    pub(crate) fn may_name(&self, span: &Span) -> bool {
        let is_broken = self.of_kind(Kind::Syntax).next().is_some();
        !(is_broken && self.origins.slice(span).starts_with(['"', '\'']))
    }

    pub(crate) fn mask_known(&mut self, key: &str, value: &Spanned<DeValue<'_>>) {
        mask::in_known(key, value, &self.origins, &mut self.masks);
    }

    pub(crate) fn mask_strings(&mut self, value: &Spanned<DeValue<'_>>) {
        mask::strings(value, &self.origins, &mut self.masks);
    }

    pub(crate) fn mask_everything(&mut self, value: &Spanned<DeValue<'_>>) {
        mask::everything(value, &self.origins, &mut self.masks);
    }

    pub(crate) fn mask_span(&mut self, span: Span) {
        self.masks.push(span);
    }

    /// `None` when nothing is wrong.
    pub(crate) fn finish(mut self) -> Option<Faults> {
        let broken_lines: BTreeSet<usize> = self
            .of_kind(Kind::Syntax)
            .map(|span| self.line(span))
            .collect();
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.retain(|draft| match draft.kind {
            Kind::Syntax | Kind::Repetition => true,
            Kind::Value => !broken_lines.contains(&self.line(&draft.span)),
            Kind::Absence => broken_lines.is_empty(),
        });
        drafts.sort_by_key(|draft| draft.span.start);
        // The parser looks at a header twice, and then complains twice.
        drafts
            .dedup_by(|second, first| second.span == first.span && second.message == first.message);
        self.masks = merged(std::mem::take(&mut self.masks));
        let distrust = !broken_lines.is_empty();
        Faults::new(
            drafts
                .into_iter()
                .map(|draft| self.fault(draft, distrust))
                .collect(),
        )
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Span> {
        self.drafts
            .iter()
            .filter(move |draft| draft.kind == kind)
            .map(|draft| &draft.span)
    }

    /// What identifies the line of a span among all texts.
    fn line(&self, span: &Span) -> usize {
        self.origins.place(span.start).start
    }

    /// With `distrust`, only what is harmless in any place is quoted.
    fn fault(&self, draft: Draft, distrust: bool) -> Fault {
        let place = self.origins.place(draft.span.start);
        let mut masks: Vec<Span> = self.masks_within(&place).cloned().collect();
        // Once something is broken, a line may belong elsewhere than where the parser put it.
        if place.in_file && (distrust || draft.kind == Kind::Repetition) {
            let guess = mask::in_broken_line(place.text);
            masks.extend(guess.map(|range| place.start + range.start..place.start + range.end));
            masks = merged(masks);
        }
        Fault {
            file: place.name.to_owned(),
            position: place.in_file.then_some(Position {
                line: place.line,
                column: place.column,
            }),
            message: printable(&draft.message),
            quote: Some(quote(&place, &draft.span, &masks)),
            hint: draft.hint.as_deref().map(printable),
        }
    }

    fn masks_within(&self, place: &Place<'_>) -> impl Iterator<Item = &Span> {
        let (start, end) = (place.start, place.start + place.text.len());
        let first = self.masks.partition_point(|mask| mask.end <= start);
        self.masks
            .iter()
            .skip(first)
            .take_while(move |mask| mask.start < end)
    }
}

/// The line of `place` with `masks` replaced, and where `span` then lies in it. The masks are sorted and disjoint.
fn quote(place: &Place<'_>, span: &Span, masks: &[Span]) -> Quote {
    let mut shown: Vec<char> = Vec::new();
    let (mut begin, mut end) = (None, None);
    let mut masks = masks.iter().peekable();
    let mut inside = false;
    for (index, character) in place.text.char_indices() {
        let offset = place.start + index;
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
        return Quote {
            line: shown.into_iter().collect(),
            indent,
            length: length.max(1),
        };
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
    Quote {
        line,
        indent,
        length: length.clamp(1, (QUOTE_CHARACTERS + 1).saturating_sub(indent).max(1)),
    }
}

/// Messages repeat names from the file, which may hold anything.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn merged(mut masks: Vec<Span>) -> Vec<Span> {
    masks.retain(|mask| !mask.is_empty());
    masks.sort_by_key(|mask| mask.start);
    masks.dedup_by(|second, first| {
        let overlaps = second.start <= first.end;
        if overlaps {
            first.end = first.end.max(second.end);
        }
        overlaps
    });
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, span: Span, mask: Span, drawn: &str) {
        let mut report = Report::new(Origins::new("f", text));
        report.mask_span(mask);
        report.value(span, "wrong".to_owned(), "hint");
        let faults = report.finish().map(|faults| faults.to_string());
        assert_eq!(faults.as_deref(), Some(drawn));
    }

    #[test]
    fn carets_follow_a_masked_line() {
        check(
            "k = \"secret\" x",
            13..14,
            5..11,
            "f:1:14  wrong\n    1 | k = \"…\" x\n      |         ^ hint",
        );
    }

    #[test]
    fn a_span_inside_a_mask_points_at_what_is_left() {
        check(
            "k = \"secret\" x",
            7..9,
            5..11,
            "f:1:8  wrong\n    1 | k = \"…\" x\n      |      ^ hint",
        );
    }

    #[test]
    fn a_long_line_is_quoted_around_its_fault() {
        let text = format!("{}x{}", " ".repeat(500), " ".repeat(500));
        let mut report = Report::new(Origins::new("f", &text));
        report.value(500..501, "wrong".to_owned(), "");
        let faults = report
            .finish()
            .into_iter()
            .flat_map(|faults| faults.iter().cloned().collect::<Vec<_>>());
        let quotes: Vec<Quote> = faults.filter_map(|fault| fault.quote).collect();
        let expected = Quote {
            line: format!("…{}x{}…", " ".repeat(80), " ".repeat(79)),
            indent: 81,
            length: 1,
        };
        assert_eq!(quotes, [expected]);
    }
}
