//! Conditions on payloads, in Qdrant's form: `must`, `should`, `must_not`; `match`, `range`, `is_empty`.

use crate::bits::Bits;
use crate::payload::{leaves, seconds};
use serde_json::{Map, Value};
use sluice_segment::{ArchivedColumn, ArchivedColumns};

/// Most conditions of a filter, and the deepest that filters stand in one another.
const MAX_CONDITIONS: usize = 256;
const MAX_DEPTH: usize = 8;

/// A checked filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    must: Vec<Condition>,
    should: Vec<Condition>,
    must_not: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    /// Any of the values, as JSON writes them.
    Any {
        path: String,
        values: Vec<Value>,
    },
    /// Whether a value lies between the bounds.
    Range {
        path: String,
        times: bool,
        bounds: Bounds,
    },
    /// No value stands at the path.
    Empty {
        path: String,
    },
    Nested(Filter),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    low: f64,
    low_open: bool,
    high: f64,
    high_open: bool,
}

impl Filter {
    /// Reads a filter; the error names the place.
    pub fn parse(value: &Value) -> Result<Filter, String> {
        let mut left = MAX_CONDITIONS;
        filter(value, "filter", 0, &mut left)
    }

    /// Lets through what has this string at `path`.
    pub(crate) fn equals(path: &str, value: &str) -> Filter {
        let condition = Condition::Any { path: path.to_owned(), values: vec![Value::from(value)] };
        Filter { must: vec![condition], ..Filter::default() }
    }

    /// Lets through what both do.
    pub(crate) fn and(self, other: &Filter) -> Filter {
        if other.is_empty() {
            return self;
        }
        Filter { must: vec![Condition::Nested(self), Condition::Nested(other.clone())], ..Filter::default() }
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    /// Whether it lets `payload` through.
    pub fn admits(&self, payload: &Map<String, Value>) -> bool {
        self.must.iter().all(|condition| condition.admits(payload))
            && (self.should.is_empty() || self.should.iter().any(|condition| condition.admits(payload)))
            && !self.must_not.iter().any(|condition| condition.admits(payload))
    }

    /// The passages, of `length`, whose payload it lets through.
    pub(crate) fn passages(&self, columns: Option<&ArchivedColumns>, length: usize) -> Bits {
        let mut bits = Bits::all(length);
        self.must.iter().for_each(|condition| bits.intersect(&condition.passages(columns, length)));
        if !self.should.is_empty() {
            let mut any = Bits::none(length);
            self.should.iter().for_each(|condition| any.unite(&condition.passages(columns, length)));
            bits.intersect(&any);
        }
        self.must_not.iter().for_each(|condition| bits.subtract(&condition.passages(columns, length)));
        bits
    }
}

impl Condition {
    fn admits(&self, payload: &Map<String, Value>) -> bool {
        let any = |wanted: &str, is: &dyn Fn(&Value) -> bool| {
            let mut found = false;
            leaves(payload, &mut |path, value| found |= path == wanted && is(value));
            found
        };
        match self {
            Condition::Nested(filter) => filter.admits(payload),
            Condition::Any { path, values } => any(path, &|value| {
                values.iter().any(|wanted| match wanted.as_f64() {
                    Some(wanted) => value.as_f64() == Some(wanted),
                    None => value == wanted,
                })
            }),
            Condition::Range { path, times, bounds } => any(path, &|value| {
                let number = if *times { value.as_str().and_then(seconds) } else { value.as_f64() };
                number.is_some_and(|number| bounds.hold(number))
            }),
            Condition::Empty { path } => !any(path, &|_| true),
        }
    }

    fn passages(&self, columns: Option<&ArchivedColumns>, length: usize) -> Bits {
        let mut bits = Bits::none(length);
        match self {
            Condition::Nested(filter) => return filter.passages(columns, length),
            Condition::Any { path, values } => {
                let Some(column) = column(columns, path) else { return bits };
                for value in values {
                    match value.as_f64() {
                        Some(number) => {
                            let exactly = Bounds { low: number, low_open: false, high: number, high_open: false };
                            exactly.within(&column.numbers, &mut bits);
                        }
                        None => {
                            let written = value.to_string();
                            let found = column.words.binary_search_by(|word| word.value.as_str().cmp(&written));
                            let word = found.ok().and_then(|place| column.words.get(place));
                            word.iter()
                                .flat_map(|word| word.passages.iter())
                                .for_each(|number| bits.insert(number.to_native()));
                        }
                    }
                }
            }
            Condition::Range { path, times, bounds } => {
                if let Some(column) = column(columns, path) {
                    bounds.within(if *times { &column.times } else { &column.numbers }, &mut bits);
                }
            }
            Condition::Empty { path } => {
                bits = Bits::all(length);
                if let Some(column) = column(columns, path) {
                    let mut present = Bits::none(length);
                    let words = column.words.iter().flat_map(|word| word.passages.iter());
                    words.for_each(|number| present.insert(number.to_native()));
                    column.numbers.iter().for_each(|at| present.insert(at.passage.to_native()));
                    bits.subtract(&present);
                }
            }
        }
        bits
    }
}

fn column<'c>(columns: Option<&'c ArchivedColumns>, path: &str) -> Option<&'c ArchivedColumn> {
    let columns = &columns?.columns;
    let place = columns.binary_search_by(|column| column.path.as_str().cmp(path)).ok()?;
    columns.get(place)
}

