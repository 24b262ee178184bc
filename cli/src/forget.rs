//! `sluice forget`.

use crate::{Context, Outcome};
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Forget {
    /// Left out only with `--subject`, whose own documents then go from all collections.
    #[arg(required_unless_present = "subject")]
    collection: Option<String>,
    /// Ids of documents.
    #[arg(required_unless_present_any = ["all", "subject"])]
    documents: Vec<String>,
    /// Every document of the collection.
    #[arg(long, conflicts_with = "documents")]
    all: bool,
    /// Whose alone the documents are.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    subject: Option<String>,
}

impl Forget {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let subject = self.subject.as_deref();
        let Some(collection) = self.collection else {
            let removed = store.erase_subject(subject.unwrap_or_default()).await?;
            println!("{removed} documents removed");
            return Ok(ExitCode::SUCCESS);
        };
        let documents = match self.all || self.documents.is_empty() {
            true => store.documents(&collection, subject).await?,
            false => self.documents,
        };
        let removed = store.remove_documents(&collection, subject, &documents).await?;
        println!("{collection}: {removed} of {} documents removed", documents.len());
        Ok(if removed == documents.len() as u64 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
