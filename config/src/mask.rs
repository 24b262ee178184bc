//! What a message must not show.
//!
//! Messages quote the file, end up in logs and get pasted into tickets, and the commonest mistake with a secret is
//! to write it where its name belongs. The rule is therefore not "hide what is known to be secret" but "show what
//! is known to be harmless": a key's name always, a value only where its key is ours and its form is the expected
//! one.

use crate::origin::{Origins, Span};
use crate::schema;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

/// Words in a key's name that announce a secret.
const SECRET_WORDS: &[&str] = &["key", "secret", "token", "password", "passwd", "credential", "auth", "bearer"];

/// Keys of ours that hold a number, whatever their names announce.
const NUMBERS: &[&str] = &["context_tokens", "window_tokens", "max_output_tokens", "first_token_timeout_milliseconds"];

/// Keys of ours whose values are URLs, where credentials get written although they have no place there.
const URLS: &[&str] = &["base_url", "location", "notify", "proxy", "cors_allowed_origins"];

/// Keys of ours that hold tables, in which a key of anybody's can stand.
const NESTS: &[&str] = &["targets", "fallbacks"];

/// The longest text that a public key in hexadecimal digits can have; a longer one may hold the private half.
const PUBLIC_KEY_DIGITS: usize = 64;

/// Whether a key of this name is likely to hold a secret.
pub(crate) fn names_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// Whether a text may be the secret itself rather than the path of its file.
pub(crate) fn looks_secret(text: &str) -> bool {
    let ending = text.rsplit_once('.').map_or("", |(_, ending)| ending);
    let has_ending = (1..=8).contains(&ending.len()) && ending.chars().all(|c| c.is_ascii_lowercase());
    text.starts_with("sk-") || text.contains(' ') || !(has_ending || text.contains('/'))
}

/// Whether a text follows the convention for names of environment variables, which no usual secret does.
pub(crate) fn is_variable_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_uppercase() || first == '_')
        && characters.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The parts of a known key's value that must not be shown.
pub(crate) fn in_known(key: &str, value: &Spanned<DeValue<'_>>, origins: &Origins<'_>, masks: &mut Vec<Span>) {
    match (key, value.get_ref()) {
        ("trusted_keys", DeValue::Array(elements)) => {
            elements.iter().for_each(|element| in_known(key, element, origins, masks));
        }
        ("trusted_keys", DeValue::String(text)) if text.len() > PUBLIC_KEY_DIGITS => {
            everything(value, origins, masks);
        }
        ("api_key_env", DeValue::String(text)) if !is_variable_name(text) => everything(value, origins, masks),
        ("api_key_file" | "tls_key_file", DeValue::String(text)) if looks_secret(text) => {
            everything(value, origins, masks);
        }
        ("pass_credentials", DeValue::String(_)) => everything(value, origins, masks),
        ("cors_allowed_origins", DeValue::Array(elements)) => {
            elements.iter().for_each(|element| in_known(key, element, origins, masks));
        }
        (key, DeValue::String(_)) if URLS.contains(&key) => in_url(value.span(), origins, masks),
        _ => {}
    }
}

/// Every string in a value: what stands under an unknown key, or where a table should be, is anybody's guess.
pub(crate) fn strings(value: &Spanned<DeValue<'_>>, origins: &Origins<'_>, masks: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::String(_) => everything(value, origins, masks),
        DeValue::Array(elements) => elements.iter().for_each(|element| strings(element, origins, masks)),
        DeValue::Table(table) => {
            for (key, value) in table {
                match names_secret(key.get_ref()) {
                    true => everything(value, origins, masks),
                    false => strings(value, origins, masks),
                }
            }
        }
        _ => {}
    }
}

/// A whole value except its quotes.
pub(crate) fn everything(value: &Spanned<DeValue<'_>>, origins: &Origins<'_>, masks: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().for_each(|element| everything(element, origins, masks)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| everything(value, origins, masks)),
        _ => {
            let span = value.span();
            let content = unquoted(origins.slice(&span));
            masks.push(span.start + content.start..span.start + content.end);
        }
    }
}

/// User name, password and query of a URL; the latter is where some services want their key.
fn in_url(span: Span, origins: &Origins<'_>, masks: &mut Vec<Span>) {
    let raw = origins.slice(&span);
    let content = unquoted(raw);
    let authority = raw.find("://").map_or(content.start, |scheme| scheme + 3);
    match raw.rfind('@').filter(|at| *at > authority) {
        Some(at) => masks.push(span.start + authority..span.start + at),
        None => {
            // What stands for a port and is not a number may be a password whose `@` was lost.
            let host = raw.get(authority..content.end).unwrap_or_default();
            let end = host.find('/').unwrap_or(host.len());
            let colon = host.get(..end).and_then(|host| host.find(':'));
            let port = colon.and_then(|colon| host.get(colon + 1..end));
            if port.is_some_and(|port| !host.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit())) {
                let colon = authority + colon.unwrap_or_default();
                masks.push(span.start + colon + 1..span.start + authority + end);
            }
        }
    }
    if let Some(query) = raw.find('?').filter(|query| *query + 1 < content.end) {
        masks.push(span.start + query + 1..span.start + content.end);
    }
}

