//! What is wrong with a configuration, told so that it can be repaired without opening a manual.
//!
//! A fault is finished text: places are already lines and columns, and secrets are already masked, so that
//! printing one, logging one or sending one elsewhere needs no further care.

use std::fmt;

/// One thing to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file's name as it was given, or the name of the environment variable at fault.
    pub(crate) file: String,
    /// `None` for a variable, and for a file that could not be read at all.
    pub(crate) position: Option<Position>,
    pub(crate) message: String,
    pub(crate) quote: Option<Quote>,
    pub(crate) hint: Option<String>,
}

/// Where a reader's cursor has to go; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// The offending line as it may be shown: secrets are gone, so its columns can differ from the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) line: String,
    /// Characters before the first caret.
    pub(crate) indent: usize,
    /// Carets; at least 1.
    pub(crate) length: usize,
}

impl Fault {
    /// A fault of a file as a whole, such as one that cannot be opened.
    pub(crate) fn of_file(file: String, message: String) -> Fault {
        Fault { file, position: None, message, quote: None, hint: None }
    }

    /// The file, or the environment variable, that has to change.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// From 1; `None` when the fault lies in an environment variable or in the file as a whole.
    pub fn line(&self) -> Option<usize> {
        self.position.map(|position| position.line)
    }

    /// From 1, in characters.
    pub fn column(&self) -> Option<usize> {
        self.position.map(|position| position.column)
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The offending line with secrets replaced by `…`.
    pub fn quoted_line(&self) -> Option<&str> {
        self.quote.as_ref().map(|quote| quote.line.as_str())
    }

    /// How many characters of [`Fault::quoted_line`] are at fault.
    pub fn span_length(&self) -> Option<usize> {
        self.quote.as_ref().map(|quote| quote.length)
    }

    /// What to write instead.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, "  {}", self.message)?;
        if let Some(quote) = &self.quote {
            match self.line() {
                Some(line) => write!(f, "\n{line:>5} | {}", quote.line)?,
                None => write!(f, "\n      | {}", quote.line)?,
            }
            let indent = " ".repeat(quote.indent);
            let carets = "^".repeat(quote.length);
            write!(f, "\n      | {indent}{carets}")?;
        }
        match (&self.hint, &self.quote) {
            (Some(hint), Some(_)) => write!(f, " {hint}"),
            (Some(hint), None) => write!(f, "\n      | {hint}"),
            (None, _) => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// Every fault of one run, in the order of the file, then of the environment variables. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `None` when there is nothing to report, which keeps the promise that faults are never empty.
    pub(crate) fn new(faults: Vec<Fault>) -> Option<Faults> {
        (!faults.is_empty()).then_some(Faults(faults))
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    #[expect(clippy::len_without_is_empty, reason = "there is always at least one fault")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Faults {
        Faults(vec![fault])
    }
}

impl<'f> IntoIterator for &'f Faults {
    type Item = &'f Fault;
    type IntoIter = std::slice::Iter<'f, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_prints_as_the_style_guide_draws_it() {
        let fault = Fault {
            file: "edge.toml".to_owned(),
            position: Some(Position { line: 14, column: 1 }),
            message: "unknown key `time_out` in `[upstream.main]`".to_owned(),
            quote: Some(Quote { line: "time_out = 30".to_owned(), indent: 0, length: 8 }),
            hint: Some("did you mean `timeout_seconds`?".to_owned()),
        };
        let drawn = "\
edge.toml:14:1  unknown key `time_out` in `[upstream.main]`
   14 | time_out = 30
      | ^^^^^^^^ did you mean `timeout_seconds`?";
        assert_eq!(fault.to_string(), drawn);
    }
}
