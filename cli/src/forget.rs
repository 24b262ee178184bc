//! `sluice forget`.

use crate::{Context, Outcome};
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Forget {
    collection: String,
    /// Ids of documents.
    #[arg(required_unless_present = "all")]
    documents: Vec<String>,
    /// Every document of the collection.
    #[arg(long, conflicts_with = "documents")]
    all: bool,
}

impl Forget {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let documents = match self.all {
            true => store.documents(&self.collection).await?,
            false => self.documents,
        };
        let removed = store.remove_documents(&self.collection, &documents).await?;
        println!("{}: {removed} of {} documents removed", self.collection, documents.len());
        Ok(if removed == documents.len() as u64 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