impl Bounds {
    fn hold(&self, value: f64) -> bool {
        let above = value > self.low || !self.low_open && value == self.low;
        let below = value < self.high || !self.high_open && value == self.high;
        above && below
    }

    fn within(&self, numbers: &[sluice_segment::ArchivedNumberAt], bits: &mut Bits) {
        let first = numbers.partition_point(|at| {
            let value = at.value.to_native();
            value < self.low || self.low_open && value == self.low
        });
        for at in &numbers[first..] {
            let value = at.value.to_native();
            if value > self.high || self.high_open && value == self.high {
                break;
            }
            bits.insert(at.passage.to_native());
        }
    }
}

fn filter(value: &Value, place: &str, depth: usize, left: &mut usize) -> Result<Filter, String> {
    let members = value.as_object().ok_or_else(|| format!("`{place}` must be an object"))?;
    if depth == MAX_DEPTH {
        return Err(format!("`{place}` stands deeper than {MAX_DEPTH} filters"));
    }
    let mut read = Filter::default();
    for (name, value) in members {
        let place = format!("{place}.{name}");
        let list = match name.as_str() {
            "must" => &mut read.must,
            "should" => &mut read.should,
            "must_not" => &mut read.must_not,
            _ => return Err(format!("`{place}` is unknown; a filter has `must`, `should` and `must_not`")),
        };
        // One condition may stand without a list, as in Qdrant.
        let conditions = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for (number, value) in conditions.iter().enumerate() {
            *left = left.checked_sub(1).ok_or_else(|| format!("a filter has at most {MAX_CONDITIONS} conditions"))?;
            list.push(condition(value, &format!("{place}[{number}]"), depth, left)?);
        }
    }
    Ok(read)
}

