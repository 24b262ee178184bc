//! `sluice verify`.

use crate::{Context, Outcome, location};
use clap::Args;
use sluice_store::{read_publisher_keys, verify_published};
use std::process::ExitCode;

#[derive(Args)]
pub struct Verify {
    /// Where, as a `file:///…` URL; `objects` in the data folder if left out.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

impl Verify {
    pub async fn run(self, context: Context) -> Outcome {
        let trusted = read_publisher_keys(&context.data)?;
        match verify_published(location::open(self.from.as_deref(), &context.data)?, &trusted).await {
            Ok(manifest) => {
                println!("epoch {}: {} objects are what their names say", manifest.epoch, manifest.objects().count());
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                eprintln!("sluice: {}", crate::chain(&error));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
