//! Segments built, opened and searched on real passages.

#![allow(clippy::unwrap_used)]

use sluice_index::{
    Boost, Collection, Decay, Filter, Library, Query, Ranking, Scope, Segment, SegmentWriter, assemble,
};
use sluice_segment::Passage;
use sluice_text::Embedder;
use std::sync::Arc;

/// A passage without what is filled in.
fn passage<'t>(sequence: u64, document: &'t str, title: &'t str, text: &'t str, payload: &'t str) -> Passage<'t> {
    Passage { sequence, print: 0, document, ordinal: 0, title, heading: "", text, payload, tokens: 0 }
}

fn segment<'t>(passages: impl IntoIterator<Item = Passage<'t>>) -> (tempfile::TempDir, Arc<Segment>) {
    let embedder = Embedder::shipped().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(folder.path(), embedder.model()).unwrap();
    for passage in passages {
        let vector = embedder.embed(&sluice_text::searchable(passage.title, "", passage.text));
        writer.push(&passage, vector.as_deref()).unwrap();
    }
    writer.finish().unwrap();
    let opened = Segment::open(folder.path(), "test", embedder).unwrap();
    (folder, Arc::new(opened))
}

fn library(tenant: u8, segments: Vec<Arc<Segment>>, dead: &[u64]) -> Library {
    let mut library = Library::default();
    library.add([tenant; 16], "c".into(), Collection::new(segments, dead, [0; 32]));
    library
}

fn documents(library: &Library, scope: Scope, text: &str) -> Vec<String> {
    found(library, scope, text, Filter::default(), Ranking::default())
        .into_iter()
        .map(|(document, _)| document)
        .collect()
}

fn found(library: &Library, scope: Scope, text: &str, filter: Filter, ranking: Ranking) -> Vec<(String, f32)> {
    let names = ["c".to_owned()];
    let query = Query::new(scope, &names, text).with_filter(filter).with_ranking(ranking);
    let hits = library.search(&query, Embedder::shipped().unwrap());
    assert_eq!(hits.degraded, None);
    hits.hits.iter().map(|hit| (hit.passage().unwrap().document.to_owned(), hit.score)).collect()
}

#[test]
fn words_meaning_and_chinese_are_found_within_a_scope() {
    let (_a, first) = segment([
        passage(1, "refund", "Refunds", "You can return a purchase within thirty days and get your money back.", ""),
        passage(2, "ship", "Shipping", "Parcels leave the warehouse on weekdays before noon.", ""),
        passage(3, "beijing", "北京", "北京的冬天寒冷干燥，夏天炎热多雨。", ""),
        passage(4, "emoji", "", "🙂🙂", ""),
    ]);
    let (_b, other) = segment([passage(1, "secret", "Refunds", "Another tenant's refund secrets.", "")]);
    let (one, two) = (Scope::of_tenant([1; 16]), Scope::of_tenant([2; 16]));
    let mut library = library(1, vec![first], &[]);
    library.add([2; 16], "c".into(), Collection::new(vec![other], &[], [0; 32]));
    assert_eq!(documents(&library, one, "refunds for returned purchases")[0], "refund");
    assert_eq!(documents(&library, one, "北京冬天冷吗")[0], "beijing");
    assert_eq!(documents(&library, one, "delivery of packages")[0], "ship");
    assert!(documents(&library, one, "refund secrets tenant").iter().all(|id| id != "secret"));
    assert_eq!(documents(&library, two, "refund"), ["secret"]);
    let names = ["c".to_owned()];
    let nobody = Query::new(Scope::of_tenant([3; 16]), &names, "refund");
    assert!(library.search(&nobody, Embedder::shipped().unwrap()).hits.is_empty());
}

