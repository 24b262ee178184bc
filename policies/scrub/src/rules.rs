//! What is looked for, how sure it must be, and what is done with it.

use crate::kind::Kind;
use regex::{Regex, RegexBuilder};
use std::collections::HashSet;
use std::ops::Range;

/// Largest compiled form of a pattern, in bytes.
const PATTERN_SIZE: usize = 1 << 20;
/// Most patterns of a user's own.
pub const MAX_PATTERNS: usize = 64;
/// Longest name of a pattern.
const MAX_NAME: usize = 32;

/// How sure a finding must be where nothing else is said.
pub const DEFAULT_THRESHOLD: f32 = 0.5;

/// What is done with a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// A numbered placeholder leaves, `<EMAIL_1>`, and the original comes back in the answer.
    #[default]
    Replace,
    /// The same with a keyed hash for a number, `<EMAIL_h3f9a01c2>`: equal values look equal in all requests.
    Hash,
    /// Only the kind leaves, `[EMAIL]`; nothing comes back.
    Mask,
    /// The request is refused.
    Refuse,
    /// It is counted and leaves as it is.
    Report,
}

/// A pattern of a user's own.
#[derive(Clone, Debug)]
struct Pattern {
    /// As it stands in placeholders: capitals, digits and underscores.
    name: String,
    regex: Regex,
    action: Action,
}

/// What is wanted of a kind.
#[derive(Clone, Copy, Debug)]
struct Want {
    threshold: f32,
    action: Action,
}

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    #[error(
        "a name is A-Z, 0-9 and `_`, begins with a letter, has at most {MAX_NAME} characters and is no other kind's"
    )]
    Name,
    #[error("{0}")]
    Regex(String),
    #[error("it matches the empty text")]
    Empty,
    #[error("there are more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Rules {
    wants: [Option<Want>; Kind::ALL.len()],
    patterns: Vec<Pattern>,
    allowed: HashSet<String>,
}

impl Default for Rules {
    /// Every built-in kind but names and addresses, which only a model could find well; all are replaced.
    fn default() -> Rules {
        let structured = |kind: &Kind| !matches!(kind, Kind::Person | Kind::Address);
        Rules::of(&Kind::ALL.into_iter().filter(structured).collect::<Vec<_>>())
    }
}

impl Rules {
    /// Of the built-in kinds only `kinds`, all of them replaced.
    pub fn of(kinds: &[Kind]) -> Rules {
        let mut rules = Rules { wants: [None; Kind::ALL.len()], patterns: Vec::new(), allowed: HashSet::new() };
        kinds.iter().for_each(|kind| rules.want(*kind, DEFAULT_THRESHOLD, Action::Replace));
        rules
    }

    /// Looks for `kind`, and takes what has at least this score.
    pub fn want(&mut self, kind: Kind, threshold: f32, action: Action) {
        if let Some(place) = self.wants.get_mut(kind.index()) {
            *place = Some(Want { threshold, action });
        }
    }

    /// Values that are never taken, as they are written.
    pub fn allow(&mut self, values: impl IntoIterator<Item = String>) {
        self.allowed.extend(values);
    }

    /// Adds a pattern of the user's own. It is matched in time linear in the text.
    pub fn add_pattern(&mut self, name: &str, pattern: &str, action: Action) -> Result<(), PatternError> {
        let is_name = name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.len() <= MAX_NAME
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        if !is_name || Kind::of_name(name).is_some() || self.patterns.iter().any(|known| known.name == name) {
            return Err(PatternError::Name);
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(PatternError::TooMany);
        }
        let built = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build();
        let regex = built.map_err(|error| PatternError::Regex(error.to_string()))?;
        if regex.is_match("") {
            return Err(PatternError::Empty);
        }
        self.patterns.push(Pattern { name: name.to_owned(), regex, action });
        Ok(())
    }

    /// The name of a kind, the user's own included.
    pub fn name(&self, kind: Kind) -> &str {
        match kind {
            Kind::Custom(place) => self.patterns.get(usize::from(place)).map_or("CUSTOM", |pattern| &pattern.name),
            kind => kind.name(),
        }
    }

    /// The kind of that name, the user's own included; one that stands for nothing when there is none any more.
    pub(crate) fn kind_of_name(&self, name: &str) -> Kind {
        let own = || self.patterns.iter().position(|pattern| pattern.name == name);
        Kind::of_name(name).unwrap_or_else(|| Kind::Custom(own().map_or(u8::MAX, |place| place as u8)))
    }

    /// What is done with a kind.
    pub fn action(&self, kind: Kind) -> Action {
        match kind {
            Kind::Custom(place) => self.patterns.get(usize::from(place)).map(|pattern| pattern.action),
            kind => self.wants[kind.index()].map(|want| want.action),
        }
        .unwrap_or_default()
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.wants.iter().all(Option::is_none)
    }

    /// Whether patterns of the user's own must see every text, whatever stands in it.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    pub(crate) fn wants(&self, kind: Kind, score: f32) -> bool {
        match kind {
            Kind::Custom(_) => true,
            kind => self.wants[kind.index()].is_some_and(|want| score >= want.threshold),
        }
    }

    pub(crate) fn allows(&self, value: &str) -> bool {
        !self.allowed.is_empty() && self.allowed.contains(value)
    }

    pub(crate) fn by_patterns(&self, text: &str, mut found: impl FnMut(Kind, Range<usize>, f32)) {
        for (place, pattern) in self.patterns.iter().enumerate() {
            for hit in pattern.regex.find_iter(text).filter(|hit| !hit.is_empty()) {
                found(Kind::Custom(place as u8), hit.range(), 1.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;

    #[test]
    fn patterns_are_checked_when_they_are_added() {
        let mut rules = Rules::of(&[]);
        assert_eq!(rules.add_pattern("EMPLOYEE", r"\bE\d{6}\b", Action::Replace), Ok(()));
        assert_eq!(rules.add_pattern("EMPLOYEE", "x", Action::Replace), Err(PatternError::Name));
        assert_eq!(rules.add_pattern("EMAIL", "x", Action::Replace), Err(PatternError::Name));
        assert_eq!(rules.add_pattern("lower", "x", Action::Replace), Err(PatternError::Name));
        assert_eq!(rules.add_pattern("ANY", "x*", Action::Replace), Err(PatternError::Empty));
        assert!(matches!(rules.add_pattern("OPEN", "(", Action::Replace), Err(PatternError::Regex(_))));
        assert!(matches!(rules.add_pattern("HUGE", r"(\w{1000}){1000}", Action::Replace), Err(PatternError::Regex(_))));
        let found = find("ask E123456 or E1234567", &rules);
        assert_eq!(found.len(), 1);
        assert_eq!(rules.name(found[0].kind), "EMPLOYEE");
    }

    #[test]
    fn thresholds_and_allow_lists_leave_things_where_they_are() {
        let mut rules = Rules::of(&[Kind::Email]);
        rules.want(Kind::Phone, 0.8, Action::Replace);
        rules.allow(["help@x.com".to_owned()]);
        let text = "help@x.com, me@x.com, 415-555-0132 and +1 415-555-0132";
        let found: Vec<&str> = find(text, &rules).into_iter().map(|finding| &text[finding.range]).collect();
        assert_eq!(found, ["me@x.com", "+1 415-555-0132"]);
    }
}
