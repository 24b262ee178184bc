//! `sluice search`: what an edge would find, from the published snapshot.

use crate::{Context, Outcome, location};
use clap::Args;
use sluice_index::{Filter, Fusion, Hit, Query, Ranking, Scope};
use sluice_state::{Follower, Snapshot};
use sluice_store::read_publisher_keys;
use std::collections::HashSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Search {
    collection: String,
    #[arg(required_unless_present = "queries")]
    query: Option<String>,
    /// Most documents of an answer.
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    k: u32,
    /// Also what belongs to this subject alone.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Only documents whose payload fits: conditions as JSON, `{"must":[{"key":"language","match":{"value":"en"}}]}`.
    #[arg(long, value_name = "JSON", value_parser = filter)]
    filter: Option<Filter>,
    /// How the two sides become one list.
    #[arg(long, value_enum, default_value = "score")]
    fusion: FusionName,
    /// Weight of the vectors; words have the rest. 0 is words alone, 1 vectors alone.
    #[arg(long, default_value_t = Ranking::default().vector_weight, value_parser = share)]
    vector_weight: f32,
    /// How much being unlike what stands above counts against being relevant, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    diversity: f32,
    /// A JSONL file of `{"id"|"_id","text"}`; prints rows of query, document, rank and score.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Where the rows go; standard output if left out.
    #[arg(long, value_name = "FILE", requires = "queries")]
    run: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FusionName {
    /// Scores, scaled to what each side found.
    Score,
    /// Reciprocal ranks.
    Rank,
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(&serde_json::from_str(text).map_err(|error| error.to_string())?)
}

fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "it must be between 0 and 1".to_owned())
}

impl Search {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.store().await?;
        let tenant: [u8; 16] =
            context.tenancy().await?.id().try_into().map_err(|_| "the store's tenant id is not 16 bytes")?;
        // What is published is searched, so that nothing is found here that an edge would not find.
        store.publish(location::open(None, &context.data)?).await?;
        let trusted = read_publisher_keys(&context.data)?;
        let mut follower = Follower::new(location::open(None, &context.data)?, context.data.join("search"), trusted)?;
        let snapshot = match follower.poll().await? {
            Some(snapshot) => snapshot,
            None => return Err("nothing is published yet".into()),
        };
        let of_tenant = Scope::of_tenant(tenant);
        let scope = self.subject.as_deref().map_or(of_tenant, |subject| of_tenant.with_subject(subject));
        if snapshot.library.lacks(scope, &self.collection) {
            return Err(format!(
                "there is no collection `{}`; `sluice ingest {} PATH…` makes one",
                self.collection, self.collection
            )
            .into());
        }
        match (&self.queries, &self.query) {
            (Some(file), _) => self.run_queries(file, &snapshot, scope)?,
            (None, Some(query)) => self.print(query, &snapshot, scope),
            (None, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The best hit of each document.
    fn search(&self, text: &str, snapshot: &Snapshot, scope: Scope) -> Vec<(String, Hit)> {
        let names = [self.collection.clone()];
        let ranking = Ranking {
            depth: Ranking::default().depth.max(self.k as usize * 2),
            vector_weight: self.vector_weight,
            fusion: match self.fusion {
                FusionName::Score => Fusion::Score,
                FusionName::Rank => Fusion::Rank,
            },
            diversity: self.diversity,
            ..Ranking::default()
        };
        let query = Query::new(scope, &names, text).with_ranking(ranking);
        let query = query.with_filter(self.filter.clone().unwrap_or_default());
        let Some(embedder) = snapshot.embedder else { return Vec::new() };
        let hits = snapshot.library.search(&query, embedder);
        if let Some(reason) = hits.degraded {
            eprintln!("sluice: the search is not whole: {reason}");
        }
        let mut seen = HashSet::new();
        let documents = hits.hits.into_iter().filter_map(|hit| Some((hit.passage()?.document.to_owned(), hit)));
        documents.filter(|(document, _)| seen.insert(document.clone())).take(self.k as usize).collect()
    }

    fn print(&self, query: &str, snapshot: &Snapshot, scope: Scope) {
        println!("{:>4} {:>6} {:>7} {:>6}  document", "rank", "score", "lexical", "vector");
        let rank = |rank: Option<u32>| rank.map_or("-".to_owned(), |rank| rank.to_string());
        for (place, (document, hit)) in self.search(query, snapshot, scope).iter().enumerate() {
            let (title, start) = hit.passage().map_or((String::new(), String::new()), |passage| {
                (passage.title.to_owned(), passage.text.chars().take(100).collect::<String>().replace('\n', " "))
            });
            println!(
                "{:>4} {:>6.3} {:>7} {:>6}  {document}  {title}\n{:>27}{start}…",
                place + 1,
                hit.score,
                rank(hit.lexical_rank),
                rank(hit.vector_rank),
                ""
            );
        }
    }

    fn run_queries(&self, file: &PathBuf, snapshot: &Snapshot, scope: Scope) -> Result<(), Box<dyn std::error::Error>> {
        let reader = std::io::BufReader::new(
            std::fs::File::open(file).map_err(|error| format!("cannot open {}: {error}", file.display()))?,
        );
        let mut out: Box<dyn Write> = match &self.run {
            Some(path) => Box::new(std::io::BufWriter::new(std::fs::File::create(path)?)),
            None => Box::new(std::io::stdout().lock()),
        };
        for (number, line) in reader.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let place = || format!("{}:{}", file.display(), number + 1);
            let value: serde_json::Value =
                serde_json::from_str(&line).map_err(|error| format!("{}: {error}", place()))?;
            let text = |name: &str| {
                value.get(name).and_then(|value| {
                    value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
                })
            };
            let id = text("id").or_else(|| text("_id")).ok_or_else(|| format!("{}: no `id`", place()))?;
            let query = text("text").ok_or_else(|| format!("{}: no `text`", place()))?;
            for (rank, (document, hit)) in self.search(&query, snapshot, scope).iter().enumerate() {
                writeln!(out, "{id}\t{document}\t{}\t{:.6}", rank + 1, hit.score)?;
            }
        }
        out.flush()?;
        Ok(())
    }
}
