//! `sluice ingest`.

use crate::{Context, Outcome, chain};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_store::{Source, Tenancy};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub struct Ingest {
    collection: String,
    /// Markdown, text and JSONL files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The documents belong to this subject alone.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Goes on: what is changed, added or removed below the paths follows within a second, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(long)]
    json: bool,
}

/// How often the files are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

impl Ingest {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let source = Source::find(&self.paths)?;
        let mut seen = source.state();
        let mut documents = self.pass(&store, &source).await?;
        if !self.watch {
            return Ok(ExitCode::SUCCESS);
        }
        println!("watching; interrupt to end");
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(WATCH_PERIOD) => {}
            }
            // A path that is gone for a moment, as while an editor saves, says nothing of its documents.
            let Ok(source) = Source::find(&self.paths) else { continue };
            let state = source.state();
            if state == seen {
                continue;
            }
            match self.pass(&store, &source).await {
                Ok(now) => {
                    let gone: Vec<String> = documents.difference(&now).cloned().collect();
                    if !gone.is_empty() {
                        let removed = store.remove_documents(&self.collection, self.subject.as_deref(), &gone).await?;
                        println!("{}: {removed} documents removed", self.collection);
                    }
                    (documents, seen) = (now, state);
                }
                // The files are looked at again when they change again.
                Err(error) => {
                    eprintln!("sluice: {}", chain(&*error));
                    seen = state;
                }
            }
        }
    }

    /// Ingests what the files hold, and says which documents that are.
    async fn pass(&self, store: &Tenancy, source: &Source) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
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
            ids.insert(document.id.clone());
            Ok((document, bytes))
        });
        let summary = store
            .ingest(&self.collection, documents, |documents, bytes| {
                bar.inc(bytes);
                bar.set_message(format!("{documents} documents"));
            })
            .await?;
        bar.finish_and_clear();
        let collections = store.collections().await?;
        let chunks = collections.iter().find(|(name, ..)| *name == self.collection).map_or(0, |(.., chunks)| *chunks);
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