fn condition(value: &Value, place: &str, depth: usize, left: &mut usize) -> Result<Condition, String> {
    let members = value.as_object().ok_or_else(|| format!("`{place}` must be an object"))?;
    if ["must", "should", "must_not"].iter().any(|name| members.contains_key(*name)) {
        return filter(value, place, depth + 1, left).map(Condition::Nested);
    }
    let key = |value: &Value, place: &str| {
        value
            .get("key")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| format!("`{place}.key` must be a string"))
    };
    if let Some(empty) = members.get("is_empty") {
        return key(empty, &format!("{place}.is_empty")).map(|path| Condition::Empty { path });
    }
    let path = key(value, place)?;
    let scalar = |value: &Value, place: String| match value {
        Value::String(_) | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
        _ => Err(format!("`{place}` must be a string, a number or a boolean")),
    };
    match (members.get("match"), members.get("range")) {
        (Some(wanted), None) => {
            let list = |name: &str| -> Result<Option<Vec<Value>>, String> {
                let Some(values) = wanted.get(name) else { return Ok(None) };
                let values = values.as_array().ok_or_else(|| format!("`{place}.match.{name}` must be an array"))?;
                values
                    .iter()
                    .map(|value| scalar(value, format!("{place}.match.{name}")))
                    .collect::<Result<_, _>>()
                    .map(Some)
            };
            if let Some(value) = wanted.get("value") {
                return Ok(Condition::Any { path, values: vec![scalar(value, format!("{place}.match.value"))?] });
            }
            if let Some(values) = list("any")? {
                return Ok(Condition::Any { path, values });
            }
            if let Some(values) = list("except")? {
                let empty = Condition::Empty { path: path.clone() };
                return Ok(Condition::Nested(Filter {
                    must_not: vec![Condition::Any { path, values }, empty],
                    ..Filter::default()
                }));
            }
            Err(format!("`{place}.match` needs `value`, `any` or `except`"))
        }
        (None, Some(range)) => {
            let range = range.as_object().ok_or_else(|| format!("`{place}.range` must be an object"))?;
            let mut bounds = Bounds { low: f64::NEG_INFINITY, low_open: false, high: f64::INFINITY, high_open: false };
            let mut times = None;
            for (name, bound) in range {
                let number = bound.as_f64().map(|number| (number, false));
                let time = || bound.as_str().and_then(seconds).map(|time| (time, true));
                let (number, is_time) = number.or_else(time).ok_or_else(|| {
                    format!("`{place}.range.{name}` must be a number, or a time as RFC 3339 writes it")
                })?;
                if times.replace(is_time).is_some_and(|before| before != is_time) {
                    return Err(format!("`{place}.range` mixes numbers and times"));
                }
                match name.as_str() {
                    "gt" => (bounds.low, bounds.low_open) = (number, true),
                    "gte" => (bounds.low, bounds.low_open) = (number, false),
                    "lt" => (bounds.high, bounds.high_open) = (number, true),
                    "lte" => (bounds.high, bounds.high_open) = (number, false),
                    _ => return Err(format!("`{place}.range.{name}` is unknown; use `gt`, `gte`, `lt` and `lte`")),
                }
            }
            let times = times.ok_or_else(|| format!("`{place}.range` is empty"))?;
            Ok(Condition::Range { path, times, bounds })
        }
        _ => Err(format!("`{place}` needs one of `match`, `range`, `is_empty`, or a filter of its own")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Gatherer;
    use serde_json::json;
    use sluice_segment::{Mapped, encode};

    fn matches(condition: Value) -> Vec<u32> {
        let mut gatherer = Gatherer::default();
        let payloads = [
            json!({"lang":"en","meta":{"page":3},"at":"2024-01-01","tags":["a","b"],"draft":true}),
            json!({"lang":"zh","meta":{"page":7},"at":"2024-06-01T10:00:00+02:00","tags":["b"]}),
            json!({"lang":"en","meta":{"page":7.5}}),
            json!({}),
        ];
        for (number, payload) in payloads.iter().enumerate() {
            gatherer.add(number as u32, &payload.to_string());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), encode(&gatherer.finish()).unwrap()).unwrap();
        let columns = Mapped::<sluice_segment::Columns>::open(file.path()).unwrap();
        let filter = Filter::parse(&condition).unwrap();
        let found: Vec<u32> = filter.passages(Some(columns.get()), 4).iter().collect();
        let admitted = payloads.iter().enumerate().filter(|(_, payload)| filter.admits(payload.as_object().unwrap()));
        assert_eq!(found, admitted.map(|(number, _)| number as u32).collect::<Vec<_>>(), "{condition}");
        found
    }

    #[test]
    fn conditions_choose_passages() {
        let must = |condition: Value| matches(json!({"must":[condition]}));
        assert_eq!(matches(json!({})), [0, 1, 2, 3]);
        assert_eq!(must(json!({"key":"lang","match":{"value":"en"}})), [0, 2]);
        assert_eq!(must(json!({"key":"lang","match":{"any":["zh","de"]}})), [1]);
        assert_eq!(must(json!({"key":"lang","match":{"except":["zh"]}})), [0, 2]);
        assert_eq!(must(json!({"key":"tags","match":{"value":"b"}})), [0, 1]);
        assert_eq!(must(json!({"key":"draft","match":{"value":true}})), [0]);
        assert_eq!(must(json!({"key":"meta.page","match":{"value":7}})), [1]);
        assert_eq!(must(json!({"key":"meta.page","range":{"gte":3,"lt":7.5}})), [0, 1]);
        assert_eq!(must(json!({"key":"meta.page","range":{"gt":3}})), [1, 2]);
        assert_eq!(must(json!({"key":"at","range":{"gte":"2024-06-01T08:00:00Z"}})), [1]);
        assert_eq!(must(json!({"key":"at","range":{"gt":"2024-06-01T08:00:00Z"}})), [0u32; 0]);
        assert_eq!(must(json!({"is_empty":{"key":"at"}})), [2, 3]);
        assert_eq!(must(json!({"key":"none","match":{"value":1}})), [0u32; 0]);
        let either = json!([{"key":"lang","match":{"value":"zh"}},{"key":"draft","match":{"value":true}}]);
        assert_eq!(matches(json!({"should":either})), [0, 1]);
        assert_eq!(matches(json!({"must_not":either})), [2, 3]);
        assert_eq!(must(json!({"should":either,"must_not":{"key":"lang","match":{"value":"zh"}}})), [0]);
    }

    #[test]
    fn faults_name_their_place() {
        for (filter, fault) in [
            (json!([]), "`filter` must be an object"),
            (json!({"all":[]}), "`filter.all` is unknown; a filter has `must`, `should` and `must_not`"),
            (json!({"must":[{"match":{"value":1}}]}), "`filter.must[0].key` must be a string"),
            (
                json!({"must":[{"key":"a"}]}),
                "`filter.must[0]` needs one of `match`, `range`, `is_empty`, or a filter of its own",
            ),
            (
                json!({"must":{"key":"a","range":{"gte":"soon"}}}),
                "`filter.must[0].range.gte` must be a number, or a time as RFC 3339 writes it",
            ),
            (
                json!({"must":{"key":"a","range":{"gte":1,"lt":"2024-01-01"}}}),
                "`filter.must[0].range` mixes numbers and times",
            ),
        ] {
            assert_eq!(Filter::parse(&filter).unwrap_err(), fault);
        }
    }
}
