//! `sluice epoch`.

use crate::publish::Notify;
use crate::{Context, Outcome, location};
use clap::Subcommand;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Subcommand)]
pub enum Epoch {
    /// List the publications that can be gone back to.
    List(Place),
    /// Have the prompts of an epoch in force, for all tenants, until `resume`. Keys, credentials and documents stay.
    Rollback {
        epoch: u64,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        notify: Notify,
    },
    /// Have what is deployed in force again.
    Resume {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        notify: Notify,
    },
}

#[derive(clap::Args)]
pub struct Place {
    /// Where snapshots are, as a `file:///…` or `s3://…` URL; `objects` in the data folder if left out.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
}

impl Epoch {
    pub async fn run(self, context: Context) -> Outcome {
        let (place, change) = match &self {
            Epoch::List(place) => (place, None),
            Epoch::Rollback { epoch, place, notify } => (place, Some((Some(*epoch), notify))),
            Epoch::Resume { place, notify } => (place, Some((None, notify))),
        };
        let location = location::open(place.to.as_deref(), &context.data)?;
        let tenancy = context.tenancy().await?;
        let store = context.store().await?;
        let Some((back_to, notify)) = change else {
            for epoch in store.epochs(&location).await? {
                let note = if epoch.rolled_back_to { "  its prompts are in force" } else { "" };
                println!("{}  {} s ago{note}", epoch.epoch, (sluice_store::now() - epoch.published_at) / 1_000_000);
            }
            return Ok(ExitCode::SUCCESS);
        };
        tenancy.go_back(&location, back_to).await?;
        let done = store.publish(Arc::clone(&location)).await?;
        notify.tell(done.epoch).await;
        match back_to {
            Some(epoch) => println!("epoch {} has the prompts of epoch {epoch}", done.epoch),
            None => println!("epoch {} has what is deployed", done.epoch),
        }
        Ok(ExitCode::SUCCESS)
    }
}
