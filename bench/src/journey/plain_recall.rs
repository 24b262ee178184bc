//! The reference for recall: plain calls of tantivy, usearch and the embedder, as anybody would write them.
//!
//! Sluice's recall is held against it in the same run: the same documents, the same queries, the same core. It runs
//! in a process of its own, pinned where the proxies run, and spends nothing on HTTP, filters, fusion or assembly.
//! The two processes speak in lines: "FIRST COUNT" is answered with the nanoseconds that these queries took.

use super::failure::{Doing, Failure};
use super::process::{self, thread_nanoseconds};
use super::workload::{Workload, read_lines};
use sluice_text::Embedder;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use tantivy::collector::TopDocs;
use tantivy::columnar::Column;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{TextAnalyzer, TokenStream};
use tantivy::{Index, ReloadPolicy, Searcher, TantivyDocument, Term};
use usearch::{IndexOptions, MetricKind, ScalarKind};

/// How many results each engine is asked for.
const RESULTS: usize = 50;
/// The tokenizer that splits at anything not alphanumeric, lower-cases and stems English.
const TOKENIZER: &str = "en_stem";

/// The child process that meters plain recall.
pub(super) struct Meter {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Meter {
    /// Starts this same program as the meter and waits until its indexes are built.
    pub(super) fn start(core: &str, corpus: &Path, queries: &Path, folder: &Path) -> Result<Meter, Failure> {
        let program = std::env::current_exe().doing("finding this program")?;
        let command = process::pinned(core, &program)
            .arg("--corpus")
            .arg(corpus)
            .arg("--queries")
            .arg(queries)
            .arg("--plain-recall")
            .arg(folder);
        let mut child = command
            .into_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing("starting plain recall")?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::because("starting plain recall", "it has no pipes"));
        };
        let mut meter = Meter { child, questions, answers: BufReader::new(answers) };
        meter.spent(0..0)?;
        Ok(meter)
    }

    /// The processor time in nanoseconds that the distinct queries of `numbers` took.
    pub(super) fn spent(&mut self, numbers: Range<u64>) -> Result<u64, Failure> {
        let mut answer = String::new();
        writeln!(self.questions, "{} {}", numbers.start, numbers.end - numbers.start).doing("asking plain recall")?;
        self.answers.read_line(&mut answer).doing("asking plain recall")?;
        answer.trim().parse().doing("asking plain recall")
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The meter's own main: builds the indexes in `folder`, then answers lines until its standard input ends.
pub fn meter(corpus: &Path, queries: &Path, folder: &Path) -> Result<(), Failure> {
    let workload = Workload::read(corpus, queries)?;
    let recall = PlainRecall::build(corpus, folder)?;
    for line in io::stdin().lines() {
        let line = line.doing("reading a question")?;
        let numbers = line
            .split_once(' ')
            .and_then(|(first, count)| Some((first.parse::<u64>().ok()?, count.parse::<u64>().ok()?)));
        let Some((first, count)) = numbers else {
            return Err(Failure::because("reading a question", line));
        };
        // Making the texts is not recall, so they are made before the clock starts.
        let texts: Vec<String> = (first..first + count).map(|number| workload.distinct(number)).collect();
        let before = thread_nanoseconds().doing("reading the thread's clock")?;
        let mut found = 0;
        for text in &texts {
            found += recall.search(text).doing("searching")?;
        }
        let spent = thread_nanoseconds().doing("reading the thread's clock")? - before;
        if count > 0 && found == 0 {
            return Err(Failure::because("searching", "no query found anything"));
        }
        writeln!(io::stdout(), "{spent}").doing("answering")?;
    }
    Ok(())
}

/// The two indexes and the embedder, opened once.
struct PlainRecall {
    searcher: Searcher,
    body: Field,
    analyzer: TextAnalyzer,
    /// The document numbers of each segment, opened once: opening a column costs more than reading from it.
    numbers: Vec<Column<u64>>,
    /// The ids by number. A column of strings was tried first; its 50 look-ups in a compressed dictionary cost 110 µs
    /// a query, a quarter of the whole, and would have made the reference too easy to meet.
    ids: Vec<String>,
    vectors: usearch::Index,
    embedder: &'static Embedder,
}

impl PlainRecall {
    fn build(corpus: &Path, folder: &Path) -> Result<PlainRecall, Failure> {
        let documents: Vec<(String, String)> = read_lines(corpus)?
            .into_iter()
            .map(|document| (document.id, format!("{}. {}", document.title, document.text)))
            .collect();
        let embedder = Embedder::shipped().doing("loading the embedder")?;
        let (searcher, body, analyzer, numbers) =
            words(&documents, &folder.join("plain-words")).doing("indexing the words")?;
        let file = folder.join("plain-vectors.usearch");
        let vectors = vectors(&documents, embedder, &file.to_string_lossy()).doing("indexing the vectors")?;
        let ids = documents.into_iter().map(|(id, _)| id).collect();
        Ok(PlainRecall { searcher, body, analyzer, numbers, ids, vectors, embedder })
    }

    /// Looks for `text` in both indexes and returns how much was found.
    fn search(&self, text: &str) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let mut found = 0;
        for (_, address) in
            self.searcher.search(&self.any_word(text), &TopDocs::with_limit(RESULTS).order_by_score())?
        {
            let number = self.numbers[address.segment_ord as usize].first(address.doc_id);
            let id = number.and_then(|number| self.ids.get(number as usize));
            // What is found must be had, or the compiler might leave out finding it.
            found += usize::from(black_box(id).is_some());
        }
        if let Some(vector) = self.embedder.embed(text) {
            found += self.vectors.search(&vector, RESULTS)?.keys.len();
        }
        Ok(found)
    }

    /// All words of `text`, OR-ed.
    fn any_word(&self, text: &str) -> BooleanQuery {
        let mut terms = Vec::new();
        // An analyzer is mutable while it runs and cheap to clone.
        let mut analyzer = self.analyzer.clone();
        let mut tokens = analyzer.token_stream(text);
        while let Some(token) = tokens.next() {
            terms.push(Term::from_field_text(self.body, &token.text));
        }
        terms.sort_unstable();
        terms.dedup();
        let query = |term| Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)) as Box<dyn Query>;
        BooleanQuery::union(terms.into_iter().map(query).collect())
    }
}

