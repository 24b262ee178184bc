//! Collects what is wrong while a configuration is read, and turns it into [`Faults`] at the end.
//!
//! Quoting waits until then: only after everything has been read is it known which parts of a line are secret, and
//! which faults merely follow from a broken line.

use crate::fault::{Fault, Faults, Position};
use crate::mask;
use crate::origin::{Origins, Span};
use crate::quote;
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) struct Report<'t> {
    pub(crate) origins: Origins<'t>,
    drafts: Vec<Draft>,
    masks: Vec<Span>,
    /// Whether the file is not TOML, so that keys and values may not be what they seem.
    is_broken: bool,
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
        Report { origins, drafts: Vec::new(), masks: Vec::new(), is_broken: false }
    }

    pub(crate) fn syntax(&mut self, span: Span, message: String, hint: Option<String>) {
        self.is_broken = true;
        self.drafts.push(Draft { kind: Kind::Syntax, span, message, hint });
    }

    pub(crate) fn repetition(&mut self, span: Span, message: String, hint: &str) {
        self.drafts.push(Draft { kind: Kind::Repetition, span, message, hint: Some(hint.to_owned()) });
    }

    pub(crate) fn value(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.drafts.push(Draft { kind: Kind::Value, span, message, hint: Some(hint.into()) });
    }

    /// A fault that is only reported when the file's syntax is sound: what is missing may stand in the broken part.
    pub(crate) fn absence(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.drafts.push(Draft { kind: Kind::Absence, span, message, hint: Some(hint.into()) });
    }

    /// Whether a message may repeat the key at `span`. In a broken file a quoted key may be the element of an array
    /// whose beginning was lost, and a secret.
    pub(crate) fn may_name(&self, span: &Span) -> bool {
        !(self.is_broken && self.origins.slice(span).starts_with(['"', '\'']))
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
        let mut drafts = std::mem::take(&mut self.drafts);
        let line = |draft: &Draft| self.origins.line_start(draft.span.start);
        let broken = drafts.iter().filter(|draft| draft.kind == Kind::Syntax);
        let broken_lines: BTreeSet<usize> = broken.map(line).collect();
        drafts.retain(|draft| match draft.kind {
            Kind::Syntax | Kind::Repetition => true,
            Kind::Value => !broken_lines.contains(&line(draft)),
            Kind::Absence => !self.is_broken,
        });
        drafts.sort_by(|first, second| first.place().cmp(&second.place()));
        // The parser looks at a header twice, and then complains twice.
        drafts.dedup_by(|second, first| second.place() == first.place());
        self.masks = merged(std::mem::take(&mut self.masks));
        Faults::new(drafts.into_iter().map(|draft| self.fault(draft)).collect())
    }

    fn fault(&self, draft: Draft) -> Fault {
        let place = self.origins.place(draft.span.start);
        let mut masks = self.masks_within(quote::window(&place, &draft.span));
        // Once something is broken, a line may belong elsewhere than where the parser put it.
        if place.in_file && (self.is_broken || draft.kind == Kind::Repetition) {
            let guess = mask::in_broken_line(place.text);
            masks.extend(guess.map(|range| place.start + range.start..place.start + range.end));
            masks = merged(masks);
        }
        Fault {
            file: place.name.to_owned(),
            position: place.in_file.then_some(Position { line: place.line, column: place.column }),
            message: printable(&draft.message),
            quote: Some(quote::quote(&place, &draft.span, &masks)),
            hint: draft.hint.as_deref().map(printable),
        }
    }

    fn masks_within(&self, window: Span) -> Vec<Span> {
        let first = self.masks.partition_point(|mask| mask.end <= window.start);
        let within = self.masks.iter().skip(first).take_while(|mask| mask.start < window.end);
        within.cloned().collect()
    }
}

impl Draft {
    /// What faults are ordered by, and what tells them apart.
    fn place(&self) -> (usize, usize, &str) {
        (self.span.start, self.span.end, &self.message)
    }
}

/// Messages repeat names from the file, which may hold anything.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
