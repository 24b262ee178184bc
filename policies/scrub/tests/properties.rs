//! What holds for any text: what was scrubbed is restored exactly however the answer is cut, placeholders are left
//! alone, nothing that was found leaves, and time grows with the text and not faster.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sluice_scrub::{Kind, Restorer, Rules, Series, Vault, find};
use std::ops::Range;
use std::time::Instant;

fn rules() -> Rules {
    Rules::of(&Kind::ALL)
}

fn apply(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (range, replacement) in edits {
        out.push_str(&text[at..range.start]);
        out.push_str(replacement);
        at = range.end;
    }
    out + &text[at..]
}

fn scrub(vault: &mut Vault, text: &str) -> String {
    let edits = vault.scrub(text, &rules(), Series::Conversation).unwrap();
    apply(text, &edits)
}

/// Words of a text that may hold anything: values of many kinds, what looks like them, and what surrounds them.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,5}(\\+[a-z])?@[a-z]{1,4}\\.(com|org|中国)",
        "(\\+1 |\\+86-)?[2-9][0-9]{2}[-. ][2-9][0-9]{2}[-. ][0-9]{4}",
        "1[3-9][0-9]{9}",
        Just("4111 1111 1111 1111".to_owned()),
        Just("GB82 WEST 1234 5698 7654 32".to_owned()),
        Just("11010519491231002X".to_owned()),
        Just("sk-proj-ZsC23q8rENMhCXZIESS9GSqu4SSAVo5f".to_owned()),
        Just("password: \"s3cr3t\\n<EMAIL_1>\"".to_owned()),
        Just("postgres://u:p4ss@h.example/db".to_owned()),
        Just("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----".to_owned()),
        Just("出生日期：1990年1月2日".to_owned()),
        Just("2001:db8:a247::1f1f".to_owned()),
        "<(EMAIL|PHONE|SECRET)_K?[0-9]{1,2}>?",
        "[0-9０-９.:()/+@_\\-\u{200b}\u{a0}]{1,20}",
        "(SSN|passport no\\.|护照号|account|born|订单号|order)[ :]{0,2}",
        "[ a-zA-Z<>&\"\\\\é漢，。\n]{0,8}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    (proptest::collection::vec(word(), 0..12), prop_oneof![Just(" "), Just(""), Just("，"), Just("\n")])
        .prop_map(|(words, joint)| words.join(joint))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn findings_are_in_order_apart_and_on_character_borders(text in text()) {
        let mut end = 0;
        for finding in find(&text, &rules()) {
            prop_assert!(finding.range.start >= end && finding.range.end > finding.range.start);
            prop_assert!(text.get(finding.range.clone()).is_some());
            prop_assert!((0.0..=1.0).contains(&finding.score));
            end = finding.range.end;
        }
    }

    #[test]
    fn an_echo_is_restored_exactly_in_any_pieces(text in text(), cuts in proptest::collection::vec(0usize..400, 0..8)) {
        let mut vault = Vault::default();
        vault.reserve(&text);
        let sent = scrub(&mut vault, &text);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| sent.is_char_boundary(*cut)).collect();
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let mut restorer = Restorer::text();
        let mut shown = String::new();
        for pair in cuts.windows(2) {
            restorer.push(&sent[pair[0]..pair[1]], &vault, &mut shown);
        }
        restorer.finish(&vault, &mut shown);
        prop_assert_eq!(shown, text);
    }

    #[test]
    fn what_was_found_does_not_leave_and_placeholders_are_not_scrubbed_again(text in text()) {
        let mut vault = Vault::default();
        vault.reserve(&text);
        let sent = scrub(&mut vault, &text);
        let originals: Vec<&str> = find(&text, &rules()).into_iter().map(|finding| &text[finding.range]).collect();
        for finding in find(&sent, &rules()) {
            // Taking one value away may bring to light another; a placeholder itself is never one.
            let again = &sent[finding.range.clone()];
            prop_assert!(!originals.contains(&again) || text.matches(again).count() > originals.iter().filter(|known| **known == again).count(), "{again:?} of {sent:?}");
            prop_assert!(!again.contains("_1>") || text.contains("_1>"), "{again:?} of {sent:?}");
        }
    }
}

/// Inputs that make a careless detector look at every byte again and again.
const HOSTILE: [(&str, &str); 16] = [
    ("digits", "1"),
    ("digits and blanks", "1 "),
    ("at signs", "a@"),
    ("quoted at signs", "\"@"),
    ("schemes", "a://"),
    ("credentials without end", "a://b:"),
    ("private keys without end", "-----BEGIN PRIVATE KEY-----\n"),
    ("certificates", "-----BEGIN X-----\n-----END "),
    ("bearers", "Bearer aB1 "),
    ("keys", "key "),
    ("statements", "VALUES (1, A1B2"),
    ("colons", "1:"),
    ("passwords", "password="),
    ("tables", "1,\n"),
    ("dots", "1."),
    ("mixed", "+1-(2)3.a@b:4/５中 "),
];

#[test]
fn time_grows_with_the_text_and_not_faster() {
    println!("{:<26} {:>10} {:>10} {:>10} {:>10}", "ns a byte at", "1 KB", "10 KB", "100 KB", "1 MB");
    for (name, part) in HOSTILE {
        let measured = || {
            [1_000, 10_000, 100_000, 1_000_000].map(|size| {
                let text = part.repeat(size / part.len() + 1);
                let best = (0..3).map(|_| {
                    let begun = Instant::now();
                    std::hint::black_box(find(&text, &rules()));
                    begun.elapsed().as_nanos() as f64 / text.len() as f64
                });
                best.fold(f64::MAX, f64::min)
            })
        };
        // Ten times as long costs ten times as much; what is allowed beyond is a busy machine's.
        let fair = |costs: &[f64; 4]| costs[3] <= costs[1] * 4.0 + 20.0 && costs[3] <= 2_000.0;
        let mut costs = measured();
        for _ in 0..4 {
            if !fair(&costs) {
                costs = measured();
            }
        }
        println!("{name:<26} {:>10.1} {:>10.1} {:>10.1} {:>10.1}", costs[0], costs[1], costs[2], costs[3]);
        assert!(fair(&costs), "{name}: {costs:?}");
    }
}
