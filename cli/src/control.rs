//! `sluice tenant`, `sluice setting`, `sluice environment`, `sluice events` and `sluice edges`.

use crate::{Context, Outcome, location};
use clap::{Args, Subcommand};
use serde_json::Value;
use sluice_store::local_actor;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Tenant {
    /// Make a tenant; one that exists is no error.
    Create {
        name: String,
    },
    List,
}

impl Tenant {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.store().await?;
        match self {
            Tenant::Create { name } => {
                store.make_tenancy(&name, &local_actor()).await?;
                println!("{name}");
            }
            Tenant::List => store.tenants().await?.iter().for_each(|name| println!("{name}")),
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Subcommand)]
pub enum Setting {
    /// Show a setting's value as JSON.
    Get {
        name: String,
    },
    /// Write a setting: JSON, or a text as it is.
    Put {
        name: String,
        value: String,
        #[arg(long, default_value = "")]
        category: String,
        /// It may be shown to who is no operator.
        #[arg(long)]
        public: bool,
    },
    List {
        #[arg(long)]
        json: bool,
    },
    Delete {
        name: String,
    },
}

impl Setting {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        match self {
            Setting::Get { name } => println!("{}", serde_json::to_string_pretty(&store.setting(&name).await?.value)?),
            Setting::Put { name, value, category, public } => {
                let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                let revision = store.put_setting(&name, &value, &category, public, None).await?;
                println!("{name} revision {revision}");
            }
            Setting::List { json } => {
                let settings = store.settings().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&settings)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for setting in settings {
                    println!("{:<32} {}", setting.name, setting.value);
                }
            }
            Setting::Delete { name } => {
                store.delete_setting(&name, None).await?;
                println!("{name} is gone");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Subcommand)]
pub enum Environment {
    /// List the environments in which it takes the scope `protected` to change what is in force.
    Protected,
    /// Protect one more environment.
    Protect { name: String },
    /// Protect it no longer.
    Unprotect { name: String },
}

impl Environment {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let before = store.protected_environments().await?;
        let mut now = before.clone();
        let changed = match &self {
            Environment::Protected => false,
            Environment::Protect { name } => now.insert(name.clone()),
            Environment::Unprotect { name } => now.remove(name),
        };
        if changed {
            store.protect(&now, Some(sluice_store::revision_of(&before))).await?;
        }
        now.iter().for_each(|name| println!("{name}"));
        Ok(ExitCode::SUCCESS)
    }
}

/// List who changed what, newest first.
#[derive(Args)]
pub struct Events {
    /// Those before this number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    before: i64,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..), value_name = "N")]
    limit: i64,
    #[arg(long)]
    json: bool,
}

impl Events {
    pub async fn run(self, context: Context) -> Outcome {
        let events = context.tenancy().await?.events(self.before, self.limit).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&events)?);
            return Ok(ExitCode::SUCCESS);
        }
        for event in events {
            let ago = (sluice_store::now() - event.at) / 1_000_000;
            println!(
                "{:>8}  {:<24} {:<32} {:<16} {ago} s ago  {}",
                event.sequence, event.kind, event.entity, event.actor, event.detail
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// List the edges, and which epoch each serves, by what it said last.
#[derive(Args)]
pub struct Edges {
    /// Where snapshots are, as a `file:///…` or `s3://…` URL; `objects` in the data folder if left out.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[arg(long)]
    json: bool,
}

impl Edges {
    pub async fn run(self, context: Context) -> Outcome {
        let location = location::open(self.to.as_deref(), &context.data)?;
        let edges = context.store().await?.edges(location).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&edges)?);
            return Ok(ExitCode::SUCCESS);
        }
        for edge in edges {
            let ago = (sluice_store::now() - edge.at) / 1_000_000;
            println!(
                "{:<40} epoch {:<8} {:<12} {ago} s ago, {} records dropped",
                edge.name, edge.epoch, edge.program, edge.dropped
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
