//! The reference for recall: plain calls of tantivy, usearch and the embedder, as anybody would write them.
//!
//! Sluice's recall is held against it in the same run: the same documents, the same queries, the same core. It runs
//! in a process of its own, pinned where the proxies run, and spends nothing on HTTP, filters, fusion or assembly.
//! The two processes speak in lines: "FIRST COUNT" is answered with the nanoseconds that these queries took.

use super::failure::{Doing, Failure};
use super::process::{self, thread_nanoseconds};
use super::workload::{Workload, read_lines};
use sluice_text::Embedder;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use tantivy::collector::TopDocs;
use tantivy::columnar::StrColumn;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
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
        if count > 0 {
            for (label, list) in [
                ("distinct", texts.clone()),
                ("plain", (first..first + count).map(|n| workload.query(n).to_owned()).collect::<Vec<_>>()),
            ] {
                let n = list.len() as f64;
                let t = |f: &mut dyn FnMut(&str)| {
                    let mut best = f64::MAX;
                    for _ in 0..3 {
                        let b = std::time::Instant::now();
                        for x in &list {
                            f(x)
                        }
                        best = best.min(b.elapsed().as_secs_f64() * 1e6 / n);
                    }
                    best
                };
                let e = t(&mut |x| {
                    std::hint::black_box(recall.embedder.embed(x));
                });
                let vs: Vec<_> = list.iter().filter_map(|x| recall.embedder.embed(x)).collect();
                let mut k = 0;
                let v = t(&mut |_| {
                    std::hint::black_box(recall.vectors.search(&vs[k % vs.len()], RESULTS).unwrap());
                    k += 1;
                });
                let q = t(&mut |x| {
                    std::hint::black_box(recall.any_word(x));
                });
                let w = t(&mut |x| {
                    std::hint::black_box(
                        recall
                            .searcher
                            .search(&recall.any_word(x), &TopDocs::with_limit(RESULTS).order_by_score())
                            .unwrap(),
                    );
                });
                let w10 = t(&mut |x| {
                    std::hint::black_box(
                        recall.searcher.search(&recall.any_word(x), &TopDocs::with_limit(10).order_by_score()).unwrap(),
                    );
                });
                let hits: Vec<_> = list.iter().map(|x| recall.searcher.search(&recall.any_word(x), &TopDocs::with_limit(RESULTS).order_by_score()).unwrap()).collect();
                let mut k = 0; let i = t(&mut |_| { let mut id = String::new(); for (_, a) in &hits[k % hits.len()] { let c = &recall.ids[a.segment_ord as usize]; id.clear(); c.ord_to_str(c.ords().first(a.doc_id).unwrap(), &mut id).unwrap(); } std::hint::black_box(&id); k += 1; });
                let mut k = 0; let o = t(&mut |_| { let mut z = 0; for (_, a) in &hits[k % hits.len()] { z ^= recall.ids[a.segment_ord as usize].ords().first(a.doc_id).unwrap(); } std::hint::black_box(z); k += 1; });
                eprintln!("ids as strings {i:.1} as numbers {o:.1}");
                let words: usize = list.iter().map(|x| x.split_whitespace().count()).sum();
                eprintln!(
                    "{label}: words {:.1} embed {e:.1} vectors {v:.1} query {q:.1} bm25-50 {w:.1} bm25-10 {w10:.1} segments {} hw {}",
                    words as f64 / n,
                    recall.searcher.segment_readers().len(),
                    usearch::hardware_acceleration_available()
                );
                let mut all: Vec<f64> = list
                    .iter()
                    .map(|x| {
                        let b = std::time::Instant::now();
                        std::hint::black_box(recall.search(x).unwrap());
                        b.elapsed().as_secs_f64() * 1e6
                    })
                    .collect();
                all.sort_by(f64::total_cmp);
                eprintln!(
                    "   whole p50 {:.0} mean {:.0} p99 {:.0}",
                    all[all.len() / 2],
                    all.iter().sum::<f64>() / n,
                    all[all.len() * 99 / 100]
                );
            }
        }
        if count > 0 && found == 0 {
            return Err(Failure::because("searching", "no query found anything"));
        }
        println!("{spent}");
    }
    Ok(())
}

/// The two indexes and the embedder, opened once.
struct PlainRecall {
    searcher: Searcher,
    body: Field,
    analyzer: TextAnalyzer,
    /// The document ids of each segment, opened once: opening a column costs more than reading from it.
    ids: Vec<StrColumn>,
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
        let (searcher, body, analyzer, ids) =
            words(&documents, &folder.join("plain-words")).doing("indexing the words")?;
        let file = folder.join("plain-vectors.usearch");
        let vectors = vectors(&documents, embedder, &file.to_string_lossy()).doing("indexing the vectors")?;
        Ok(PlainRecall { searcher, body, analyzer, ids, vectors, embedder })
    }

    /// Looks for `text` in both indexes and returns how much was found.
    fn search(&self, text: &str) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let mut found = 0;
        let mut id = String::new();
        for (_, address) in
            self.searcher.search(&self.any_word(text), &TopDocs::with_limit(RESULTS).order_by_score())?
        {
            let ids = &self.ids[address.segment_ord as usize];
            if let Some(ordinal) = ids.ords().first(address.doc_id) {
                id.clear();
                found += usize::from(ids.ord_to_str(ordinal, &mut id)?);
            }
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

type Words = (Searcher, Field, TextAnalyzer, Vec<StrColumn>);

fn words(documents: &[(String, String)], folder: &Path) -> Result<Words, Box<dyn std::error::Error + Send + Sync>> {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default().set_tokenizer(TOKENIZER).set_index_option(IndexRecordOption::WithFreqs);
    let id = schema.add_text_field("id", TextOptions::default().set_fast("raw"));
    let body = schema.add_text_field("body", TextOptions::default().set_indexing_options(indexing));
    std::fs::create_dir_all(folder)?;
    let index = Index::create_in_dir(folder, schema.build())?;
    // One thread and a buffer for all of it make one segment, which is the fastest to search.
    let mut writer = index.writer_with_num_threads(1, 256 << 20)?;
    for (name, text) in documents {
        let mut document = TantivyDocument::default();
        document.add_text(id, name);
        document.add_text(body, text);
        writer.add_document(document)?;
    }
    writer.commit()?;
    writer.wait_merging_threads()?;
    let searcher = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?.searcher();
    let column = |segment: &tantivy::SegmentReader| {
        segment.fast_fields().str("id").ok().flatten().ok_or("the ids have no column")
    };
    let ids = searcher.segment_readers().iter().map(column).collect::<Result<_, _>>()?;
    let analyzer = index.tokenizers().get(TOKENIZER).ok_or("tantivy has no English stemmer")?;
    Ok((searcher, body, analyzer, ids))
}

fn vectors(
    documents: &[(String, String)],
    embedder: &Embedder,
    file: &str,
) -> Result<usearch::Index, Box<dyn std::error::Error + Send + Sync>> {
    let options = IndexOptions {
        dimensions: embedder.dimensions(),
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
