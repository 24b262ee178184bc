//! `sluice prompt`.

use crate::{Context, Outcome};
use clap::Subcommand;
use sluice_store::{PromptFile, Store};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Prompt {
    /// Store a template as the next version.
    Put {
        alias: String,
        /// A Jinja template, optionally with TOML front matter that declares its variables.
        file: PathBuf,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Put a version in force.
    Deploy {
        alias: String,
        /// The newest if left out.
        #[arg(long)]
        version: Option<i64>,
        #[arg(long, default_value = "production")]
        environment: String,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Go back to the version that was in force before.
    Rollback {
        alias: String,
        #[arg(long, default_value = "production")]
        environment: String,
        /// A version to go to instead.
        #[arg(long)]
        to: Option<i64>,
    },
    List {
        #[arg(long)]
        json: bool,
    },
    /// Print a version's templates.
    Show {
        alias: String,
        #[arg(long)]
        version: Option<i64>,
        #[arg(long)]
        json: bool,
    },
}

impl Prompt {
    pub async fn run(self, context: Context) -> Outcome {
        let store = Store::open(&context.data).await?;
        let tenant = context.tenant.as_str();
        match self {
            Prompt::Put { alias, file, note } => {
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                let parsed = PromptFile::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
                let number = store.put_prompt(tenant, &alias, &parsed, &note).await?;
                println!("{alias} version {number}");
            }
            Prompt::Deploy { alias, version, environment, note } => {
                let number = store.deploy_prompt(tenant, &alias, version, &environment, &note).await?;
                println!("{alias} version {number} is in force in {environment}");
            }
            Prompt::Rollback { alias, environment, to } => {
                let number = store.rollback_prompt(tenant, &alias, to, &environment).await?;
                println!("{alias} version {number} is in force in {environment}");
            }
            Prompt::List { json } => {
                let prompts = store.prompts(tenant).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&prompts)?);
                } else {
                    for prompt in prompts {
                        let deployed: Vec<String> = prompt
                            .deployments
                            .iter()
                            .map(|(environment, version, _)| format!("{environment}={version}"))
                            .collect();
                        println!("{:<32} {:>4} versions  {}", prompt.alias, prompt.versions, deployed.join(" "));
                    }
                }
            }
            Prompt::Show { alias, version, json } => {
                let version = store.prompt_version(tenant, &alias, version).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&version)?);
                } else {
                    println!("# {} version {} by {}: {}", version.alias, version.number, version.author, version.note);
                    for (name, default) in &version.content.variables {
                        println!(
                            "# variable {name}: {}",
                            default.as_ref().map_or("required".to_owned(), |default| format!("default {default}"))
                        );
                    }
                    for (role, template) in &version.content.messages {
                        println!("## {role}\n{template}");
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
