//! Random histories of writes, removals and swaps against a model: no query returns what another scope holds or what is
//! gone, and everything that is there can be found.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sluice_index::{Collection, Filter, Library, PRIVATE, Query, Ranking, Scope, Segment, SegmentWriter, SubjectMark};
use sluice_segment::Passage;
use sluice_text::Embedder;
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMES: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Step {
    Put {
        place: Place,
        document: u8,
    },
    Remove {
        place: Place,
        document: u8,
    },
    /// What was put since becomes a segment.
    Publish,
    /// All segments of a collection become one, without what is gone.
    Compact {
        tenant: u8,
        collection: usize,
        private: bool,
    },
    Ask {
        tenant: u8,
        subject: u8,
        word: u8,
        part: Option<u8>,
    },
}

/// Where a document is: tenant, collection, and whose alone it is; 0 is everybody's.
type Place = (u8, usize, u8);

/// What a subject of a tenant is called; equal names of two tenants are two subjects.
fn subject(number: u8) -> String {
    format!("user-{number}")
}

fn scope(tenant: u8, number: u8) -> Scope {
    let scope = Scope::of_tenant([tenant; 16]);
    if number == 0 { scope } else { scope.with_subject(&subject(number)) }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || ((0u8..3, 0usize..2, 0u8..3), 0u8..12);
    let step = prop_oneof![
        4 => place().prop_map(|(place, document)| Step::Put { place, document }),
        2 => place().prop_map(|(place, document)| Step::Remove { place, document }),
        2 => Just(Step::Publish),
        1 => (0u8..3, 0usize..2, any::<bool>()).prop_map(|(tenant, collection, private)| Step::Compact { tenant, collection, private }),
        4 => (0u8..4, 0u8..4, 0u8..12, prop::option::of(0u8..3)).prop_map(|(tenant, subject, word, part)| Step::Ask { tenant, subject, word, part }),
    ];
    prop::collection::vec(step, 1..40)
}

/// A collection as a store holds it.
#[derive(Default)]
struct Shelf {
    /// Owner and document, its sequence number and text.
    documents: BTreeMap<(u8, u8), (u64, String)>,
    next: u64,
    covered: u64,
    segments: Vec<Arc<Segment>>,
    dead: Vec<u64>,
}

impl Shelf {
    fn segment(&self, tenant: u8, after: u64) -> Option<Arc<Segment>> {
        let mut rows: Vec<_> = self.documents.iter().filter(|(_, (sequence, _))| *sequence > after).collect();
        rows.sort_by_key(|(_, (sequence, _))| *sequence);
        if rows.is_empty() {
            return None;
        }
        let embedder = Embedder::shipped().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::create(folder.path(), embedder.model()).unwrap();
        for ((owner, document), (sequence, text)) in rows {
            let mut payload = serde_json::json!({ "part": document % 3 });
            if *owner > 0 {
                let mark = SubjectMark::of(&[tenant; 16], &subject(*owner)).to_string();
                payload[SubjectMark::MEMBER] = mark.into();
            }
            let (id, payload) = (document.to_string(), payload.to_string());
            let passage = Passage {
                sequence: *sequence,
                print: 0,
                document: &id,
                ordinal: 0,
                title: "",
                heading: "",
                text,
                payload: &payload,
                tokens: 0,
            };
            writer.push(&passage, embedder.embed(text).as_deref()).unwrap();
        }
        writer.finish().unwrap();
        // What is mapped stays readable when its folder goes.
        Some(Arc::new(Segment::open(folder.path(), "s", embedder).unwrap()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_history_shows_what_is_not_there(steps in steps()) {
        // What belongs to subjects is published as a collection of its own.
        let mut shelves: BTreeMap<(u8, usize, bool), Shelf> = BTreeMap::new();
        // What the edge believes, which changes only by a swap.
        let mut library = Library::default();
        let mut believed: BTreeMap<(Place, u8), String> = BTreeMap::new();
        let mut version = 0u32;
        for step in steps {
            match step {
                Step::Put { place: (tenant, collection, owner), document } => {
                    version += 1;
                    let shelf = shelves.entry((tenant, collection, owner > 0)).or_default();
                    if let Some((sequence, _)) = shelf.documents.remove(&(owner, document)) {
                        shelf.dead.push(sequence);
                    }
                    shelf.next += 1;
                    let text = format!("subject{document} belongs to tenant{tenant}x owner{owner}x shelf{collection}x edition{version}x");
                    shelf.documents.insert((owner, document), (shelf.next, text));
                }
                Step::Remove { place: (tenant, collection, owner), document } => {
                    let shelf = shelves.entry((tenant, collection, owner > 0)).or_default();
                    if let Some((sequence, _)) = shelf.documents.remove(&(owner, document)) {
                        shelf.dead.push(sequence);
                    }
                }
                Step::Compact { tenant, collection, private } => {
                    let shelf = shelves.entry((tenant, collection, private)).or_default();
                    shelf.segments = shelf.segment(tenant, 0).into_iter().collect();
                    shelf.covered = shelf.next;
                    shelf.dead.clear();
                }
                Step::Publish => {
                    library = Library::default();
                    believed.clear();
                    for ((tenant, collection, private), shelf) in &mut shelves {
                        shelf.segments.extend(shelf.segment(*tenant, shelf.covered));
                        shelf.covered = shelf.next;
                        shelf.dead.sort_unstable();
                        let made = Collection::new(shelf.segments.clone(), &shelf.dead, [0; 32]);
                        prop_assert_eq!(made.len(), shelf.documents.len());
                        let end = if *private { PRIVATE } else { "" };
                        library.add([*tenant; 16], format!("{}{end}", NAMES[*collection]), made);
                        for ((owner, document), (_, text)) in &shelf.documents {
                            believed.insert(((*tenant, *collection, *owner), *document), text.clone());
                        }
                    }
                }
                Step::Ask { tenant, subject, word, part } => {
                    // Nobody reaches what is private by naming where it is kept.
                    let names = [NAMES[0].to_owned(), NAMES[1].to_owned(), format!("{}{PRIVATE}", NAMES[0])];
                    // A question that names another tenant's and another subject's words as well finds none of theirs.
                    let question = format!("subject{word} tenant0x tenant1x tenant2x owner1x owner2x edition{version}x");
                    let filter = part.map(|part| serde_json::json!({"must":{"key":"part","match":{"value":part}}}));
                    let filter = filter.map(|filter| Filter::parse(&filter).unwrap()).unwrap_or_default();
                    let query = Query::new(scope(tenant, subject), &names, &question).with_filter(filter);
                    let query = query.with_ranking(Ranking { depth: 200, ..Ranking::default() });
                    let hits = library.search(&query, Embedder::shipped().unwrap());
                    let mut found = Vec::new();
                    for hit in &hits.hits {
                        let passage = hit.passage().unwrap();
                        let document: u8 = passage.document.parse().unwrap();
                        let owner = if hit.private { subject } else { 0 };
                        let place = ((tenant, hit.collection, owner), document);
                        prop_assert_eq!(believed.get(&place).map(String::as_str), Some(passage.text));
                        prop_assert!(part.is_none_or(|part| document % 3 == part));
                        prop_assert!(!found.contains(&place));
                        found.push(place);
                    }
                    // Every text of the tenant holds a word of the question.
                    let wanted = believed.keys().filter(|((whose, _, owner), document)| {
                        *whose == tenant
                            && (*owner == 0 || *owner == subject)
                            && part.is_none_or(|part| document % 3 == part)
                    });
                    prop_assert_eq!(found.len(), wanted.count());
                }
            }
        }
    }
}
