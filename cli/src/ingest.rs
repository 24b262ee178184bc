//! `sluice ingest`.

use crate::{Context, Outcome};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_store::Source;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Ingest {
    collection: String,
    /// Markdown, text and JSONL files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl Ingest {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let source = Source::find(&self.paths)?;
        // Drawn on standard error, and only where that is a terminal.
        let bar = ProgressBar::new(source.bytes());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg} {eta}") {
            bar.set_style(style);
        }
        let summary = store
            .ingest(&self.collection, source.documents(), |documents, bytes| {
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
        Ok(ExitCode::SUCCESS)
    }
}
