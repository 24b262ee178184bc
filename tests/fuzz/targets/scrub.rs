//! The detector, the restorer and users' patterns: no panic, ranges in order, and an echo restored exactly. The input's
//! first byte is the size of the answer's pieces; its first line may be a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_scrub::{Action, Kind, Restorer, Rules, Series, Vault, find};
use std::sync::Arc;

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
    if let Some(saved) = vault.saved(&rules, 1 << 20) {
        assert!(Vault::default().remember(&saved, &rules));
    }
    let mut guarded = Vault::default();
    assert!(!guarded.remember(bytes, &rules) || bytes.first() == Some(&1));
    let mut guarded = Vault::default();
    guarded.guard_answers(Arc::new(rules.clone()));
    let (mut guard, mut said) = (Restorer::text(), String::new());
    let (mut restorer, mut json, mut shown) = (Restorer::text(), Restorer::json(), String::new());
    let mut heard = text;
    while !heard.is_empty() {
        let mut cut = usize::from(size).max(1).min(heard.len());
        while !heard.is_char_boundary(cut) {
            cut += 1;
        }
        guard.push(&heard[..cut], &guarded, &mut said);
        heard = &heard[cut..];
    }
    guard.finish(&guarded, &mut said);
    if guarded.answer_counts().is_empty() {
        assert_eq!(said, text);
    }
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
    restorer.finish(&vault, &mut shown);
    json.finish(&vault, &mut nested);
    assert_eq!(shown, text);
});
