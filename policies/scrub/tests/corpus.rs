//! How well personal data is found: precision, recall and F per kind on the labelled corpus, and the bars.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sluice_scrub::{Kind, Rules, find};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

struct Line {
    id: String,
    lang: String,
    text: String,
    entities: Vec<(String, Range<usize>)>,
}

/// The corpus, with offsets in characters as it gives them.
fn corpus() -> Vec<Line> {
    let lines = include_str!("corpus/dev.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            let string = |name: &str| line[name].as_str().unwrap().to_owned();
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let entities = line["entities"].as_array().unwrap().iter();
            let entities = entities.map(|entity| {
                (entity["type"].as_str().unwrap().to_owned(), number(&entity["start"])..number(&entity["end"]))
            });
            Line { id: string("id"), lang: string("lang"), text: string("text"), entities: entities.collect() }
        })
        .collect()
}

/// What is found, in characters.
fn found(text: &str) -> Vec<(String, Range<usize>)> {
    let place = |byte: usize| text[..byte].chars().count();
    find(text, &Rules::of(&Kind::ALL))
        .into_iter()
        .map(|finding| (finding.kind.name().to_owned(), place(finding.range.start)..place(finding.range.end)))
        .collect()
}

fn is_core(kind: &str) -> bool {
    !matches!(kind, "PERSON" | "ADDRESS")
}

/// True positives, findings, labels.
#[derive(Default, Clone, Copy)]
struct Count {
    right: usize,
    found: usize,
    labelled: usize,
}

impl Count {
    fn precision(&self) -> f64 {
        self.right as f64 / self.found.max(1) as f64
    }

    fn recall(&self) -> f64 {
        self.right as f64 / self.labelled.max(1) as f64
    }

    fn f(&self, beta: f64) -> f64 {
        let (precision, recall) = (self.precision(), self.recall());
        let square = beta * beta;
        if precision + recall == 0.0 {
            0.0
        } else {
            (1.0 + square) * precision * recall / (square * precision + recall)
        }
    }
}

fn overlaps(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[test]
fn the_corpus_is_found_as_well_as_promised() {
    let mut strict: BTreeMap<String, Count> = BTreeMap::new();
    let mut by_language: BTreeMap<String, Count> = BTreeMap::new();
    let mut loose = Count::default();
    let (mut leaked, mut personal, mut clean, mut alarmed) = (0, 0, 0, 0);
    let verbose = std::env::var("SCRUB_ERRORS").unwrap_or_default();
    for line in corpus() {
        let found = found(&line.text);
        let core_found: Vec<_> = found.iter().filter(|(kind, _)| is_core(kind)).collect();
        let core_labels: Vec<_> = line.entities.iter().filter(|(kind, _)| is_core(kind)).collect();
        for (kind, range) in &found {
            let right = line.entities.iter().any(|(label, place)| label == kind && place == range);
            let count = strict.entry(kind.clone()).or_default();
            count.found += 1;
            count.right += usize::from(right);
            if !right && is_core(kind) && !verbose.is_empty() {
                let text: String =
                    line.text.chars().skip(range.start.saturating_sub(25)).take(range.len() + 40).collect();
                println!("FALSE {} {kind} {:?} in {text:?}", line.id, slice(&line.text, range));
            }
        }
        for (kind, range) in &line.entities {
            strict.entry(kind.clone()).or_default().labelled += 1;
            let hit = found.iter().any(|(other, place)| other == kind && place == range);
            if !hit && is_core(kind) && !verbose.is_empty() {
                let text: String =
                    line.text.chars().skip(range.start.saturating_sub(25)).take(range.len() + 40).collect();
                println!("MISSED {} {kind} {:?} in {text:?}", line.id, slice(&line.text, range));
            }
        }
        let language = by_language.entry(line.lang.clone()).or_default();
        language.found += core_found.len();
        language.labelled += core_labels.len();
        language.right += core_found.iter().filter(|found| core_labels.contains(found)).count();
        loose.found += core_found.len();
        loose.labelled += core_labels.len();
        loose.right += core_labels
            .iter()
            .filter(|(kind, range)| core_found.iter().any(|(other, place)| other == kind && overlaps(range, place)))
            .count();
        let covered: BTreeSet<usize> = found.iter().flat_map(|(_, range)| range.clone()).collect();
        let secret: Vec<usize> = core_labels.iter().flat_map(|(_, range)| range.clone()).collect();
        personal += secret.len();
        leaked += secret.iter().filter(|place| !covered.contains(place)).count();
        if line.entities.is_empty() {
            clean += 1;
            alarmed += usize::from(!found.is_empty());
        }
    }
    println!("{:<16} {:>6} {:>6} {:>6} {:>6} {:>6}", "kind", "P", "R", "F1", "found", "labels");
    let mut micro = Count::default();
    for (kind, count) in &strict {
        let (precision, recall, f1) = (count.precision(), count.recall(), count.f(1.0));
        println!("{kind:<16} {precision:>6.3} {recall:>6.3} {f1:>6.3} {:>6} {:>6}", count.found, count.labelled);
        if is_core(kind) {
            micro.right += count.right;
            micro.found += count.found;
            micro.labelled += count.labelled;
        }
    }
    let leak = leaked as f64 / personal as f64;
    let alarms = alarmed as f64 / clean as f64;
    println!("core, strict: F1 {:.4}", micro.f(1.0));
    for (language, count) in &by_language {
        println!("core, strict, {language}: F1 {:.4}", count.f(1.0));
    }
    println!("core, overlap: F2 {:.4}", loose.f(2.0));
    println!("personal characters left uncovered: {:.2} %", leak * 100.0);
    println!("lines without any on which something is reported: {:.2} % of {clean}", alarms * 100.0);
    assert!(micro.f(1.0) >= 0.95, "strict micro F1");
    assert!(by_language["zh"].f(1.0) >= 0.95, "strict micro F1 in Chinese");
    assert!(loose.f(2.0) >= 0.97, "overlap F2");
    for kind in ["CREDIT_CARD", "IBAN", "CN_ID", "CN_USCC", "CRYPTO_ADDRESS"] {
        assert!(strict[kind].f(1.0) >= 0.97, "{kind}");
    }
    assert!(leak <= 0.02, "leaked characters");
    assert!(alarms <= 0.01, "false alarms");
}

fn slice(text: &str, range: &Range<usize>) -> String {
    text.chars().skip(range.start).take(range.len()).collect()
}
