//! `sluice key`.

use crate::{Context, Outcome};
use clap::{Args, Subcommand};
use sluice_policies::grant::Assert;
use sluice_store::{NewKey, Tenancy, now};
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Key {
    /// Make a key and show it, once.
    Create(Create),
    /// List keys; the keys themselves are not kept.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key; edges refuse it with their next snapshot.
    Revoke {
        /// Its id or its name.
        id_or_name: String,
    },
}

#[derive(Args)]
pub struct Create {
    name: String,
    /// Requests per minute; the configuration's default if left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    rpm: Option<u32>,
    /// How long the key is good for.
    #[arg(long, value_name = "N")]
    expires_seconds: Option<u32>,
    /// Routes it may use, or `*`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    routes: Option<Vec<String>>,
    /// Provider models it may name directly, or `*`. Left out: all, but none when `--routes` is given.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Option<Vec<String>>,
    /// What its requests may steer.
    #[arg(long, value_delimiter = ',', default_value = "variables", value_parser = assert, value_name = "NAMES")]
    asserts: Vec<Assert>,
    #[arg(long)]
    json: bool,
}

fn assert(name: &str) -> Result<Assert, String> {
    Assert::of_name(name).ok_or_else(|| format!("one of {}", Assert::ALL.map(Assert::name).join(", ")))
}

impl Key {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        match self {
            Key::Create(create) => create.run(&store).await?,
            Key::List { json } => {
                let keys = store.keys().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&keys)?);
                } else {
                    println!("{:<34} {:<20} {:<18} {:>10}  state", "id", "name", "key", "rpm");
                    for key in keys {
                        let state = match key.revoked_at {
                            Some(_) => "revoked",
                            None if key.expires_at > 0 && key.expires_at <= now() => "expired",
                            None => "good",
                        };
                        let rpm = if key.requests_per_minute == 0 {
                            "default".to_owned()
                        } else {
                            key.requests_per_minute.to_string()
                        };
                        println!(
                            "{:<34} {:<20} {:<18} {:>10}  {state}",
                            key.id,
                            key.name,
                            format!("{}…", key.prefix),
                            rpm
                        );
                    }
                }
            }
            Key::Revoke { id_or_name } => {
                store.revoke_key(&id_or_name).await?;
                println!("revoked {id_or_name}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    async fn run(self, store: &Tenancy) -> Result<(), Box<dyn std::error::Error>> {
        let all = || vec!["*".to_owned()];
        let models = self.models.unwrap_or_else(|| if self.routes.is_some() { Vec::new() } else { all() });
        let new = NewKey {
            name: self.name,
            requests_per_minute: self.rpm.unwrap_or(0),
            expires_at: self.expires_seconds.map_or(0, |seconds| now() + i64::from(seconds) * 1_000_000),
            routes: self.routes.unwrap_or_else(all),
            models,
            asserts: self.asserts.into_iter().map(|assert| assert.name().to_owned()).collect(),
        };
        let name = new.name.clone();
        let created = store.create_key(new).await?;
        if self.json {
            println!("{}", serde_json::json!({ "id": created.id, "name": name, "key": created.key }));
        } else {
            println!("{}", created.key);
            eprintln!("This is the only time that the key of `{name}` is shown.");
        }
        Ok(())
    }
}
