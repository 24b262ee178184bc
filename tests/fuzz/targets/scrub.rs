//! The detector, the restorer and users' patterns: no panic, ranges in order, and an echo restored exactly. The input's
//! first byte is the size of the answer's pieces; its first line may be a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_scrub::{Action, Kind, Restorer, Rules, Series, Vault, find};

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut rules = Rules::of(&Kind::ALL);
    if let Some((pattern, _)) = text.split_once('\n') {
        let _ = rules.add_pattern("OWN", pattern, Action::Replace);
    }
    let mut end = 0;
    for finding in find(text, &rules) {
        assert!(finding.range.start >= end && text.get(finding.range.clone()).is_some());
        end = finding.range.end;
    }
    let mut vault = Vault::default();
    vault.reserve(text);
    let mut sent = String::new();
    let mut at = 0;
    for (range, placeholder) in vault.scrub(text, &rules, Series::Conversation).unwrap_or_default() {
        sent.push_str(&text[at..range.start]);
        sent.push_str(&placeholder);
        at = range.end;
    }
    sent.push_str(&text[at..]);
    let (mut restorer, mut json, mut shown) = (Restorer::text(), Restorer::json(), String::new());
    let mut rest = sent.as_str();
    let mut nested = String::new();
    while !rest.is_empty() {
        let mut cut = usize::from(size).max(1).min(rest.len());
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        restorer.push(&rest[..cut], &vault, &mut shown);
        json.push(&rest[..cut], &vault, &mut nested);
        rest = &rest[cut..];
    }
    restorer.finish(&mut shown);
    json.finish(&mut nested);
    assert_eq!(shown, text);
});