type Words = (Searcher, Field, TextAnalyzer, Vec<Column<u64>>);

fn words(documents: &[(String, String)], folder: &Path) -> Result<Words, Box<dyn std::error::Error + Send + Sync>> {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default().set_tokenizer(TOKENIZER).set_index_option(IndexRecordOption::WithFreqs);
    let number = schema.add_u64_field("number", FAST);
    let body = schema.add_text_field("body", TextOptions::default().set_indexing_options(indexing));
    std::fs::create_dir_all(folder)?;
    let index = Index::create_in_dir(folder, schema.build())?;
    // One thread and a buffer for all of it make one segment, which is the fastest to search.
    let mut writer = index.writer_with_num_threads(1, 256 << 20)?;
    for (position, (_, text)) in documents.iter().enumerate() {
        let mut document = TantivyDocument::default();
        document.add_u64(number, position as u64);
        document.add_text(body, text);
        writer.add_document(document)?;
    }
    writer.commit()?;
    writer.wait_merging_threads()?;
    let searcher = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?.searcher();
    let column = |segment: &tantivy::SegmentReader| segment.fast_fields().u64("number");
    let numbers = searcher.segment_readers().iter().map(column).collect::<Result<_, _>>()?;
    let analyzer = index.tokenizers().get(TOKENIZER).ok_or("tantivy has no English stemmer")?;
    Ok((searcher, body, analyzer, numbers))
}

fn vectors(
    documents: &[(String, String)],
    embedder: &Embedder,
    file: &str,
) -> Result<usearch::Index, Box<dyn std::error::Error + Send + Sync>> {
    let options = IndexOptions {
        dimensions: embedder.model().dimensions,
        metric: MetricKind::Cos,
        quantization: ScalarKind::BF16,
        connectivity: 16,
        expansion_add: 128,
        expansion_search: 64,
        multi: false,
    };
    let built = usearch::Index::new(&options)?;
    built.reserve(documents.len())?;
    for (key, (_, text)) in documents.iter().enumerate() {
        if let Some(vector) = embedder.embed(text) {
            built.add(key as u64, &vector)?;
        }
    }
    built.save(file)?;
    let view = usearch::Index::new(&options)?;
    view.view(file)?;
    Ok(view)
}
