//! What retrieval finds and what it costs, on one core in one run: quality on judged collections, and microseconds by
//! step beside plain calls of tantivy and usearch on the very same files.

use clap::Parser;
use sluice_bench::journey::read_lines;
use sluice_bench::statistics::{at, bootstrap};
use sluice_index::{Library, Query, Ranking, Scope, assemble, expansion};
use sluice_state::Follower;
use sluice_store::{Store, read_publisher_keys};
use sluice_text::{Embedder, analyser};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tantivy::collector::TopDocs;
use tantivy::directory::MmapDirectory;
use tantivy::query::{BooleanQuery, TermQuery};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::{TextAnalyzer, TokenStream};
use tantivy::{Index, ReloadPolicy, Searcher, Term};
use usearch::{IndexOptions, MetricKind, ScalarKind};

#[derive(Parser)]
#[command(about = "Measures retrieval on a published collection")]
struct Flags {
    /// The data folder of a store whose one collection is published.
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    collection: String,
    /// JSON lines of `{"id", "text"}`; made from the collection's own passages if left out.
    #[arg(long)]
    queries: Option<PathBuf>,
    /// Judgements: query, document and grade, separated by tabs, below a head.
    #[arg(long, requires = "queries")]
    judgements: Option<PathBuf>,
}

type Failure = Box<dyn Error>;

/// Questions that are made of a collection without any.
const QUESTIONS: usize = 400;
/// Candidates of each side, as the proxy asks for them.
const DEPTH: usize = 50;
/// The budget of a block, in tokens, and its most passages, as in the sample's configuration.
const BUDGET: usize = 1_500;
const PASSAGES: usize = 12;
/// How far quality is looked at.
const DEEP: usize = 100;

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("context: {error}");
            ExitCode::from(2)
        }
    }
}

struct Question {
    id: String,
    text: String,
}

struct Bench {
    library: Library,
    scope: Scope,
    names: [String; 1],
    embedder: &'static Embedder,
}

fn run(flags: &Flags) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let embedder = Embedder::shipped()?;
    embedder.embed("warm");
    let cache = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (snapshot, tenant, opening) = runtime.block_on(open(flags, cache.path()))?;
    let scope = Scope::of_tenant(tenant);
    let bench = Bench { library: snapshot.library, scope, names: [flags.collection.clone()], embedder };
    let collection = bench.library.collection(scope, &flags.collection).ok_or("there is no such collection")?;
    writeln!(
        out,
        "{}: {} passages, opened again in {:.1} ms",
        flags.collection,
        collection.len(),
        micros(opening) / 1e3
    )?;
    let folder = std::fs::read_dir(cache.path().join("segments"))?.next().ok_or("no segment")??.path();
    let plain = Plain::open(&folder, embedder)?;
    let questions = match &flags.queries {
        Some(file) => read_lines(file)?.into_iter().map(|line| Question { id: line.id, text: line.text }).collect(),
        None => bench.own_questions()?,
    };
    if flags.queries.is_none() {
        bench.known_items(&mut out, &questions)?;
    }
    if let Some(file) = &flags.judgements {
        bench.quality(&mut out, &questions, &read_judgements(file)?)?;
    }
    bench.cost(&mut out, &questions, &plain)?;
    bench.graph(&mut out, &questions, &plain)
}

/// The snapshot, opened once to fetch it and once more as an edge opens it when it starts.
async fn open(flags: &Flags, cache: &Path) -> Result<(sluice_state::Snapshot, [u8; 16], Duration), Failure> {
    let store = Store::open(&flags.data, None).await?;
    let tenant = store.tenancy("default", "").await?.id().try_into().map_err(|_| "a tenant's id has 16 bytes")?;
    let objects = flags.data.canonicalize()?.join("objects");
    let location = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(objects)?);
    let follower = || -> Result<Follower, Failure> {
        Ok(Follower::new(location.clone(), cache.to_owned(), read_publisher_keys(&flags.data)?)?)
    };
    follower()?.poll().await?.ok_or("nothing is published")?;
    let mut again = follower()?;
    let begun = Instant::now();
    let snapshot = again.last_known().ok_or("the snapshot does not open again")?;
    Ok((snapshot, tenant, begun.elapsed()))
}

impl Bench {
    fn search(&self, text: &str, ranking: Ranking) -> sluice_index::Hits {
        self.library.search(&Query::new(self.scope, &self.names, text).with_ranking(ranking), self.embedder)
    }

