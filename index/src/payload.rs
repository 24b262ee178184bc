//! Payloads of documents: what filters can ask of them.

use serde_json::{Map, Value};
use sluice_segment::{Column, Columns, NumberAt, Word};
use std::collections::BTreeMap;

/// Deepest nesting whose values can be asked for.
const MAX_DEPTH: usize = 8;
/// Longest string that is kept for filters, in bytes.
const MAX_WORD: usize = 512;
/// Most values of one payload that are kept for filters.
const MAX_VALUES: usize = 1_024;

/// Every value of a payload that filters can ask for, with its path: members joined by dots, arrays looked into.
pub(crate) fn leaves(payload: &Map<String, Value>, each: &mut impl FnMut(&str, &Value)) {
    let mut left = MAX_VALUES;
    for (name, value) in payload {
        leaf(name, value, 0, &mut left, each);
    }
}

fn leaf(path: &str, value: &Value, depth: usize, left: &mut usize, each: &mut impl FnMut(&str, &Value)) {
    if depth == MAX_DEPTH || *left == 0 {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                leaf(&format!("{path}.{name}"), value, depth + 1, left, each);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| leaf(path, value, depth + 1, left, each)),
        Value::Null => {}
        Value::String(text) if text.len() > MAX_WORD => {}
        _ => {
            *left -= 1;
            each(path, value);
        }
    }
}

/// Gathers the columns of a segment.
#[derive(Default)]
pub(crate) struct Gatherer {
    columns: BTreeMap<String, Gathered>,
}

#[derive(Default)]
struct Gathered {
    words: BTreeMap<String, Vec<u32>>,
    numbers: Vec<NumberAt>,
    times: Vec<NumberAt>,
}

impl Gatherer {
    /// Adds the payload of the next passage; what is no JSON object has no values.
    pub fn add(&mut self, passage: u32, payload: &str) {
        if payload.is_empty() {
            return;
        }
        let Ok(Value::Object(members)) = serde_json::from_str(payload) else { return };
        leaves(&members, &mut |path, value| self.value(path, value, passage));
    }

    fn value(&mut self, path: &str, value: &Value, passage: u32) {
        let column = self.columns.entry(path.to_owned()).or_default();
        match value {
            Value::Number(number) => {
                if let Some(value) = number.as_f64() {
                    column.numbers.push(NumberAt { value, passage });
                }
            }
            _ => {
                if let Some(value) = value.as_str().and_then(seconds) {
                    column.times.push(NumberAt { value, passage });
                }
                let passages = column.words.entry(value.to_string()).or_default();
                if passages.last() != Some(&passage) {
                    passages.push(passage);
                }
            }
        }
    }

    pub fn finish(self) -> Columns {
        let sorted = |mut numbers: Vec<NumberAt>| {
            numbers.sort_by(|left, right| left.value.total_cmp(&right.value).then(left.passage.cmp(&right.passage)));
            numbers
        };
        let columns = self.columns.into_iter().map(|(path, gathered)| Column {
            path,
            words: gathered.words.into_iter().map(|(value, passages)| Word { value, passages }).collect(),
            numbers: sorted(gathered.numbers),
            times: sorted(gathered.times),
        });
        Columns { columns: columns.collect() }
    }
}

/// A time or a date of RFC 3339, in seconds since the Unix epoch. A date is its first moment in UTC.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, count: usize| -> Option<i64> {
        let part = bytes.get(from..from + count)?;
        part.iter()
            .all(u8::is_ascii_digit)
            .then(|| part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_month = *lengths.get(usize::try_from(month - 1).ok()?)?;
    if !is(4, b'-') || !is(7, b'-') || !(1..=in_month).contains(&day) {
        return None;
    }
    // Days of the civil calendar; H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let (shifted, place) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * place + 2) / 5 + day - 1 - 719_468;
    let midnight = days as f64 * 86_400.0;
    if bytes.len() == 10 {
        return Some(midnight);
    }
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    let joined = matches!(bytes.get(10), Some(b'T' | b't' | b' ')) && is(13, b':') && is(16, b':');
    if !joined || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction = 0.0;
    if is(at, b'.') {
        let count = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        fraction = text.get(at..at + 1 + count)?.parse().ok().filter(|_| count > 0)?;
        at += 1 + count;
    }
    let offset = match bytes.get(at)? {
        b'Z' | b'z' if at + 1 == bytes.len() => 0,
        sign @ (b'+' | b'-') if is(at + 3, b':') && at + 6 == bytes.len() => {
            let minutes = digits(at + 1, 2)? * 60 + digits(at + 4, 2)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    Some(midnight + (hour * 3_600 + (minute - offset) * 60 + second) as f64 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        for (text, expected) in [
            ("1970-01-01", Some(0.0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600.0)),
            ("2024-03-01T01:30:00.25+01:30", Some(1_709_251_200.25)),
            ("2023-02-29", None),
            ("2024-13-01", None),
            ("2024-03-01T25:00:00Z", None),
            ("2024-03-01T10:00:00", None),
            ("20240301", None),
            ("2024-03-01x", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn values_stand_at_their_paths() {
        let mut gatherer = Gatherer::default();
        gatherer.add(0, r#"{"lang":"en","meta":{"page":3,"tags":["a","b","a"]},"at":"2024-01-01","draft":false}"#);
        gatherer.add(1, r#"{"lang":"en","meta":{"page":1}}"#);
        gatherer.add(2, "not json");
        let columns = gatherer.finish().columns;
        let paths: Vec<&str> = columns.iter().map(|column| column.path.as_str()).collect();
        assert_eq!(paths, ["at", "draft", "lang", "meta.page", "meta.tags"]);
        assert_eq!(columns[0].times, [NumberAt { value: 1_704_067_200.0, passage: 0 }]);
        assert_eq!(columns[1].words, [Word { value: "false".into(), passages: vec![0] }]);
        assert_eq!(columns[2].words, [Word { value: "\"en\"".into(), passages: vec![0, 1] }]);
        assert_eq!(columns[3].numbers.iter().map(|at| at.passage).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(columns[4].words.len(), 2);
    }
}
