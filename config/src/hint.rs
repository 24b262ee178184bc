//! Guesses at what was meant.
//!
//! A wrong guess costs more than none, as it is tried first; hence the tight bound on how far a near miss may be.

use crate::mask;
use crate::schema;

/// Longer words are not typing mistakes, and comparing them costs the product of both lengths.
const LONGEST_WORD: usize = 64;

/// Endings that name a unit, in keys that are known and in keys that people try.
const UNITS: &[&str] = &[
    "milliseconds",
    "millis",
    "ms",
    "seconds",
    "secs",
    "sec",
    "minutes",
    "hours",
    "days",
    "bytes",
    "kilobytes",
    "megabytes",
    "kb",
    "mb",
    "characters",
    "chars",
    "tokens",
    "percent",
];

/// The candidate that `word` most likely misspells.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = word.chars().count();
    if length > LONGEST_WORD {
        return None;
    }
    let word = plain(word);
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        // `warning` is further from `warn` than typing mistakes go, and yet means nothing else.
        let is_beginning = candidate.len() >= 4 && word.starts_with(&candidate);
        if is_beginning { 1 } else { strsim::damerau_levenshtein(&word, &candidate) }
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= (length / 3).max(1) && *distance < length.max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean", or else all there is to choose from.
pub(crate) fn choice<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str> + Clone) -> String {
    match nearest(word, candidates.clone()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("choose from {}", list(candidates)),
    }
}

/// What to do about an unknown key, where `known` are the keys of its table and `spell` writes a key the way the
/// reader would have to.
pub(crate) fn unknown_key(key: &str, known: &[&str], spell: impl Fn(&str) -> String) -> String {
    match differs_by_unit(key, known) {
        Some((meant, None, _)) => {
            return format!("did you mean `{}`? An option carries its unit", spell(meant));
        }
        Some((meant, Some(_), unit)) => {
            return format!("did you mean `{}`? It is given in {unit}", spell(meant));
        }
        None => {}
    }
    if let Some(meant) = nearest(key, known.iter().copied()) {
        return format!("did you mean `{}`?", spell(meant));
    }
    if known.contains(&"api_key_env") && mask::names_secret(key) {
        let (variable, file) = (spell("api_key_env"), spell("api_key_file"));
        return format!("a secret has no place here: name its variable with `{variable}`, or its file with `{file}`");
    }
    if let Some(table) = schema::home_of(key) {
        return format!("it belongs in `[{table}]`");
    }
    format!("choose from {}", list(known.iter().copied()))
}

/// Names in a sentence.
pub(crate) fn list<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The known key that differs from `key` by its unit alone, the unit that was written, and the right one.
fn differs_by_unit<'k>(key: &str, known: &[&'k str]) -> Option<(&'k str, Option<&'static str>, &'static str)> {
    let (stem, written) = split_unit(key);
    let stem = plain(stem);
    known.iter().find_map(|candidate| match split_unit(candidate) {
        (other, Some(unit)) if plain(other) == stem && written != Some(unit) => Some((*candidate, written, unit)),
        _ => None,
    })
}

fn split_unit(key: &str) -> (&str, Option<&'static str>) {
    let split = UNITS.iter().find_map(|unit| Some((key.strip_suffix(unit)?.strip_suffix('_')?, Some(*unit))));
    split.unwrap_or((key, None))
}

/// Case and separators are how people differ, not what they mean.
fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, known: &[&str], hint: &str) {
        assert_eq!(unknown_key(key, known, str::to_owned), hint);
    }

    #[test]
    fn a_missing_or_wrong_unit_is_named() {
        check("time_out", &["timeout_seconds"], "did you mean `timeout_seconds`? An option carries its unit");
        check("timeout_ms", &["timeout_seconds"], "did you mean `timeout_seconds`? It is given in seconds");
    }

    #[test]
    fn a_near_miss_is_named() {
        check("listn", &["level", "listen"], "did you mean `listen`?");
    }

    #[test]
    fn a_key_of_another_table_is_sent_home() {
        check("listen", &["level", "format"], "it belongs in `[server]`");
    }

    #[test]
    fn a_short_word_is_not_replaced_whole() {
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest("", ["y"]), None);
    }
}
