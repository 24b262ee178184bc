//! `sluice prompt`.

use crate::{Context, Outcome};
use clap::Subcommand;
use serde_json::Value;
use sluice_store::{Change, Content, Deploy, Kind, Preview, PromptContent};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Prompt {
    /// Store a template as the next version.
    Put {
        alias: String,
        /// A Jinja template, optionally with TOML front matter (`variables`, `parameters`, `role`); or JSON with
        /// `messages`. For tools, agents, policies and flows a JSON object.
        file: PathBuf,
        #[arg(long, default_value = "")]
        note: String,
        /// Refuse if the newest version is not this one any more (0: there is none yet).
        #[arg(long, value_name = "VERSION")]
        expect: Option<i64>,
    },
    /// Keep a file as the draft, which is no version yet; without a file print the draft.
    Draft {
        alias: String,
        file: Option<PathBuf>,
        /// Refuse if the artifact's revision is not this one any more.
        #[arg(long, value_name = "REVISION")]
        expect: Option<i64>,
    },
    /// Make the draft the next version.
    Publish {
        alias: String,
        #[arg(long, default_value = "")]
        note: String,
        /// Refuse if the artifact's revision is not this one any more.
        #[arg(long, value_name = "REVISION")]
        expect: Option<i64>,
    },
    /// Print what it would say, without deploying or sending it.
    Render {
        alias: String,
        /// The newest if left out.
        #[arg(long)]
        version: Option<i64>,
        #[arg(long, default_value = "production")]
        environment: String,
        /// A variable's value: JSON, or a text as it is.
        #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = variable)]
        variables: Vec<(String, Value)>,
        /// For the cost, from the setting `prices`.
        #[arg(long)]
        model: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Change what is said of it beside its versions.
    Change {
        alias: String,
        #[arg(long)]
        title: Option<String>,
        /// Instead of those that it has, with commas between them.
        #[arg(long, value_delimiter = ',', num_args = 0..)]
        tags: Option<Vec<String>>,
        /// `private`, or `public`: operators of other tenants may read it.
        #[arg(long)]
        visibility: Option<String>,
        /// Whether its requests get retrieved context, rules, examples and tools.
        #[arg(long, value_name = "true|false")]
        context_engineering: Option<bool>,
    },
    /// Put a version in force.
    Deploy {
        alias: String,
        /// The newest that is not deprecated if left out.
        #[arg(long)]
        version: Option<i64>,
        #[arg(long, default_value = "production")]
        environment: String,
        #[arg(long, default_value = "")]
        note: String,
        /// Refuse if the newest revision is not this one any more (0: nothing was deployed yet).
        #[arg(long, value_name = "REVISION")]
        expect: Option<i64>,
    },
    /// Go back to the version that was in force before.
    Rollback {
        alias: String,
        #[arg(long, default_value = "production")]
        environment: String,
        /// A version to go to instead.
        #[arg(long)]
        to: Option<i64>,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Take a prompt out of force.
    Withdraw {
        alias: String,
        #[arg(long, default_value = "production")]
        environment: String,
        #[arg(long, default_value = "")]
        note: String,
    },
    List {
        #[arg(long)]
        json: bool,
        /// Archived ones too.
        #[arg(long)]
        archived: bool,
    },
    /// Print a version's templates.
    Show {
        alias: String,
        #[arg(long)]
        version: Option<i64>,
        #[arg(long)]
        json: bool,
    },
    /// List versions, or what was deployed when.
    History {
        alias: String,
        /// Deployments instead of versions.
        #[arg(long)]
        deployments: bool,
        #[arg(long, default_value_t = 50)]
        limit: i64,
        #[arg(long)]
        json: bool,
    },
    /// Show what its versions have brought, as far as their runs are still kept.
    Stats {
        alias: String,
        #[arg(long)]
        json: bool,
    },
    /// Show what differs between two versions.
    Diff { alias: String, from: i64, to: i64 },
    /// Allow to be used again.
    Enable { alias: String },
    /// Forbid to be used; refused while it is in use.
    Disable { alias: String },
    /// Put away; refused while it is in use.
    Archive {
        alias: String,
        /// Take it out of the archive.
        #[arg(long)]
        undo: bool,
    },
    /// Make it the tenant's default prompt.
    Default { alias: String },
    /// Mark a version as not to be used for anything new.
    Deprecate {
        alias: String,
        version: i64,
        #[arg(long)]
        undo: bool,
    },
    /// Remove with all its history; refused while it is in use.
    Delete { alias: String },
}

fn variable(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// A file's content, as what it is for.
fn read(kind: Kind, file: &Path) -> Result<Content, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let content = match kind.is_template() {
        true => PromptContent::parse(&text).and_then(|content| Content::from(content).checked(kind)),
        false => Content::read(kind, &text),
    };
    content.map_err(|error| format!("{}: {error}", file.display()))
}

impl Prompt {
    pub async fn run(self, context: Context, kind: Kind) -> Outcome {
        let store = context.tenancy().await?;
        let deploy = |environment, note, expected_revision| Deploy { environment, note, expected_revision };
        match self {
            Prompt::Put { alias, file, note, expect } => {
                let number = store.put_version(kind, &alias, &read(kind, &file)?, &note, expect).await?;
                println!("{alias} version {number}");
            }
            Prompt::Draft { alias, file: Some(file), expect } => {
                let revision = store.put_draft(kind, &alias, &read(kind, &file)?, expect).await?;
                println!("{alias} has a draft and is at revision {revision}; `publish` makes it a version");
            }
            Prompt::Draft { alias, file: None, .. } => {
                println!("{}", serde_json::to_string_pretty(&store.draft(kind, &alias).await?.0)?);
            }
            Prompt::Publish { alias, note, expect } => {
                let number = store.publish_draft(kind, &alias, &note, expect).await?;
                println!("{alias} version {number}");
            }
            Prompt::Render { .. } if !matches!(kind, Kind::Prompt | Kind::Persona) => {
                return Err(format!("a {kind} is not rendered by itself; prompts and personas are").into());
            }
            Prompt::Render { alias, version, environment, variables, model, json } => {
                let variables = variables.into_iter().collect();
                let asked = Preview { content: None, alias: Some(alias), version, environment, variables, model };
                let shown = store.preview(&asked).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&shown)?);
                } else {
                    for message in &shown.messages {
                        println!("## {}\n{}", message.role, message.content);
                    }
                    let cost = shown.input_cost.map_or(String::new(), |cost| format!(", {cost:.6} as input"));
                    eprintln!("{} tokens{cost}", shown.tokens);
                }
                if let Some(error) = shown.error {
                    return Err(error.into());
                }
            }
            Prompt::Change { alias, title, tags, visibility, context_engineering: context } => {
                let change =
                    Change { title, tags, visibility, context_engineering_enabled: context, ..Change::default() };
                store.change(kind, &alias, &change, None).await?;
                println!("{alias} is changed");
            }
            Prompt::Deploy { alias, version, environment, note, expect } => {
                let (number, _) = store.deploy(kind, &alias, version, deploy(&environment, &note, expect)).await?;
                println!("{alias} version {number} is in force in {environment}");
            }
            Prompt::Rollback { alias, environment, to, note } => {
                let (number, _) = store.roll_back(kind, &alias, to, deploy(&environment, &note, None)).await?;
                println!("{alias} version {number} is in force in {environment}");
            }
            Prompt::Withdraw { alias, environment, note } => {
                store.withdraw(kind, &alias, deploy(&environment, &note, None)).await?;
                println!("{alias} is out of force in {environment}");
            }
            Prompt::List { json, archived } => {
                let artifacts = store.artifacts(Some(kind), archived, "", i64::MAX).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&artifacts)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for artifact in artifacts {
                    let deployed: Vec<String> = artifact
                        .deployments
                        .iter()
                        .map(|deployed| format!("{}={}", deployed.environment, deployed.version))
                        .collect();
                    let mut state = deployed.join(" ");
                    for (is, word) in [
                        (!artifact.enabled, "disabled"),
                        (artifact.archived_at.is_some(), "archived"),
                        (artifact.is_default, "default"),
                        (artifact.has_draft, "draft"),
                    ] {
                        if is {
                            state.push_str(" (");
                            state.push_str(word);
                            state.push(')');
                        }
                    }
                    println!("{:<32} {:>4} versions  {}", artifact.alias, artifact.versions, state.trim_start());
                }
            }
            Prompt::Show { alias, version, json } => {
                let version = store.version(kind, &alias, version).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&version)?);
                    return Ok(ExitCode::SUCCESS);
                }
                println!("# {} version {} by {}: {}", version.alias, version.number, version.author, version.note);
                match &version.content {
                    Content::Data(data) => println!("{}", serde_json::to_string_pretty(data)?),
                    Content::Template(content) => {
                        for (name, variable) in content.variables.iter().flatten() {
                            let default = variable.default.as_ref();
                            println!(
                                "# variable {name}: {}",
                                default.map_or("required".to_owned(), |default| format!("default {default}"))
                            );
                        }
                        for message in &content.messages {
                            println!("## {}\n{}", message.role, message.content);
                        }
                        if let Value::Object(parts) = content.behavior() {
                            for (name, part) in parts {
                                println!("# {name}\n{}", serde_json::to_string_pretty(&part)?);
                            }
                        }
                    }
                }
            }
            Prompt::History { alias, deployments: true, limit, json } => {
                let mut history = store.history(kind, &alias, None).await?;
                history.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                if json {
                    println!("{}", serde_json::to_string_pretty(&history)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for entry in history {
                    let version = entry.version.map_or("withdrawn".to_owned(), |version| format!("version {version}"));
                    println!(
                        "{:<16} {:>4}  {version:<14} {}  {}",
                        entry.environment, entry.revision, entry.actor, entry.note
                    );
                }
            }
            Prompt::History { alias, deployments: false, limit, json } => {
                let versions = store.versions(kind, &alias, limit).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&versions)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for version in versions {
                    println!(
                        "{:>4}  {:<10} {}  {}  {}",
                        version.number,
                        version.status,
                        &version.content_hash[..12],
                        version.author,
                        version.note
                    );
                }
            }
            Prompt::Stats { alias, json } => {
                let versions = store.statistics(kind, &alias).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&versions)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for version in versions {
                    let said = version
                        .feedback
                        .iter()
                        .map(|said| format!("{} {:.3} ({})", said.metric, said.mean, said.count));
                    println!(
                        "{:>4}  {:>8} runs  {:>6.2} % good  {:>9}+{:<9} tokens  {:>10.4}  {:>8.1} ms  {}",
                        version.version,
                        version.runs,
                        version.success_rate * 100.0,
                        version.input_tokens,
                        version.output_tokens,
                        version.cost,
                        version.mean_milliseconds,
                        said.collect::<Vec<_>>().join(", ")
                    );
                }
            }
            Prompt::Diff { alias, from, to } => print!("{}", store.diff(kind, &alias, from, to).await?),
            Prompt::Enable { alias } => {
                store.change(kind, &alias, &Change { enabled: Some(true), ..Change::default() }, None).await?;
                println!("{alias} is enabled");
            }
            Prompt::Disable { alias } => {
                store.change(kind, &alias, &Change { enabled: Some(false), ..Change::default() }, None).await?;
                println!("{alias} is disabled");
            }
            Prompt::Archive { alias, undo } => {
                store.change(kind, &alias, &Change { archived: Some(!undo), ..Change::default() }, None).await?;
                println!("{alias} is {}", if undo { "out of the archive" } else { "archived" });
            }
            Prompt::Default { alias } => {
                store.change(kind, &alias, &Change { is_default: Some(true), ..Change::default() }, None).await?;
                println!("{alias} is the default prompt");
            }
            Prompt::Deprecate { alias, version, undo } => {
                store.deprecate(kind, &alias, version, !undo).await?;
                println!("{alias} version {version} is {}", if undo { "good again" } else { "deprecated" });
            }
            Prompt::Delete { alias } => {
                store.delete_artifact(kind, &alias, None).await?;
                println!("{alias} is gone");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