/// The part of a line that must not be shown when the line could not be parsed, as bytes of the line.
///
/// Nothing is known about such a line but its look, so only a header or the value of a key of ours is shown.
pub(crate) fn in_broken_line(line: &str) -> Option<Range<usize>> {
    let begin = line.len() - line.trim_start().len();
    let body = line.trim_start();
    if body.is_empty() || body.starts_with('#') || is_header(body) {
        return None;
    }
    let Some((key, value)) = body.split_once('=') else {
        let end = body.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(body.len());
        let word = body.get(..end).unwrap_or_default();
        let shown = if is_known(word) || is_name_of_secret(word) { end } else { 0 };
        return (shown < body.len()).then_some(begin + shown..line.len());
    };
    if !key.trim_end().chars().all(is_key_character) {
        return Some(begin..line.len());
    }
    if is_harmless(key.trim(), value) {
        return None;
    }
    let start = line.len() - value.trim_start().len();
    let content = unquoted(value.trim());
    Some(start + content.start..start + content.end)
}

fn is_header(line: &str) -> bool {
    let name = line.trim_start_matches(['[', ' ', '\t']);
    let end = name.find(|c: char| !is_key_character(c)).unwrap_or(name.len());
    let section = name.get(..end).unwrap_or_default().split('.').next().unwrap_or_default();
    line.starts_with('[') && schema::ROOT.contains(&section) && !line.contains(['=', ','])
}

/// Lower case alone, because secrets that are not quoted mix cases, and keys of ours do not.
fn is_key_character(c: char) -> bool {
    c.is_ascii_lowercase() || matches!(c, '_' | '-' | '.')
}

fn is_known(key: &str) -> bool {
    schema::TABLES.iter().any(|(_, keys)| keys.contains(&key))
}

/// A name of the kind `api_key`, as opposed to a secret that contains such a word.
fn is_name_of_secret(word: &str) -> bool {
    names_secret(word) && word.len() <= 16 && word.chars().all(is_key_character)
}

fn is_harmless(key: &str, value: &str) -> bool {
    let key = key.rsplit('.').next().unwrap_or(key);
    let guarded = key == "trusted_keys" || URLS.contains(&key) || NESTS.contains(&key);
    let public = NUMBERS.contains(&key) || !(names_secret(key) || guarded);
    is_known(key) && public && !names_secret(value) && !["sk-", "://"].iter().any(|sign| value.contains(sign))
}

/// Where a TOML value's content lies between its quotes; all of it when there are none.
fn unquoted(raw: &str) -> Range<usize> {
    let quotes = ["\"\"\"", "'''", "\"", "'"];
    let Some(quote) = quotes.iter().find(|quote| raw.starts_with(**quote)) else {
        return 0..raw.len();
    };
    let closed = raw.len() >= 2 * quote.len() && raw.ends_with(*quote);
    quote.len()..if closed { raw.len() - quote.len() } else { raw.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, shown: &str) {
        let mask = in_broken_line(line);
        let masked = match mask {
            Some(mask) => format!("{}…{}", &line[..mask.start], &line[mask.end..]),
            None => line.to_owned(),
        };
        assert_eq!(masked, shown);
    }

    #[test]
    fn a_broken_line_shows_nothing_but_what_is_ours() {
        check("listen = 127.0.0.1:80", "listen = 127.0.0.1:80");
        check("[providers.openai", "[providers.openai");
        check("api_key = sk-123", "api_key = …");
        check("api_key = \"sk-123\" x", "api_key = \"…");
        check("api_key = \"sk-123\"", "api_key = \"…\"");
        check("  api_key \"sk-123\"", "  api_key…");
        check("  \"sk-123\" \"sk-456\"", "  …");
        check("  wJalrXUtnFEMI", "  …");
        check("AbCdEf==", "…");
        check("listen = \"x\" api_key = \"sk-123\"", "listen = \"…\"");
        check("openai = { kind = \"mock\" password = \"x\" }", "openai = …");
        check("[\"sk-123\",", "…");
        check("proxy = user:123@proxy.internal", "proxy = …");
        check("targets = [{ pin = 123 }", "targets = …");
        check("pass_credentials = 123", "pass_credentials = …");
        check("max_output_tokens = 1 024", "max_output_tokens = 1 024");
        check("first_token_timeout_milliseconds = 60s", "first_token_timeout_milliseconds = 60s");
    }

    #[test]
    fn a_name_of_a_variable_is_told_from_a_secret() {
        assert!(is_variable_name("OPENAI_API_KEY"));
        assert!(!is_variable_name("sk-proj-1234"));
        assert!(looks_secret("sk-proj-1234"));
        assert!(!looks_secret("/run/secrets/openai"));
    }
}