    /// Runs of words out of passages spread over the collection.
    fn own_questions(&self) -> Result<Vec<Question>, Failure> {
        let found = self.search("the of and to a in is it for", Ranking { depth: 20_000, ..Ranking::default() });
        let step = (found.hits.len() / QUESTIONS).max(1);
        let mut questions = Vec::new();
        for hit in found.hits.iter().step_by(step) {
            let Some(passage) = hit.passage() else { continue };
            let words: Vec<&str> = passage.text.split_whitespace().filter(|word| word.len() > 2).collect();
            let from = words.len() / 3;
            if let Some(run) = words.get(from..from + 10) {
                questions.push(Question { id: passage.document.to_owned(), text: run.join(" ") });
            }
        }
        Ok(questions)
    }

    /// How often the passage that a question was made of is found.
    fn known_items(&self, out: &mut impl Write, questions: &[Question]) -> Result<(), Failure> {
        for (name, vector_weight) in [("words", 0.0), ("vectors", 1.0), ("both", Ranking::default().vector_weight)] {
            let (mut first, mut ten) = (0, 0);
            for question in questions {
                let hits =
                    self.search(&question.text, Ranking { depth: DEPTH, vector_weight, ..Ranking::default() }).hits;
                let is_it =
                    |hit: &sluice_index::Hit| hit.passage().is_some_and(|passage| passage.document == question.id);
                let place = hits.iter().take(10).position(is_it);
                first += usize::from(place == Some(0));
                ten += usize::from(place.is_some());
            }
            let count = questions.len() as f64;
            writeln!(out, "known item, {name:<8} first {:.4}, in ten {:.4}", first as f64 / count, ten as f64 / count)?;
        }
        Ok(())
    }

    /// nDCG@10, recall@10 and recall@100 of words, vectors and both.
    fn quality(&self, out: &mut impl Write, questions: &[Question], judgements: &Judgements) -> Result<(), Failure> {
        writeln!(out, "{:<10} {:>8} {:>10} {:>11}", "", "nDCG@10", "recall@10", "recall@100")?;
        let mut by_side: Vec<Vec<f64>> = Vec::new();
        for (name, vector_weight) in [("words", 0.0), ("vectors", 1.0), ("both", Ranking::default().vector_weight)] {
            let ranking = Ranking { depth: 2 * DEEP, vector_weight, ..Ranking::default() };
            let mut sums = [0.0; 3];
            let mut gains = Vec::new();
            for question in questions {
                let Some(graded) = judgements.get(&question.id) else { continue };
                let hits = self.search(&question.text, ranking.clone()).hits;
                let mut seen = HashSet::new();
                let documents: Vec<String> = hits
                    .iter()
                    .filter_map(|hit| hit.passage().map(|passage| passage.document.to_owned()))
                    .filter(|document| seen.insert(document.clone()))
                    .take(DEEP)
                    .collect();
                let measured = measure(&documents, graded);
                gains.push(measured[0]);
                sums.iter_mut().zip(measured).for_each(|(sum, value)| *sum += value);
            }
            let count = gains.len() as f64;
            writeln!(out, "{name:<10} {:>8.4} {:>10.4} {:>11.4}", sums[0] / count, sums[1] / count, sums[2] / count)?;
            by_side.push(gains);
        }
        let differences: Vec<f64> = by_side[2].iter().zip(&by_side[0]).map(|(both, words)| both - words).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let (low, high) = bootstrap(&differences, mean);
        writeln!(out, "both − words, nDCG@10, 95 % of paired bootstraps: {low:+.4} to {high:+.4}")?;
        Ok(())
    }

