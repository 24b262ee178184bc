//! One opened segment.

use crate::build::vector_options;
use parking::Gate;
use sluice_segment::{ArchivedPassage, FormatError, Mapped, Passages};
use sluice_text::{ANALYSER_ID, Embedder, analyser};
use std::path::{Path, PathBuf};
use tantivy::collector::TopDocs;
use tantivy::directory::MmapDirectory;
use tantivy::query::{BooleanQuery, Occur, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, ReloadPolicy, Searcher, Term};

/// File names in a segment's folder; the rest are tantivy's, which [`LEXICAL`] lists.
pub(crate) const PASSAGES: &str = "passages";
pub(crate) const VECTORS: &str = "vectors.usearch";
/// tantivy's `meta.json`.
pub(crate) const LEXICAL: &str = "meta.json";

const TOKENIZER: &str = "sluice";

/// Most terms of a query; the rarest are kept, as the cost of BM25 grows with every term and its frequency.
const MAX_TERMS: usize = 32;

/// A segment that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("cannot open the lexical index in {path}")]
    Lexical { path: PathBuf, source: tantivy::TantivyError },
    #[error("cannot open the vectors in {path}: {reason}")]
    Vectors { path: PathBuf, reason: String },
    #[error("{path} was built with {what} `{found}`, this program has `{known}`; publish again with this version")]
    Foreign { path: PathBuf, what: &'static str, found: String, known: String },
    #[error("the parts of {path} disagree: {passages} passages, {lexical} in the lexical index")]
    Disagree { path: PathBuf, passages: usize, lexical: u64 },
}

/// An immutable part of a collection, memory-mapped.
pub struct Segment {
    id: String,
    passages: Mapped<Passages>,
    searcher: Searcher,
    text: Field,
    vectors: usearch::Index,
    vector_count: usize,
    /// usearch has one slot a core for concurrent searches and fails beyond.
    gate: Gate,
}

pub(crate) fn schema() -> (Schema, Field) {
    let mut builder = Schema::builder();
    // Frequencies but no positions: there are no phrase queries.
    let indexing = TextFieldIndexing::default().set_tokenizer(TOKENIZER).set_index_option(IndexRecordOption::WithFreqs);
    let text = builder.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
    (builder.build(), text)
}

pub(crate) fn tokenizers() -> TokenizerManager {
    let manager = TokenizerManager::default();
    manager.register(TOKENIZER, analyser());
    manager
}

impl Segment {
    /// Maps the segment in `folder`, checks that its parts belong together and were built by this program's models,
    /// and runs a first query, so that the first request does not pay for page faults.
    pub fn open(folder: &Path, id: &str, embedder: &Embedder) -> Result<Segment, OpenError> {
        let passages = Mapped::<Passages>::open(&folder.join(PASSAGES))?;
        let table = passages.get();
        for (what, found, known) in
            [("analyser", table.analyser.as_str(), ANALYSER_ID), ("embedder", table.embedder.as_str(), embedder.id())]
        {
            if found != known {
                return Err(OpenError::Foreign {
                    path: folder.to_owned(),
                    what,
                    found: found.to_owned(),
                    known: known.to_owned(),
                });
            }
        }
        let lexical = |source| OpenError::Lexical { path: folder.to_owned(), source };
        let directory = MmapDirectory::open(folder).map_err(|error| lexical(error.into()))?;
        let mut index = Index::open(directory).map_err(lexical)?;
        index.set_tokenizers(tokenizers());
        let (_, text) = schema();
        let searcher =
            index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(lexical)?.searcher();
        if searcher.num_docs() != table.passages.len() as u64 || searcher.segment_readers().len() > 1 {
            return Err(OpenError::Disagree {
                path: folder.to_owned(),
                passages: table.passages.len(),
                lexical: searcher.num_docs(),
            });
        }
        let path = folder.join(VECTORS);
        let failed = |reason: String| OpenError::Vectors { path: path.clone(), reason };
        let vectors =
            usearch::Index::new(&vector_options(embedder.dimensions())).map_err(|error| failed(error.to_string()))?;
        vectors.view(&path.to_string_lossy()).map_err(|error| failed(error.to_string()))?;
        if vectors.dimensions() != embedder.dimensions() {
            return Err(failed(format!("{} dimensions", vectors.dimensions())));
        }
        vectors.change_expansion_search(64);
        let vector_count = vectors.size();
        let segment =
            Segment { id: id.to_owned(), passages, searcher, text, vectors, vector_count, gate: Gate::of_cores() };
        segment.warm(embedder);
        Ok(segment)
    }

