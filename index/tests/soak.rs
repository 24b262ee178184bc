//! Searching while segments are opened, swapped and dropped and their files removed. `SLUICE_SOAK_SWAPS` says how
//! often; `tests/sanitized` runs it with C++ and Rust watched for bad accesses of memory.

#![allow(clippy::unwrap_used)]

use parking_lot::RwLock;
use sluice_index::{Collection, Filter, Library, Query, Ranking, Scope, Segment, SegmentWriter};
use sluice_segment::Passage;
use sluice_text::Embedder;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// More than are searched one by one: their vectors are found in a graph.
const PASSAGES: u64 = 5_000;
const WORDS: [&str; 12] =
    ["river", "money", "water", "loan", "boat", "storm", "harbour", "teacher", "engine", "planet", "music", "garden"];

/// Pseudo-random words that follow from `seed`.
fn sentence(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        WORDS[state as usize % WORDS.len()]
    };
    (0..8).map(word).collect::<Vec<_>>().join(" ")
}

fn build(folder: &Path, number: u64) {
    let embedder = Embedder::shipped().unwrap();
    let mut writer = SegmentWriter::create(folder, embedder.model()).unwrap();
    for sequence in 0..PASSAGES {
        let (document, text) = (format!("{number}-{sequence}"), sentence(number * PASSAGES + sequence));
        let payload = format!("{{\"even\":{}}}", sequence % 2 == 0);
        let passage = Passage {
            sequence,
            print: 0,
            document: &document,
            ordinal: 0,
            title: "",
            heading: "",
            text: &text,
            payload: &payload,
            tokens: 8,
        };
        writer.push(&passage, embedder.embed(&text).as_deref()).unwrap();
    }
    writer.finish().unwrap();
}

/// A segment of a folder of its own, as an edge has it that has just fetched it.
fn opened(from: &Path, number: u64) -> (tempfile::TempDir, Library) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let segment = Segment::open(folder.path(), &number.to_string(), Embedder::shipped().unwrap()).unwrap();
    let mut library = Library::default();
    let version = *blake3::hash(&number.to_le_bytes()).as_bytes();
    library.add([1; 16], "c".into(), Collection::new(vec![Arc::new(segment)], &[number % PASSAGES], version));
    (folder, library)
}

#[test]
fn searches_go_on_while_segments_come_and_go() {
    let swaps = std::env::var("SLUICE_SOAK_SWAPS").map_or(200, |swaps| swaps.parse().unwrap());
    let built: Vec<_> = (0..2)
        .map(|number| {
            let folder = tempfile::tempdir().unwrap();
            build(folder.path(), number);
            folder
        })
        .collect();
    let live = RwLock::new(Arc::new(opened(built[0].path(), 0)));
    let (over, searched) = (AtomicBool::new(false), AtomicU64::new(0));
    let names = ["c".to_owned()];
    let filter = serde_json::json!({ "must": [{ "key": "even", "match": { "value": true } }] });
    let filter = Filter::parse(&filter).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (live, over, searched, names, filter) = (&live, &over, &searched, &names, &filter);
            scope.spawn(move || {
                let embedder = Embedder::shipped().unwrap();
                let mut turn = thread;
                while !over.load(Ordering::Relaxed) {
                    turn += 3;
                    let held = Arc::clone(&live.read());
                    let text = sentence(turn % (2 * PASSAGES));
                    let query = Query::new(Scope::of_tenant([1; 16]), names, &text)
                        .with_ranking(Ranking { vector_weight: (turn % 5) as f32 / 4.0, ..Ranking::default() });
                    let query = if turn % 3 == 0 { query.with_filter(filter.clone()) } else { query };
                    let hits = held.1.search(&query, embedder).hits;
                    assert!(!hits.is_empty());
                    // What was found is read after the library may have been swapped.
                    std::thread::yield_now();
                    for hit in &hits {
                        assert!(hit.passage().unwrap().text.contains(' '));
                    }
                    drop(held);
                    searched.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for swap in 1..=swaps {
            let next = Arc::new(opened(built[swap as usize % 2].path(), swap));
            // The files of the old one go when its last search ends.
            drop(std::mem::replace(&mut *live.write(), next));
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{} searches beside {swaps} swaps", searched.into_inner());
}