    /// Microseconds of each step and of plain calls, interleaved question by question.
    fn cost(&self, out: &mut impl Write, questions: &[Question], plain: &Plain) -> Result<(), Failure> {
        const STEPS: [&str; 8] =
            ["embed", "words", "vectors", "assemble", "whole recall", "plain tantivy", "plain usearch", "plain sum"];
        let both = Ranking { depth: DEPTH, ..Ranking::default() };
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); STEPS.len()];
        for round in 0..3 {
            for question in questions {
                let text = &question.text;
                let (embed, vector) = timed(|| self.embedder.embed(text));
                let (words, _) = timed(|| self.search(text, Ranking { vector_weight: 0.0, ..both.clone() }));
                let (vectors, _) = timed(|| self.search(text, Ranking { vector_weight: 1.0, ..both.clone() }));
                let (recall, hits) = timed(|| self.search(text, both.clone()));
                let (assembling, _) = timed(|| assemble(&hits.hits, BUDGET, PASSAGES));
                let (tantivy, found) = timed(|| plain.words(text));
                found?;
                let (usearch, found) = timed(|| vector.map(|vector| plain.vectors.search(&vector, DEPTH)));
                found.transpose()?;
                // The first round warms pages and branches.
                if round > 0 {
                    let sum = embed + tantivy + usearch;
                    let spent = [embed, words, vectors - embed, assembling, recall + assembling, tantivy, usearch, sum];
                    times.iter_mut().zip(spent).for_each(|(times, spent)| times.push(spent));
                }
            }
        }
        writeln!(out, "{:<16} {:>8} {:>8}   µs, {} questions", "", "p50", "p99", questions.len())?;
        for (step, times) in STEPS.iter().zip(&mut times) {
            times.sort_by(f64::total_cmp);
            writeln!(out, "{step:<16} {:>8.1} {:>8.1}", at(times, 0.5), at(times, 0.99))?;
        }
        writeln!(
            out,
            "whole recall / plain sum: p50 {:.2}, p99 {:.2}",
            at(&times[4], 0.5) / at(&times[7], 0.5),
            at(&times[4], 0.99) / at(&times[7], 0.99)
        )?;
        Ok(())
    }

    /// How much of the exact ten nearest the graph finds.
    fn graph(&self, out: &mut impl Write, questions: &[Question], plain: &Plain) -> Result<(), Failure> {
        let (mut found, mut wanted) = (0, 0);
        for question in questions.iter().take(200) {
            let Some(vector) = self.embedder.embed(&question.text) else { continue };
            let exact: HashSet<u64> = plain.vectors.exact_search(&vector, 10)?.keys.into_iter().collect();
            let graph = plain.vectors.search(&vector, 10)?.keys;
            wanted += exact.len();
            found += graph.iter().filter(|key| exact.contains(key)).count();
        }
        writeln!(out, "graph recall@10 against exact search: {:.4}", found as f64 / wanted.max(1) as f64)?;
        Ok(())
    }
}

/// The segment's own files behind plain calls.
struct Plain {
    searcher: Searcher,
    field: Field,
    analyser: TextAnalyzer,
    vectors: usearch::Index,
}

impl Plain {
    fn open(folder: &Path, embedder: &Embedder) -> Result<Plain, Failure> {
        let index = Index::open(MmapDirectory::open(folder)?)?;
        let field = index.schema().get_field("text")?;
        let searcher = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?.searcher();
        let options = IndexOptions {
            dimensions: embedder.model().dimensions,
            metric: MetricKind::Cos,
            quantization: ScalarKind::BF16,
            connectivity: 16,
            expansion_add: 128,
            expansion_search: expansion(0),
            multi: false,
        };
        let vectors = usearch::Index::new(&options)?;
        vectors.view(&folder.join("vectors.usearch").to_string_lossy())?;
        vectors.change_expansion_search(expansion(vectors.size()));
        Ok(Plain { searcher, field, analyser: analyser(), vectors })
    }

    /// All words of `text`, OR-ed.
    fn words(&self, text: &str) -> Result<(), Failure> {
        let mut analyser = self.analyser.clone();
        let mut stream = analyser.token_stream(text);
        let mut terms = Vec::new();
        while let Some(token) = stream.next() {
            terms.push(Term::from_field_text(self.field, &token.text));
        }
        terms.sort_unstable();
        terms.dedup();
        let query =
            |term| Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)) as Box<dyn tantivy::query::Query>;
        let query = BooleanQuery::union(terms.into_iter().map(query).collect());
        black_box(self.searcher.search(&query, &TopDocs::with_limit(DEPTH).order_by_score())?);
        Ok(())
    }
}

type Judgements = HashMap<String, HashMap<String, f64>>;

/// nDCG@10, recall@10 and recall@100.
fn measure(documents: &[String], graded: &HashMap<String, f64>) -> [f64; 3] {
    let discount = |place: usize| 1.0 / (place as f64 + 2.0).log2();
    let gain: f64 =
        documents.iter().take(10).enumerate().filter_map(|(place, id)| Some(graded.get(id)? * discount(place))).sum();
    let mut best: Vec<f64> = graded.values().copied().collect();
    best.sort_by(|left, right| right.total_cmp(left));
    let ideal: f64 = best.iter().take(10).enumerate().map(|(place, grade)| grade * discount(place)).sum();
    let relevant = graded.values().filter(|grade| **grade > 0.0).count().max(1) as f64;
    let within = |depth: usize| {
        documents.iter().take(depth).filter(|id| graded.get(*id).is_some_and(|grade| *grade > 0.0)).count() as f64
    };
    [gain / ideal.max(f64::MIN_POSITIVE), within(10) / relevant, within(DEEP) / relevant]
}

/// Microseconds, and what came of them.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let done = black_box(work());
    (micros(begun.elapsed()), done)
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn read_judgements(file: &Path) -> Result<Judgements, Failure> {
    let mut judgements = Judgements::new();
    for line in std::fs::read_to_string(file)?.lines().skip(1) {
        let mut fields = line.split('\t');
        let (Some(query), Some(document), Some(grade)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), grade.parse()?);
    }
    Ok(judgements)
}
