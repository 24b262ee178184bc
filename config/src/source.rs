//! Where a configuration's text and its secrets come from: a file, and the process's environment.

use crate::fault::{Fault, Faults, Position, Quote};
use crate::{Config, read};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// What every override's name begins with.
const OVERRIDE_PREFIX: &str = "SLUICE__";

/// Environment variables as they were at one moment.
///
/// A copy rather than the process's own, so that a reload and a test see exactly what they were given.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Variable>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    Text(String),
    /// Not UTF-8. Kept, because "is not set" would send the operator looking in the wrong place.
    Unreadable,
}

impl Environment {
    /// The variables of this process.
    pub fn from_process() -> Environment {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let value = OsString::into_string(value).map_or(Variable::Unreadable, Variable::Text);
            Some((name, value))
        });
        Environment { variables: variables.collect() }
    }

    /// Exactly these variables.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Environment {
        let variables = pairs.into_iter().map(|(name, value)| (name, Variable::Text(value)));
        Environment { variables: variables.collect() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// Every `SLUICE__A__B`, by name, with the part behind the prefix.
    pub(crate) fn overrides(&self) -> impl Iterator<Item = (&str, &str, &Variable)> {
        self.variables.iter().filter_map(|(name, variable)| {
            let (prefix, path) = name.split_at_checked(OVERRIDE_PREFIX.len())?;
            prefix.eq_ignore_ascii_case(OVERRIDE_PREFIX).then_some((name.as_str(), path, variable))
        })
    }
}

impl std::fmt::Debug for Environment {
    /// Names only, as the values are where secrets live.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

pub(crate) fn load(path: &Path, environment: &Environment) -> Result<Config, Faults> {
    let name = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Err(Fault::of_file(name, format!("the file cannot be read: {error}")).into());
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => read::read(&name, &text, environment),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            Err(not_utf8(name, error.as_bytes().get(..valid).unwrap_or_default()).into())
        }
    }
}

/// `valid` is what precedes the first byte that is not part of a character.
fn not_utf8(name: String, valid: &[u8]) -> Fault {
    let before = String::from_utf8_lossy(valid);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Fault {
        file: name,
        position: Some(Position { line, column }),
        message: "the file is not UTF-8".to_owned(),
        // The line is not quoted: with an unknown encoding nobody can tell a secret in it.
        quote: Some(Quote { line: "…".to_owned(), indent: 0, length: 1 }),
        hint: Some("save the file as UTF-8".to_owned()),
    }
}
