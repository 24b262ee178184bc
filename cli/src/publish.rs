//! `sluice publish`.

use crate::{Context, Outcome, chain, location, log};
use clap::Args;
use sluice_config::{Log, LogFormat, LogLevel};
use sluice_state::announce;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Args)]
pub struct Publish {
    /// Where to, as a `file:///…` URL; `objects` in the data folder if left out.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    notify: Notify,
}

#[derive(Args)]
pub struct Notify {
    /// Where edges listen for publications: the URL of `snapshot.notify`.
    #[arg(long, value_name = "URL", env = "SLUICE_NOTIFY", hide_env_values = true)]
    notify: Option<String>,
}

impl Notify {
    /// Announces an epoch. One that cannot be announced is in force all the same.
    pub async fn tell(&self, epoch: u64) {
        if let Some(url) = &self.notify
            && let Err(error) = announce(url, epoch).await
        {
            let error = chain(&error);
            eprintln!("sluice: epoch {epoch} is published but not announced ({error}); edges find it when they poll");
        }
    }
}

impl Publish {
    pub async fn run(self, context: Context) -> Outcome {
        // What is left out of a publication is said.
        log::start(&Log { level: LogLevel::Warn, format: LogFormat::Human });
        let store = context.store().await?;
        let location = location::open(self.to.as_deref(), &context.data)?;
        let done = store.publish(Arc::clone(&location)).await?;
        match done.changed {
            true => println!(
                "epoch {} published: {} segments built, {} kept, {} bytes written",
                done.epoch, done.segments_built, done.segments_kept, done.bytes
            ),
            false => println!("epoch {} is in force already; nothing changed", done.epoch),
        }
        if done.sealed_kept > 0 {
            eprintln!("sluice: the store's key cannot be had; {} credentials stay as they are", done.sealed_kept);
        }
        self.notify.tell(done.epoch).await;
        while store.compact(Arc::clone(&location)).await? {}
        store.sweep(location).await?;
        if let Some(failed) = done.failed {
            return Err(format!("everything but the new documents of a collection is published: {failed}").into());
        }
        Ok(ExitCode::SUCCESS)
    }
}
