//! `sluice collection`.

use crate::{Context, Outcome};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Collection {
    /// List collections with their sizes and models.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say which model a collection's vectors come from. What is there is embedded anew, and serves meanwhile.
    Model {
        collection: String,
        /// A model of the configuration's `[embedders]`.
        #[arg(required_unless_present = "built_in", requires = "dimensions")]
        model: Option<String>,
        /// How many numbers a vector has.
        #[arg(long, value_name = "N")]
        dimensions: Option<usize>,
        /// The model in the program.
        #[arg(long, conflicts_with_all = ["model", "dimensions"])]
        built_in: bool,
    },
}

impl Collection {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        match self {
            Collection::List { json } => {
                let found = store.collections().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&found)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for one in found {
                    let model = one.model.as_ref().map_or("built in".to_owned(), |model| {
                        format!("{}, {} numbers, {} to come", model.model, model.dimensions, one.unembedded_chunks)
                    });
                    let private = match one.private_documents {
                        0 => String::new(),
                        count => format!(", {count} of single subjects"),
                    };
                    println!(
                        "{}: {} documents{private}, {} chunks; model {model}",
                        one.name, one.documents, one.chunks
                    );
                }
            }
            Collection::Model { collection, model, dimensions, built_in: _ } => {
                let model = model.zip(dimensions);
                let model = model.as_ref().map(|(model, dimensions)| (model.as_str(), *dimensions));
                store.set_model(&collection, model).await?;
                println!(
                    "{collection}: vectors come from {}",
                    model.map_or("the model in the program", |(name, _)| name)
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
