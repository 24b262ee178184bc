//! `sluice experiment`, and `sluice runs`.

use crate::{Context, Outcome};
use clap::{Args, Subcommand};
use sluice_store::{Arm, ExperimentChange, NewExperiment};
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Experiment {
    /// Make an experiment over versions of a prompt; it does not run yet.
    Create {
        name: String,
        #[arg(long, value_name = "ALIAS")]
        prompt: String,
        #[arg(long, default_value = "production")]
        environment: String,
        /// One version that is compared, as `NAME=VERSION:WEIGHT`; again for each. Weights add up to at most 1.
        #[arg(long = "arm", value_name = "ARM", value_parser = arm, required = true)]
        arms: Vec<Arm>,
        /// What is counted as one: `session`, `subject`, `key` or `request`.
        #[arg(long, default_value = "session")]
        unit: String,
        /// The share of every arm's units that takes part.
        #[arg(long, default_value_t = 1.0)]
        coverage: f64,
        /// The feedback metric that decides.
        #[arg(long, default_value = "")]
        metric: String,
    },
    Start {
        name: String,
    },
    Stop {
        name: String,
    },
    /// Change coverage or metric, or add arms; ranges of arms never move.
    Change {
        name: String,
        #[arg(long)]
        coverage: Option<f64>,
        #[arg(long)]
        metric: Option<String>,
        #[arg(long = "arm", value_name = "ARM", value_parser = arm)]
        arms: Vec<Arm>,
    },
    List {
        #[arg(long)]
        json: bool,
    },
    /// What each arm has brought so far.
    Results {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Remove an experiment that does not run.
    Delete {
        name: String,
    },
}

fn arm(text: &str) -> Result<Arm, String> {
    let read = || {
        let (name, rest) = text.split_once('=')?;
        let (version, weight) = rest.split_once(':')?;
        Some(Arm { name: name.to_owned(), version: version.parse().ok()?, weight: weight.parse().ok()?, start: None })
    };
    read().ok_or_else(|| "write it as NAME=VERSION:WEIGHT, for example short=3:0.5".to_owned())
}

impl Experiment {
    pub async fn run(self, context: Context) -> Outcome {
        let store = context.tenancy().await?;
        let state = |state: &str| ExperimentChange { state: Some(state.to_owned()), ..ExperimentChange::default() };
        match self {
            Experiment::Create { name, prompt, environment, arms, unit, coverage, metric } => {
                let new = NewExperiment { name, prompt, environment, unit, coverage, arms, metric, seed: None };
                let made = store.create_experiment(&new).await?;
                println!("{} is ready; start it with `sluice experiment start {}`", made.name, made.name);
            }
            Experiment::Start { name } => {
                store.change_experiment(&name, &state("running"), None).await?;
                println!("{name} runs");
            }
            Experiment::Stop { name } => {
                store.change_experiment(&name, &state("stopped"), None).await?;
                println!("{name} is stopped; everybody gets what is deployed");
            }
            Experiment::Change { name, coverage, metric, arms } => {
                let arms = Some(arms).filter(|arms| !arms.is_empty());
                let change = ExperimentChange { coverage, metric, arms, state: None };
                let changed = store.change_experiment(&name, &change, None).await?;
                println!("{name} is at revision {}", changed.revision);
            }
            Experiment::List { json } => {
                let experiments = store.experiments().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&experiments)?);
                    return Ok(ExitCode::SUCCESS);
                }
                for one in experiments {
                    let arms: Vec<String> =
                        one.arms.iter().map(|arm| format!("{}={}:{}", arm.name, arm.version, arm.weight)).collect();
                    println!(
                        "{:<24} {:<8} {} in {}, {} of each {}: {}",
                        one.name,
                        one.state,
                        one.prompt,
                        one.environment,
                        one.coverage,
                        one.unit,
                        arms.join(" ")
                    );
                }
            }
            Experiment::Results { name, json } => {
                let results = store.results(&name).await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&results)?);
                    return Ok(ExitCode::SUCCESS);
                }
                println!(
                    "{:<20} {:>8} {:>8} {:>7} {:>9} {:>8} {:>18}",
                    "arm", "units", "runs", "errors", "mean ms", "values", results.experiment.metric
                );
                for arm in &results.arms {
                    let mean = match (arm.mean, arm.margin) {
                        (Some(mean), Some(margin)) => format!("{mean:.3} ± {margin:.3}"),
                        (Some(mean), None) => format!("{mean:.3}"),
                        _ => "-".to_owned(),
                    };
                    println!(
                        "{:<20} {:>8} {:>8} {:>7} {:>9.1} {:>8} {mean:>18}",
                        arm.arm, arm.units, arm.runs, arm.errors, arm.mean_milliseconds, arm.values
                    );
                }
                if results.sample_ratio_p.is_some_and(|p| p < 0.001) {
                    println!("The arms' shares are far from their weights; something mixes them up.");
                }
            }
            Experiment::Delete { name } => {
                store.delete_experiment(&name, None).await?;
                println!("{name} is gone");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `sluice runs`.
#[derive(Args)]
pub struct Runs {
    /// How many, the newest first.
    #[arg(long, default_value_t = 20)]
    limit: i64,
    /// Only runs before this one.
    #[arg(long, value_name = "RUN")]
    before: Option<String>,
    #[arg(long)]
    json: bool,
    /// What was said in one run, of a tenant that keeps it by the setting `run_content`, as JSON.
    #[arg(long, value_name = "RUN", conflicts_with = "limit")]
    content: Option<String>,
}

impl Runs {
    pub async fn run(self, context: Context) -> Outcome {
        if let Some(run) = self.content {
            let content = context.tenancy().await?.run_content(&run).await?;
            println!("{}", serde_json::to_string(&content)?);
            return Ok(ExitCode::SUCCESS);
        }
        let runs = context.tenancy().await?.runs(self.before.as_deref(), self.limit).await?;
        if self.json {
            println!("{}", serde_json::to_string(&runs)?);
            return Ok(ExitCode::SUCCESS);
        }
        for run in runs {
            println!(
                "{} {:>3} {:>9.1} ms {:>6}+{:<6} {:>10} {:<20} {:<24} {}",
                run.id,
                run.status,
                run.total_microseconds as f64 / 1_000.0,
                run.input_tokens,
                run.output_tokens,
                run.cost.map_or("-".to_owned(), |cost| format!("{cost:.6}")),
                run.route,
                if run.prompt.is_empty() { String::new() } else { format!("{}@{}", run.prompt, run.version) },
                if run.error.is_empty() { run.arm } else { run.error }
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// List what was said of requests, newest first.
#[derive(Args)]
pub struct Feedback {
    /// Of this metric alone.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    metric: String,
    /// Of this run alone.
    #[arg(long)]
    run: Option<String>,
    #[arg(long, default_value_t = 20)]
    limit: i64,
    #[arg(long)]
    json: bool,
}

impl Feedback {
    pub async fn run(self, context: Context) -> Outcome {
        let feedback = context.tenancy().await?.feedback(&self.metric, self.run.as_deref(), self.limit).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&feedback)?);
            return Ok(ExitCode::SUCCESS);
        }
        for said in feedback {
            let value = said.value.map_or("-".to_owned(), |value| value.to_string());
            println!(
                "{:<8} {} {:<20} {:<12} {value:<8} {}",
                said.unit_kind, said.unit, said.metric, said.source, said.comment
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
