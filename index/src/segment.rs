//! One opened segment.

use crate::bits::Bits;
use crate::build::{expansion, vector_options};
use crate::filter::Filter;
use crate::top::Top;
use parking::Gate;
use sluice_segment::{Columns, FormatError, Mapped, Passage, PassageTable};
use sluice_text::{ANALYSER_ID, Embedder, Model, analyser};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tantivy::directory::MmapDirectory;
use tantivy::query::{Bm25StatisticsProvider, BooleanQuery, EnableScoring, Occur, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, ReloadPolicy, Searcher, Term};

/// File names in a segment's folder; the rest are tantivy's, which its `meta.json` lists.
pub(crate) const PASSAGES: &str = "passages";
pub(crate) const VECTORS: &str = "vectors.usearch";
/// Only where documents have payloads.
pub(crate) const COLUMNS: &str = "columns";

const TOKENIZER: &str = "sluice";

/// Up to so many vectors are all compared, which is exact and as quick as the graph.
const EXACT: usize = 1_024;
/// Up to so many passages that a filter leaves are looked at one by one.
const FEW: usize = 2_048;
/// How many filters a segment remembers the passages of.
const FILTERS: usize = 8;

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
    model: Model,
    passages: PassageTable,
    columns: Option<Mapped<Columns>>,
    searcher: Searcher,
    text: Field,
    vectors: usearch::Index,
    vector_count: usize,
    /// usearch has one slot a core for concurrent searches and fails beyond.
    gate: Gate,
    filters: Mutex<Vec<(Filter, Arc<Bits>)>>,
}

/// Which passages of a segment may be found.
pub(crate) enum Allowed {
    All,
    /// A set and its size.
    Some(Arc<Bits>, usize),
}

