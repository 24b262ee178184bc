//! One table of the file and the questions that can be asked of it.
//!
//! Deserializing with serde would stop at the first fault and know no near misses, so the tree is walked by hand;
//! this is the hand.

use crate::hint;
use crate::mask;
use crate::origin::Span;
use crate::report::Report;
use crate::schema;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

pub(super) struct Table<'r, 'd, 't> {
    /// As in its header, without brackets; empty for the top level.
    path: String,
    span: Span,
    /// `None` when the file has no such table, or something else in its place; then every default applies.
    entries: Option<&'r DeTable<'d>>,
    report: &'r mut Report<'t>,
}

/// A string of the file and where it stands.
pub(super) struct Text<'r> {
    pub(super) value: &'r str,
    pub(super) span: Span,
}

/// An entry whose key is a name that the operator chose.
pub(super) struct Named<'r, 'd> {
    pub(super) name: &'r str,
    /// Where the name stands.
    pub(super) span: Span,
    value: &'r Spanned<DeValue<'d>>,
}

impl<'r, 'd, 't> Table<'r, 'd, 't> {
    pub(super) fn root(entries: &'r DeTable<'d>, report: &'r mut Report<'t>) -> Table<'r, 'd, 't> {
        Table::open(String::new(), 0..0, entries, schema::ROOT, report)
    }

    /// The table `[key]`, which may be missing.
    pub(super) fn section(&mut self, key: &str, known: &[&str]) -> Table<'_, 'd, 't> {
        let Some(value) = self.get(key) else {
            return Table { path: key.to_owned(), span: 0..0, entries: None, report: self.report };
        };
        self.inner(&format!("`{key}`"), key.to_owned(), value, known)
    }

    /// The entries of the table `[key]`, each a table with a name of the operator's.
    pub(super) fn named(&mut self, key: &str) -> Vec<Named<'r, 'd>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let DeValue::Table(entries) = value.get_ref() else {
            self.wrong_type(&format!("`{key}`"), "a table", value);
            return Vec::new();
        };
        for name in entries.keys() {
            self.check_text(&format!("a name in `[{key}]`"), name.get_ref(), &name.span());
        }
        entries.iter().map(|(name, value)| Named { name: name.get_ref(), span: name.span(), value }).collect()
    }

    /// The table of an entry of [`Table::named`].
    pub(super) fn entry(&mut self, key: &str, named: &Named<'r, 'd>, known: &[&str]) -> Table<'_, 'd, 't> {
        let path = format!("{key}.{}", key_in_path(named.name));
        self.inner(&format!("`{path}`"), path, named.value, known)
    }

    /// The elements of an array of tables, each of which [`Table::element`] opens.
    pub(super) fn elements(&mut self, key: &str) -> Option<&'r DeArray<'d>> {
        let value = self.get(key)?;
        let DeValue::Array(elements) = value.get_ref() else {
            let what = self.label(key);
            self.wrong_type(&what, "an array of tables", value);
            return None;
        };
        Some(elements)
    }

    /// The table of an element of [`Table::elements`].
    pub(super) fn element(
        &mut self,
        key: &str,
        element: &'r Spanned<DeValue<'d>>,
        known: &[&str],
    ) -> Table<'_, 'd, 't> {
        let what = format!("an element of {}", self.label(key));
        self.inner(&what, format!("{}.{key}", self.path), element, known)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<Text<'r>> {
        let value = self.get(key)?;
        let what = self.label(key);
        self.text_of(&what, value)
    }

    pub(super) fn texts(&mut self, key: &str) -> Vec<Text<'r>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let what = self.label(key);
        let DeValue::Array(elements) = value.get_ref() else {
            self.wrong_type(&what, "an array", value);
            return Vec::new();
        };
        let what = format!("an element of {what}");
        let mut texts: Vec<Text<'r>> = Vec::with_capacity(elements.len());
        for element in elements.iter() {
            let Some(text) = self.text_of(&what, element) else {
                continue;
            };
            if texts.iter().any(|earlier| earlier.value == text.value) {
                let message = format!("{} lists an element twice", self.label(key));
                self.report.value(text.span, message, "keep one of them");
                continue;
            }
            texts.push(text);
        }
        texts
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        self.chosen(key, &text, choices)
    }

    pub(super) fn choices<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Vec<T> {
        let texts = self.texts(key);
        texts.iter().filter_map(|text| self.chosen(key, text, choices)).collect()
    }

    pub(super) fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let value = self.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            let what = self.label(key);
            self.wrong_type(&what, "an integer", value);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("{} is out of range", self.label(key));
            let bounds = format!("it must lie between {} and {}", grouped(range.start()), grouped(range.end()));
            self.report.value(value.span(), message, bounds);
        }
        number
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let DeValue::Boolean(boolean) = value.get_ref() else {
            let what = self.label(key);
            self.wrong_type(&what, "a boolean", value);
            return None;
        };
        Some(*boolean)
    }

    /// A time of 1 to `most` seconds.
    pub(super) fn seconds(&mut self, key: &str, default: u64, most: u64) -> Duration {
        Duration::from_secs(self.integer(key, 1..=most).unwrap_or(default))
    }

    /// A time of 1 to `most` milliseconds.
    pub(super) fn milliseconds(&mut self, key: &str, default: u64, most: u64) -> Duration {
        Duration::from_millis(self.integer(key, 1..=most).unwrap_or(default))
    }

    /// Whether something stands under this key, be it right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Where the value of a key stands.
    pub(super) fn span(&self, key: &str) -> Option<Span> {
        self.get(key).map(Spanned::span)
    }

    /// Tells that a key is missing, unless the whole table is.
    pub(super) fn missing(&mut self, key: &str, hint: impl Into<String>) {
        if self.entries.is_some() {
            let message = format!("missing key `{key}` in `[{}]`", self.path);
            self.report.absence(self.span.clone(), message, hint);
        }
    }

    /// Tells that what stands at `span` needs something that is not there.
    pub(super) fn lacking(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.report.absence(span, message, hint);
    }

    pub(super) fn fault(&mut self, span: Span, message: String, hint: impl Into<String>) {
        self.report.value(span, message, hint);
    }

    /// A key in a sentence.
    pub(super) fn label(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => format!("`{key}`"),
            path => format!("`{key}` in `[{path}]`"),
        }
    }

    fn open(
        path: String,
        span: Span,
        entries: &'r DeTable<'d>,
        known: &[&str],
        report: &'r mut Report<'t>,
    ) -> Table<'r, 'd, 't> {
        let mut table = Table { path, span, entries: Some(entries), report };
        for (key, value) in entries {
            match known.contains(&key.get_ref().as_ref()) {
                true => table.report.mask_known(key.get_ref(), value),
                false => table.unknown(key.get_ref(), key.span(), value, known),
            }
        }
        table
    }

    fn unknown(&mut self, key: &str, span: Span, value: &Spanned<DeValue<'_>>, known: &[&str]) {
        match mask::names_secret(key) {
            true => self.report.mask_everything(value),
            false => self.report.mask_strings(value),
        }
        let hint = hint::unknown_key(key, known, |key| self.report.origins.spell_sibling(&span, key));
        let name = match self.report.may_name(&span) {
            true => format!(" `{key}`"),
            false => String::new(),
        };
        let message = match (self.path.as_str(), value.get_ref()) {
            ("", DeValue::Table(_)) if !name.is_empty() => {
                format!("unknown table `[{}]`", key_in_path(key))
            }
            ("", DeValue::Table(_)) => "unknown table".to_owned(),
            ("", _) => format!("unknown key{name} outside of any table"),
            (path, _) => format!("unknown key{name} in `[{path}]`"),
        };
        self.report.value(span, message, hint);
    }

    /// `what` is the table in a sentence.
    fn inner(
        &mut self,
        what: &str,
        path: String,
        value: &'r Spanned<DeValue<'d>>,
        known: &[&str],
    ) -> Table<'_, 'd, 't> {
        match value.get_ref() {
            DeValue::Table(entries) => Table::open(path, value.span(), entries, known, self.report),
            _ => {
                self.wrong_type(what, "a table", value);
                Table { path, span: value.span(), entries: None, report: self.report }
            }
        }
    }

    fn get(&self, key: &str) -> Option<&'r Spanned<DeValue<'d>>> {
        let value = self.entries?.get(key)?;
        // The parser puts a value without text where it could not read one; it has said so already.
        let is_placeholder = value.span().is_empty() && self.report.origins.in_file(value.span().start);
        (!is_placeholder).then_some(value)
    }

    fn text_of(&mut self, what: &str, value: &'r Spanned<DeValue<'d>>) -> Option<Text<'r>> {
        match value.get_ref() {
            DeValue::String(text) => {
                self.check_text(what, text, &value.span()).then(|| Text { value: text, span: value.span() })
            }
            _ => {
                self.wrong_type(what, "a string", value);
                None
            }
        }
    }

    /// No text of a configuration is free prose: each is a name, an address or a path.
    fn check_text(&mut self, what: &str, text: &str, span: &Span) -> bool {
        if text.trim().is_empty() {
            self.report.value(span.clone(), format!("{what} is empty"), "write a value, or remove it");
            return false;
        }
        if text.chars().any(char::is_control) {
            let message = format!("{what} contains a control character");
            self.report.value(span.clone(), message, "remove line breaks, tabs and the like");
            return false;
        }
        true
    }

    fn chosen<T: Copy>(&mut self, key: &str, text: &Text<'_>, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|(name, _)| *name == text.value).map(|(_, choice)| *choice);
        if found.is_none() {
            let message = format!("`{}` is not a value of {}", text.value, self.label(key));
            let hint = hint::choice(text.value, choices.iter().map(|(name, _)| *name));
            self.report.value(text.span.clone(), message, hint);
        }
        found
    }

    fn wrong_type(&mut self, what: &str, expected: &str, value: &Spanned<DeValue<'_>>) {
        // A string where a table belongs may be a whole table that was mangled on its way, secrets and all.
        let is_nested = matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_));
        if is_nested || matches!(expected, "a table" | "an array of tables") {
            self.report.mask_strings(value);
        }
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let hint = match (expected, value.get_ref()) {
            ("an integer", DeValue::String(text)) if text.parse::<u64>().is_ok() => "remove the quotes".to_owned(),
            ("a boolean", DeValue::String(text)) if matches!(text.as_ref(), "true" | "false") => {
                "remove the quotes".to_owned()
            }
            ("a boolean", _) => "write `true` or `false`".to_owned(),
            ("an array of tables", DeValue::Table(_)) => {
                "write `[{ … }]`, or double the brackets of its header".to_owned()
            }
            ("an array", _) => "put it in square brackets".to_owned(),
            ("a string", DeValue::Array(_) | DeValue::Table(_)) => "write a single string".to_owned(),
            ("a string", _) => "put it in double quotes".to_owned(),
            _ => format!("write {expected}"),
        };
        self.report.value(value.span(), format!("{what} must be {expected}, found {found}"), hint);
    }
}

/// A key as it is written in a header.
fn key_in_path(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match !key.is_empty() && key.chars().all(is_bare) {
        true => key.to_owned(),
        false => format!("{key:?}"),
    }
}

/// A number with `_` between thousands, as the file may write it.
fn grouped(number: &impl Display) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}
