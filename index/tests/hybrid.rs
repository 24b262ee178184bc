//! Segments built, opened and searched on real passages.

#![allow(clippy::unwrap_used)]

use sluice_index::{Library, Query, Scope, Segment, assemble, build_segment};
use sluice_segment::Passage;
use sluice_text::Embedder;
use std::sync::Arc;

fn passage(document: &str, title: &str, text: &str) -> Passage {
    Passage {
        document: document.into(),
        ordinal: 0,
        title: title.into(),
        heading: String::new(),
        text: text.into(),
        tokens: 0,
    }
}

fn segment(passages: Vec<Passage>) -> (tempfile::TempDir, Arc<Segment>) {
    let embedder = Embedder::shipped().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let vectors: Vec<_> = passages.iter().map(|passage| embedder.embed(&passage.text)).collect();
    build_segment(folder.path(), passages, &vectors, embedder).unwrap();
    let opened = Segment::open(folder.path(), "test", embedder).unwrap();
    (folder, Arc::new(opened))
}

fn documents(library: &Library, scope: Scope, text: &str) -> Vec<String> {
    let names = ["c".to_owned()];
    let hits = library.search(&Query::new(scope, &names, text), Embedder::shipped().unwrap());
    hits.hits.iter().map(|hit| hit.passage().unwrap().document.as_str().to_owned()).collect()
}

#[test]
fn words_meaning_and_chinese_are_found_within_a_scope() {
    let (_a, first) = segment(vec![
        passage("refund", "Refunds", "You can return a purchase within thirty days and get your money back."),
        passage("ship", "Shipping", "Parcels leave the warehouse on weekdays before noon."),
        passage("beijing", "北京", "北京的冬天寒冷干燥，夏天炎热多雨。"),
        passage("emoji", "", "🙂🙂"),
    ]);
    let (_b, other) = segment(vec![passage("secret", "Refunds", "Another tenant's refund secrets.")]);
    let (one, two) = (Scope::of_tenant([1; 16]), Scope::of_tenant([2; 16]));
    let mut library = Library::default();
    library.add([1; 16], "c".into(), vec![first]);
    library.add([2; 16], "c".into(), vec![other]);
    assert_eq!(documents(&library, one, "refunds for returned purchases")[0], "refund");
    assert_eq!(documents(&library, one, "北京冬天冷吗")[0], "beijing");
    assert_eq!(documents(&library, one, "delivery of packages")[0], "ship");
    assert!(documents(&library, one, "refund secrets tenant").iter().all(|id| id != "secret"));
    assert_eq!(documents(&library, two, "refund"), ["secret"]);
    assert!(documents(&library, Scope::of_tenant([3; 16]), "refund").is_empty());
}

#[test]
fn a_block_never_exceeds_its_budget() {
    let passages =
        (0..20).map(|index| passage(&format!("d{index}"), "T", &"alpha beta gamma ".repeat(index + 1))).collect();
    let (_folder, segment) = segment(passages);
    let mut library = Library::default();
    library.add([1; 16], "c".into(), vec![segment]);
    let names = ["c".to_owned()];
    let hits =
        library.search(&Query::new(Scope::of_tenant([1; 16]), &names, "alpha gamma"), Embedder::shipped().unwrap());
    for budget in [0, 50, 100, 200, 400] {
        let block = assemble(&hits.hits, budget, 100);
        assert!(block.tokens <= budget);
        if let Some(text) = block.text("0123456789abcdef") {
            assert!(sluice_text::count_tokens(&text) <= budget, "{budget}");
            assert_eq!(text.matches("</source>").count(), block.used.len());
        }
    }
}