impl Allowed {
    fn holds(&self, number: u32) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Some(bits, _) => bits.contains(number),
        }
    }
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
    /// Maps the segment in `folder`, checks that its parts belong together and were built by this program's analyser,
    /// and runs a first query, so that the first request does not pay for page faults. Its vectors may be of another
    /// model than `embedder`; they are then searched by who brings a vector of that model.
    pub fn open(folder: &Path, id: &str, embedder: &Embedder) -> Result<Segment, OpenError> {
        let passages = PassageTable::open(&folder.join(PASSAGES))?;
        let about = passages.about();
        if about.analyser != ANALYSER_ID {
            return Err(OpenError::Foreign {
                path: folder.to_owned(),
                what: "analyser",
                found: about.analyser.clone(),
                known: ANALYSER_ID.to_owned(),
            });
        }
        let model = Model { id: about.embedder.clone(), dimensions: about.dimensions as usize };
        let lexical = |source| OpenError::Lexical { path: folder.to_owned(), source };
        let directory = MmapDirectory::open(folder).map_err(|error| lexical(error.into()))?;
        let mut index = Index::open(directory).map_err(lexical)?;
        index.set_tokenizers(tokenizers());
        let (_, text) = schema();
        let searcher =
            index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(lexical)?.searcher();
        if searcher.num_docs() != passages.len() as u64 || searcher.segment_readers().len() > 1 {
            return Err(OpenError::Disagree {
                path: folder.to_owned(),
                passages: passages.len(),
                lexical: searcher.num_docs(),
            });
        }
        let path = folder.join(VECTORS);
        let failed = |reason: String| OpenError::Vectors { path: path.clone(), reason };
        let vectors =
            usearch::Index::new(&vector_options(model.dimensions)).map_err(|error| failed(error.to_string()))?;
        vectors.view(&path.to_string_lossy()).map_err(|error| failed(error.to_string()))?;
        if vectors.dimensions() != model.dimensions {
            return Err(failed(format!("{} dimensions", vectors.dimensions())));
        }
        vectors.change_expansion_search(expansion(vectors.size()));
        let columns = folder.join(COLUMNS);
        let segment = Segment {
            id: id.to_owned(),
            model,
            columns: if columns.exists() { Some(Mapped::open(&columns)?) } else { None },
            passages,
            searcher,
            text,
            vector_count: vectors.size(),
            vectors,
            gate: Gate::of_cores(),
            filters: Mutex::default(),
        };
        segment.warm(embedder);
        Ok(segment)
    }

    fn warm(&self, embedder: &Embedder) {
        let Some(first) = self.passage(0) else { return };
        let text: String = first.text.chars().take(200).collect();
        let terms = self.terms(&sluice_text::QueryAnalyser::new().terms(&text));
        let _ = self.lexical(&terms, &self.searcher, &Allowed::All, 0, &mut Top::of(10));
        if self.model.id == embedder.id()
            && let Some(vector) = embedder.embed(&text)
        {
            let _ = self.nearest(&vector, 10, &Allowed::All);
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its vectors come from.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How many passages it holds.
    pub fn len(&self) -> usize {
        self.passages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn passage(&self, number: u32) -> Option<Passage<'_>> {
        self.passages.get(number)
    }

    /// Tokens and print of a passage.
    pub(crate) fn measures(&self, number: u32) -> Option<(u32, u64)> {
        self.passages.measures(number)
    }

    /// The set of passages with these sequence numbers.
    pub(crate) fn numbers(&self, sequences: impl Iterator<Item = u64>) -> Bits {
        let mut bits = Bits::none(self.len());
        sequences.filter_map(|sequence| self.passages.number_of(sequence)).for_each(|number| bits.insert(number));
        bits
    }

    /// The passages that a filter lets through.
    pub(crate) fn filtered(&self, filter: &Filter) -> Arc<Bits> {
        let mut known = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.iter().position(|(other, _)| other == filter) {
            let found = known.remove(place);
            known.push(found);
        } else {
            let columns = self.columns.as_ref().map(Mapped::get);
            let bits = Arc::new(filter.passages(columns, self.len()));
            if known.len() == FILTERS {
                known.remove(0);
            }
            known.push((filter.clone(), bits));
        }
        known.last().map(|(_, bits)| Arc::clone(bits)).unwrap_or_default()
    }

    pub(crate) fn terms(&self, terms: &[String]) -> Vec<Term> {
        terms.iter().map(|term| Term::from_field_text(self.text, term)).collect()
    }

    /// In how many passages a term stands.
    pub(crate) fn frequency(&self, term: &Term) -> tantivy::Result<u64> {
        self.searcher.doc_freq(term)
    }

    /// Passages and words, for statistics over several segments.
    pub(crate) fn size(&self) -> tantivy::Result<(u64, u64)> {
        Ok((self.searcher.total_num_docs()?, self.searcher.total_num_tokens(self.text)?))
    }

    /// BM25 over any of `terms`, into `top` as this part's.
    pub(crate) fn lexical(
        &self,
        terms: &[Term],
        statistics: &dyn Bm25StatisticsProvider,
        allowed: &Allowed,
        part: usize,
        top: &mut Top,
    ) -> tantivy::Result<()> {
        let Some(reader) = self.searcher.segment_readers().first() else { return Ok(()) };
        let scoring = EnableScoring::enabled_from_statistics_provider(statistics, &self.searcher);
        let query = |term: &Term| TermQuery::new(term.clone(), IndexRecordOption::WithFreqs);
        // One tantivy segment, filled in order: its document number is the passage's number.
        if let Allowed::Some(bits, ..=FEW) = allowed {
            let weights = terms.iter().map(|term| query(term).weight(scoring)).collect::<tantivy::Result<Vec<_>>>()?;
            let mut scorers =
                weights.iter().map(|weight| weight.scorer(reader, 1.0)).collect::<tantivy::Result<Vec<_>>>()?;
            for number in bits.iter() {
                let mut score = 0.0;
                for scorer in &mut scorers {
                    if scorer.doc() < number {
                        scorer.seek(number);
                    }
                    if scorer.doc() == number {
                        score += scorer.score();
                    }
                }
                if score > 0.0 {
                    top.offer(score, part, number);
                }
            }
            return Ok(());
        }
        let clauses = terms.iter().map(|term| (Occur::Should, Box::new(query(term)) as Box<dyn Query>));
        let weight = BooleanQuery::new(clauses.collect()).weight(scoring)?;
        weight.for_each_pruning(top.threshold(), reader, &mut |number, score| {
            if allowed.holds(number) {
                top.offer(score, part, number);
            }
            top.threshold()
        })
    }

    /// The nearest vectors: passage numbers and cosines, nearest first.
    pub(crate) fn nearest(&self, vector: &[f32], limit: usize, allowed: &Allowed) -> Result<Vec<(u32, f32)>, String> {
        if self.vector_count == 0 {
            return Ok(Vec::new());
        }
        let matches = {
            let _slot = self.gate.enter();
            match allowed {
                Allowed::All if self.vector_count <= EXACT => self.vectors.exact_search(vector, limit),
                Allowed::All => self.vectors.search(vector, limit),
                Allowed::Some(bits, ..=FEW) => return Ok(self.compare(vector, bits.iter(), limit)),
                Allowed::Some(bits, _) => {
                    self.vectors.filtered_search(vector, limit, |number| bits.contains(number as u32))
                }
            }
        };
        let matches = matches.map_err(|error| error.to_string())?;
        Ok(matches.keys.iter().zip(&matches.distances).map(|(key, distance)| (*key as u32, 1.0 - distance)).collect())
    }

    /// The nearest of `numbers`, each looked at.
    fn compare(&self, vector: &[f32], numbers: impl Iterator<Item = u32>, limit: usize) -> Vec<(u32, f32)> {
        let mut found: Vec<(u32, f32)> =
            numbers.filter_map(|number| Some((number, cosine(vector, &self.vector(number)?)))).collect();
        found.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        found.truncate(limit);
        found
    }

    /// The vector of a passage, nearly of unit length.
    pub(crate) fn vector(&self, number: u32) -> Option<Vec<f32>> {
        let mut vector = vec![0.0; self.vectors.dimensions()];
        let found = self.vectors.get(u64::from(number), &mut vector).ok()?;
        (found == 1).then_some(vector)
    }
}

/// Of two vectors of unit length.
pub(crate) fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
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