    fn warm(&self, embedder: &Embedder) {
        let Some(first) = self.passages.get().passages.first() else { return };
        let text: String = first.text.chars().take(200).collect();
        let terms = sluice_text::QueryAnalyser::new().terms(&text);
        let _ = self.lexical(&terms, 10);
        if let Some(vector) = embedder.embed(&text) {
            let _ = self.nearest(&vector, 10);
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many passages it holds.
    pub fn len(&self) -> usize {
        self.passages.get().passages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn passage(&self, number: u32) -> Option<&ArchivedPassage> {
        self.passages.get().passages.get(number as usize)
    }

    /// BM25 over any of `terms`: passage numbers and scores, best first.
    pub(crate) fn lexical(&self, terms: &[String], limit: usize) -> Result<Vec<(u32, f32)>, tantivy::TantivyError> {
        let mut terms: Vec<Term> = terms.iter().map(|term| Term::from_field_text(self.text, term)).collect();
        if terms.len() > MAX_TERMS {
            let mut rated = terms
                .into_iter()
                .map(|term| Ok((self.searcher.doc_freq(&term)?, term)))
                .collect::<tantivy::Result<Vec<_>>>()?;
            rated.retain(|(frequency, _)| *frequency > 0);
            rated.sort_by_key(|(frequency, _)| *frequency);
            terms = rated.into_iter().take(MAX_TERMS).map(|(_, term)| term).collect();
        }
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        let clauses = terms.into_iter().map(|term| {
            let query = TermQuery::new(term, IndexRecordOption::WithFreqs);
            (Occur::Should, Box::new(query) as Box<dyn tantivy::query::Query>)
        });
        let query = BooleanQuery::new(clauses.collect());
        let found = self.searcher.search(&query, &TopDocs::with_limit(limit).order_by_score())?;
        // One tantivy segment, filled in order: its document number is the passage's number.
        Ok(found.into_iter().map(|(score, address)| (address.doc_id, score)).collect())
    }

    /// The nearest vectors: passage numbers and cosines, nearest first.
    pub(crate) fn nearest(&self, vector: &[f32], limit: usize) -> Result<Vec<(u32, f32)>, String> {
        if self.vector_count == 0 {
            return Ok(Vec::new());
        }
        let _slot = self.gate.enter();
        let matches = self.vectors.search(vector, limit).map_err(|error| error.to_string())?;
        Ok(matches.keys.iter().zip(&matches.distances).map(|(key, distance)| (*key as u32, 1.0 - distance)).collect())
    }
}

mod parking {
    //! A counter that lets as many in as there are cores.

    use std::sync::{Condvar, Mutex, PoisonError};

    pub struct Gate {
        free: Mutex<usize>,
        left: Condvar,
    }

    pub struct Slot<'g>(&'g Gate);

    impl Gate {
        pub fn of_cores() -> Gate {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Gate { free: Mutex::new(cores), left: Condvar::new() }
        }

        /// Waits for a free slot; a search holds one for tens of microseconds.
        pub fn enter(&self) -> Slot<'_> {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            while *free == 0 {
                free = self.left.wait(free).unwrap_or_else(PoisonError::into_inner);
            }
            *free -= 1;
            Slot(self)
        }
    }

    impl Drop for Slot<'_> {
        fn drop(&mut self) {
            *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.0.left.notify_one();
        }
    }
}
