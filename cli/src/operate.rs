//! `sluice store`, `sluice publisher`, `sluice secret` and `sluice operator`.

use crate::{Context, Outcome};
use clap::Subcommand;
use sluice_segment::VerifyingKey;
use sluice_store::{Identity, NewOperator, Scope, forget_publisher, local_actor, prepare_publisher, rotate_publisher};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Bring the tables to this program's schema; every command does so by itself.
    Migrate,
    /// Write the SQLite database to a file, whole and consistent, while it is in use.
    Backup { file: PathBuf },
    /// Put a backup in the place of the SQLite database; nothing may use the data folder meanwhile.
    Restore {
        file: PathBuf,
        /// Replace a database that is there.
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Subcommand)]
pub enum Publisher {
    /// List the public keys of the publisher; the one that it signs with is marked.
    Keys,
    /// Make the key that will be signed with after the next rotation, and show its public key.
    Prepare,
    /// Sign with the key that was prepared, once every edge trusts it.
    Rotate,
    /// Trust an earlier key no longer, or drop the one that was prepared.
    Forget { key: String },
}

impl Publisher {
    pub async fn run(self, context: Context) -> Outcome {
        let hexadecimal = |key: &VerifyingKey| hex::encode(key.as_bytes());
        match self {
            Publisher::Keys => {
                let identity = Identity::open(&context.data)?;
                for key in &identity.trusted {
                    let mark = if *key == identity.signing_key.verifying_key() { "  signs" } else { "" };
                    println!("{}{mark}", hexadecimal(key));
                }
            }
            Publisher::Prepare => {
                println!("{}", hexadecimal(&prepare_publisher(&context.data)?));
                eprintln!("Add it to `snapshot.trusted_keys` of every edge, then run `sluice publisher rotate`.");
            }
            Publisher::Rotate => {
                println!("{} signs from the next publication on", hexadecimal(&rotate_publisher(&context.data)?));
            }
            Publisher::Forget { key } => {
                forget_publisher(&context.data, &key)?;
                println!("{key} is trusted no longer");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Subcommand)]
pub enum Secret {
    /// Seal a provider's credential; it is read from standard input.
    Put {
        name: String,
        /// The provider's scheme and host, as `https://api.openai.com`; the secret is sent nowhere else.
        #[arg(long)]
        origin: String,
    },
    List {
        #[arg(long)]
        json: bool,
    },
    Delete {
        name: String,
    },
    /// Make a new store key and seal every secret with it.
    Rotate,
}

#[derive(Subcommand)]
pub enum Operator {
    /// Make an operator of the API and show the token, once.
    Create {
        name: String,
        /// What it may do.
        #[arg(long, value_delimiter = ',', default_value = "read", value_parser = scope, value_name = "SCOPES")]
        scopes: Vec<Scope>,
        /// Bind it to the tenant of `--tenant`.
        #[arg(long)]
        bound: bool,
        #[arg(long, value_name = "N")]
        expires_seconds: Option<u32>,
    },
    List {
        #[arg(long)]
        json: bool,
    },
    Revoke {
        name: String,
    },
}

fn scope(name: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.name() == name);
    found.ok_or_else(|| format!("one of {}", Scope::ALL.map(Scope::name).join(", ")))
}

impl StoreCommand {
    pub async fn run(self, context: Context) -> Outcome {
        match self {
            StoreCommand::Migrate => {
                context.store().await?;
                println!("the store has this program's schema");
            }
            StoreCommand::Backup { file } => {
                context.store().await?.backup(&file).await?;
                println!("the database is in {}; keep it with copies of the data folder's keys", file.display());
            }
            StoreCommand::Restore { file, replace } => {
                if context.store.is_some() {
                    return Err("the store is the database that SLUICE_STORE names, which `pg_restore` restores; without it a SQLite backup is put in place".into());
                }
                sluice_store::restore(&context.data, &file, replace).await?;
                println!("{} is the store's database now", file.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Secret {
    pub async fn run(self, context: Context) -> Outcome {
        match self {
            Secret::Put { name, origin } => {
                // Not an argument: those are seen by everybody on the machine.
                let mut value = String::new();
                std::io::stdin().take(64 << 10).read_to_string(&mut value)?;
                let kept = context.tenancy().await?.put_secret(&name, &origin, &value).await?;
                println!("{} is sealed, for {} alone", kept.name, kept.origin);
            }
            Secret::List { json } => {
                let secrets = context.tenancy().await?.secrets().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&secrets)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for secret in secrets {
                    println!(
                        "{:<24} …{:<6} {:<40} key {}",
                        secret.name, secret.last_four, secret.origin, secret.key_id
                    );
                }
            }
            Secret::Delete { name } => {
                context.tenancy().await?.delete_secret(&name).await?;
                println!("{name} is gone");
            }
            Secret::Rotate => {
                let sealed = context.store().await?.rotate_store_key(&local_actor()).await?;
                println!("{sealed} secrets are sealed with the new key");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Operator {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        match self {
            Operator::Create { name, scopes, bound, expires_seconds } => {
                let tenant = bound.then(|| context.tenant.clone());
                let token = store.create_operator(&NewOperator { name, tenant, scopes, expires_seconds }).await?;
                println!("{token}");
                eprintln!("This is the only time that the token is shown.");
            }
            Operator::List { json } => {
                let operators = context.store().await?.operators().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&operators)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for operator in operators {
                    let state = if operator.revoked_at.is_some() { "revoked" } else { "good" };
                    let tenant = operator.tenant.unwrap_or_else(|| "all tenants".to_owned());
                    println!("{:<24} {:<20} {:<40} {state}", operator.name, tenant, operator.scopes.join(","));
                }
            }
            Operator::Revoke { name } => {
                store.revoke_operator(&name).await?;
                println!("{name} is revoked");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