/// Sentences over a small vocabulary, different every time.
fn sentences(count: usize) -> Vec<String> {
    const WORDS: [&str; 16] = [
        "river", "bank", "money", "water", "loan", "fish", "boat", "credit", "storm", "harbour", "teacher", "school",
        "engine", "planet", "music", "garden",
    ];
    let mut state = 7u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 33) as usize % WORDS.len()]
    };
    (0..count).map(|_| (0..12).map(|_| next()).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn many_segments_answer_as_one_and_what_is_gone_is_not_found() {
    let texts = sentences(300);
    let ids: Vec<String> = (0..texts.len()).map(|number| format!("d{number:03}")).collect();
    let payloads: Vec<String> = (0..texts.len()).map(|number| format!("{{\"part\":{}}}", number % 5)).collect();
    let of = |range: std::ops::Range<usize>| {
        segment(range.map(|number| passage(number as u64 + 1, &ids[number], "", &texts[number], &payloads[number])))
    };
    let (_w, whole) = of(0..300);
    let pieces: Vec<_> = [0..200, 200..280, 280..297, 297..300].map(of).into_iter().collect();
    let parts: Vec<_> = pieces.iter().map(|(_, segment)| Arc::clone(segment)).collect();
    let scope = Scope::of_tenant([1; 16]);
    let dead: Vec<u64> = (0..300).filter(|number| number % 7 == 0).map(|number| number + 1).collect();
    let part =
        |number: usize| Filter::parse(&serde_json::json!({"must":{"key":"part","match":{"value":number}}})).unwrap();
    let nested = |number: usize| {
        let one = serde_json::json!({"must":{"key":"part","match":{"value":number}}});
        Filter::parse(&serde_json::json!({"must":[one, one]})).unwrap()
    };
    // Exact cosines come from the same vectors, so both ways give the same scores.
    for dead in [&[][..], &dead] {
        let one = library(1, vec![Arc::clone(&whole)], dead);
        let many = library(1, parts.clone(), dead);
        for (question, filter) in
            [("money bank loan", Filter::default()), ("music school teacher", part(3)), ("storm harbour", nested(0))]
        {
            let (left, right) = (
                found(&one, scope, question, filter.clone(), Ranking::default()),
                found(&many, scope, question, filter.clone(), Ranking::default()),
            );
            assert!(left.len() >= 50, "{question}: {}", left.len());
            let mut right: Vec<_> = right;
            for (document, score) in &left {
                let place = right.iter().position(|(other, _)| other == document);
                let (_, other) = right.remove(place.unwrap_or_else(|| panic!("{question}: {document} is missing")));
                assert!((score - other).abs() < 1e-4, "{question}: {document} {score} {other}");
            }
            assert!(right.is_empty());
            for (document, _) in &left {
                let number: u64 = document[1..].parse().unwrap();
                assert!(!dead.contains(&(number + 1)), "{document} is gone");
                if filter != Filter::default() {
                    assert_eq!(number % 5, if question.starts_with("music") { 3 } else { 0 });
                }
            }
        }
    }
}

#[test]
fn diversity_moves_repetition_down() {
    let (_folder, segment) = segment([
        passage(1, "a1", "", "refund money for a returned purchase within thirty days", ""),
        passage(2, "a2", "", "refund money for a returned purchase in thirty days", ""),
        passage(3, "b", "", "refund requests need the receipt and a bank account", ""),
    ]);
    let library = library(1, vec![segment], &[]);
    let ask = |diversity| {
        let ranking = Ranking { diversity, ..Ranking::default() };
        let hits = found(&library, Scope::of_tenant([1; 16]), "refund money purchase days", Filter::default(), ranking);
        hits.into_iter().map(|(document, _)| document).collect::<Vec<_>>()
    };
    assert_eq!(ask(0.0)[2], "b");
    assert_eq!(ask(0.7)[1], "b");
}

#[test]
fn newer_and_more_important_passages_come_first_where_that_counts() {
    let text = "refund money for a returned purchase within thirty days";
    let (_folder, segment) = segment([
        passage(1, "old", "", text, r#"{"meta":{"at":"2024-01-01"},"importance":0.1}"#),
        passage(2, "new", "", text, r#"{"meta":{"at":"2025-01-01T00:00:00Z"},"importance":0.2}"#),
        passage(3, "vital", "", text, r#"{"importance":1}"#),
        passage(4, "none", "", text, ""),
    ]);
    let library = library(1, vec![segment], &[]);
    let now = 1_735_689_600.0;
    let ask = |boosts: Vec<Boost>| {
        let ranking = Ranking { boosts, ..Ranking::default() };
        found(&library, Scope::of_tenant([1; 16]), "refund purchase", Filter::default(), ranking)
    };
    let order = |boosts| ask(boosts).into_iter().map(|(document, _)| document).collect::<Vec<_>>();
    let decay = Some(Decay { half_life_seconds: 366.0 * 86_400.0, now });
    let recency = || Boost { path: "meta.at".into(), weight: 0.4, decay };
    let importance = || Boost { path: "importance".into(), weight: 0.3, decay: None };
    assert_eq!(order(vec![]), ["old", "new", "vital", "none"], "equal texts stand in their order");
    assert_eq!(order(vec![recency()]), ["new", "old", "vital", "none"]);
    assert_eq!(order(vec![importance()]), ["vital", "new", "old", "none"]);
    let scores = ask(vec![recency(), importance()]);
    let worth = |id: &str| scores.iter().find(|(document, _)| document == id).unwrap().1;
    // Relevance is 1 for all; an age of one half-life is worth a half.
    for (id, expected) in [("new", 0.3 + 0.4 + 0.06), ("old", 0.3 + 0.2 + 0.03), ("vital", 0.3 + 0.3), ("none", 0.3)] {
        assert!((worth(id) - expected).abs() < 1e-3, "{id} {}", worth(id));
    }
}

#[test]
fn a_block_never_exceeds_its_budget_and_repeats_nothing() {
    let texts: Vec<String> =
        sentences(20).into_iter().enumerate().map(|(n, text)| format!("alpha {text} ").repeat(n + 1)).collect();
    let ids: Vec<String> = (0..20).map(|number| format!("d{number}")).collect();
    let copy = texts[3].replace(' ', ", ");
    let mut passages: Vec<_> =
        (0..20).map(|number| passage(number as u64, &ids[number], "T", &texts[number], "")).collect();
    passages.push(passage(20, "copy", "T", &copy, ""));
    let (_folder, segment) = segment(passages);
    let library = library(1, vec![segment], &[]);
    let names = ["c".to_owned()];
    let hits =
        library.search(&Query::new(Scope::of_tenant([1; 16]), &names, "alpha river"), Embedder::shipped().unwrap());
    for budget in [0, 50, 100, 200, 400, 100_000] {
        let block = assemble(&hits.hits, budget, 100);
        assert!(block.tokens <= budget);
        let used = |id: &str| block.used.iter().any(|used| used.document == id);
        assert!(!(used("d3") && used("copy")));
        if let Some(text) = block.text("0123456789abcdef") {
            assert!(sluice_text::count_tokens(&text) <= budget, "{budget}");
            assert_eq!(text.matches("</source>").count(), block.used.len());
        }
    }
    assert_eq!(assemble(&hits.hits, 100_000, 100).repeated, 1);
}
