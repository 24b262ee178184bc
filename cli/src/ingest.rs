//! `sluice ingest`.

use crate::{Context, Outcome, chain};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_store::{IngestError, ReadError, Source, Tenancy};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub struct Ingest {
    collection: String,
    /// Markdown, text and JSONL files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The documents belong to this subject alone.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    subject: Option<String>,
    /// Goes on: what is changed, added or removed below the paths follows within a second, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(long)]
    json: bool,
}

/// How often the files are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// A document's subject and its id.
type Owned = (Option<String>, String);

impl Ingest {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let source = Source::find(&self.paths)?;
        let mut seen = source.state();
        let mut documents = self.pass(&store, &source).await?;
        if !self.watch {
            return Ok(ExitCode::SUCCESS);
        }
        // Listened for from here on, so that an interrupt while the files are read ends the watch, too.
        let mut interrupt = signal(SignalKind::interrupt())?;
        println!("watching; interrupt to end");
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(WATCH_PERIOD) => {}
            }
            // A path that is gone for a moment, as while an editor saves, says nothing of its documents; a folder
            // without files does.
            let source = match Source::find(&self.paths) {
                Ok(source) => source,
                Err(ReadError::Nothing(_)) if self.paths.len() == 1 => Source::default(),
                Err(_) => continue,
            };
            let state = source.state();
            if state == seen {
                continue;
            }
            match self.follow(&store, &source, &documents).await {
                Ok(now) => (documents, seen) = (now, state),
                Err(error) => {
                    eprintln!("sluice: {}", chain(&*error));
                    // What a file holds is looked at again when it changes; what the store did not take is tried again.
                    if error.is::<ReadError>() {
                        seen = state;
                    }
                }
            }
        }
    }

    /// Ingests what the files hold, and removes what they held before and do not now.
    async fn follow(
        &self,
        store: &Tenancy,
        source: &Source,
        before: &BTreeSet<Owned>,
    ) -> Result<BTreeSet<Owned>, Box<dyn std::error::Error>> {
        let now = self.pass(store, source).await?;
        let mut gone: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
        for (subject, id) in before.difference(&now) {
            gone.entry(subject.as_deref()).or_default().push(id.clone());
        }
        for (subject, ids) in gone {
            let removed = store.remove_documents(&self.collection, subject, &ids).await?;
            println!("{}: {removed} documents removed", self.collection);
        }
        Ok(now)
    }

    /// Ingests what the files hold, and says which documents that are.
    async fn pass(&self, store: &Tenancy, source: &Source) -> Result<BTreeSet<Owned>, Box<dyn std::error::Error>> {
        // Drawn on standard error, and only where that is a terminal.
        let bar = ProgressBar::new(source.bytes());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg} {eta}") {
            bar.set_style(style);
        }
        let mut ids = BTreeSet::new();
        let documents = source.documents().map(|document| {
            let (mut document, bytes) = document?;
            if self.subject.is_some() {
                document.subject.clone_from(&self.subject);
            }
            ids.insert((document.subject.clone(), document.id.clone()));
            Ok((document, bytes))
        });
        let summary = store
            .ingest(&self.collection, documents, |documents, bytes| {
                bar.inc(bytes);
                bar.set_message(format!("{documents} documents"));
            })
            .await
            .map_err(|error| match error {
                IngestError::Read(error) => Box::<dyn std::error::Error>::from(error),
                IngestError::Store(error) => error.into(),
            })?;
        bar.finish_and_clear();
        let collections = store.collections().await?;
        let chunks = collections.iter().find(|one| one.name == self.collection).map_or(0, |one| one.chunks);
        if self.json {
            println!(
                "{}",
                serde_json::json!({
                    "collection": self.collection, "documents": summary.documents, "chunks": chunks,
                    "new": summary.new, "unchanged": summary.unchanged, "duplicate_chunks": summary.duplicate_chunks,
                })
            );
        } else {
            println!(
                "{}: {} documents, {} chunks, {} new, {} unchanged",
                self.collection, summary.documents, chunks, summary.new, summary.unchanged
            );
        }
        Ok(ids)
    }
}
