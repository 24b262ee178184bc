//! A provider's key, which the file names but never holds.

use super::table::{Table, Text};
use crate::source::{Environment, Variable};
use crate::{Secret, mask};
use std::io::Read;

/// Far above any key; keeps a path to the wrong file from being read whole.
const LONGEST_KEY_BYTES: u64 = 64 << 10;

pub(super) fn read(table: &mut Table<'_, '_, '_>, environment: &Environment) -> Option<Secret> {
    match (table.text("api_key_env"), table.text("api_key_file")) {
        (Some(_), Some(file)) => {
            let message = format!("{} stands beside `api_key_env`", table.label("api_key_file"));
            table.fault(file.span, message, "keep one of them");
            None
        }
        (Some(variable), None) => from_variable(table, &variable, environment),
        (None, Some(file)) => from_file(table, &file),
        (None, None) => None,
    }
}

/// `api_key_secret`: the name of a secret in the store.
pub(super) fn name(table: &mut Table<'_, '_, '_>) -> Option<String> {
    let name = table.text("api_key_secret")?;
    if table.has("api_key_env") || table.has("api_key_file") {
        let message = format!("{} stands beside another key", table.label("api_key_secret"));
        table.fault(name.span, message, "keep one of `api_key_env`, `api_key_file` and `api_key_secret`");
        return None;
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.value.is_empty() || !name.value.bytes().all(fits) || name.value.len() > 64 || name.value.starts_with("sk-")
    {
        let message = format!("{} is not the name of a secret", table.label("api_key_secret"));
        table.fault(name.span, message, "write the name that `sluice secret put NAME` was given, not the key itself");
        return None;
    }
    Some(name.value.to_owned())
}

fn from_variable(table: &mut Table<'_, '_, '_>, text: &Text<'_>, environment: &Environment) -> Option<Secret> {
    let problem = match environment.get(text.value) {
        Some(Variable::Text(value)) => match checked(value) {
            Ok(secret) => return Some(secret),
            Err(problem) => problem,
        },
        Some(Variable::Unreadable) => "is not UTF-8",
        None => "is not set",
    };
    let label = table.label("api_key_env");
    // Whoever writes the key itself here must not find it in a log.
    let (message, hint) = match mask::is_variable_name(text.value) {
        true => (
            format!("{label} names `{}`, which {problem}", text.value),
            "set this variable for the process, or use `api_key_file`",
        ),
        false => (format!("{label} names a variable that {problem}"), "write the variable's name, not the key itself"),
    };
    table.fault(text.span.clone(), message, hint);
    None
}

fn from_file(table: &mut Table<'_, '_, '_>, text: &Text<'_>) -> Option<Secret> {
    let (problem, remedy) = match contents(text.value) {
        Ok(value) => match checked(&value) {
            Ok(secret) => return Some(secret),
            Err(problem) => (problem.to_owned(), "the file must hold the key and nothing else"),
        },
        Err(error) => {
            let problem = format!("cannot be read: {error}");
            (problem, "a relative path begins at the folder that Sluice was started in")
        }
    };
    let message = format!("{} names a file that {problem}", table.label("api_key_file"));
    let hint = if mask::looks_secret(text.value) { "write the file's path, not the key itself" } else { remedy };
    table.fault(text.span.clone(), message, hint);
    None
}

fn contents(path: &str) -> std::io::Result<String> {
    // A pipe or a terminal would keep the edge waiting for as long as nobody writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut contents = String::new();
    std::fs::File::open(path)?.take(LONGEST_KEY_BYTES).read_to_string(&mut contents)?;
    Ok(contents)
}

/// The key without surrounding white space, if it can stand in a request's header.
fn checked(value: &str) -> Result<Secret, &'static str> {
    let value = value.trim();
    if value.is_empty() {
        return Err("is empty");
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds more than one word of visible ASCII characters");
    }
    Ok(Secret::new(value.to_owned()))
}
