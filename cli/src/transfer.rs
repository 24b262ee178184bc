//! `sluice export` and `sluice import`.

use crate::{Context, Outcome};
use clap::{Args, ValueEnum};
use sluice_store::{Bundle, Format, Import, ImportReport, Kind, OnConflict};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct Export {
    /// Where to; standard output if left out.
    file: Option<PathBuf>,
    /// Artifacts of one kind alone.
    #[arg(long)]
    kind: Option<Kind>,
}

#[derive(Args)]
pub struct Bring {
    /// A bundle, or files and folders of prompts: Jinja, dotprompt, prompty, mustache, Langfuse's JSON, JSON of
    /// context-engineering rows.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How the files are written; by their endings if left out.
    #[arg(long, value_enum)]
    format: Option<Written>,
    /// What happens where an alias exists with other contents.
    #[arg(long, value_enum, default_value = "fail")]
    on_conflict: Conflict,
    /// Leave out what cannot be imported, instead of importing nothing.
    #[arg(long)]
    keep_going: bool,
    /// Put the newest version of each template in force there.
    #[arg(long, value_name = "ENVIRONMENT")]
    deploy: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Written {
    Jinja,
    Dotprompt,
    Prompty,
    Mustache,
    Langfuse,
    ContextEngineering,
}

#[derive(Clone, Copy, ValueEnum)]
enum Conflict {
    Fail,
    Skip,
    Rename,
    NewVersion,
}

impl Export {
    pub async fn run(self, context: Context) -> Outcome {
        let bundle = context.tenancy().await?.export(self.kind).await?;
        let text = serde_json::to_string_pretty(&bundle)? + "\n";
        match self.file {
            None => print!("{text}"),
            Some(file) => {
                std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
                println!("{} artifacts exported to {}", bundle.artifacts.len(), file.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Bring {
    pub async fn run(self, context: Context) -> Outcome {
        let import = Import {
            on_conflict: match self.on_conflict {
                Conflict::Fail => OnConflict::Fail,
                Conflict::Skip => OnConflict::Skip,
                Conflict::Rename => OnConflict::Rename,
                Conflict::NewVersion => OnConflict::NewVersion,
            },
            keep_going: self.keep_going,
            deploy_to: self.deploy.as_deref(),
        };
        let format = self.format.map(|format| match format {
            Written::Jinja => Format::Jinja,
            Written::Dotprompt => Format::Dotprompt,
            Written::Prompty => Format::Prompty,
            Written::Mustache => Format::Mustache,
            Written::Langfuse => Format::Langfuse,
            Written::ContextEngineering => Format::ContextEngineering,
        });
        let files = read(&self.paths)?;
        let store = context.tenancy().await?;
        let bundle = match files.as_slice() {
            [(_, text)] if format.is_none() && text.contains("\"sluice-bundle/") => Some(
                serde_json::from_str::<Bundle>(text).map_err(|error| format!("the bundle is not valid: {error}"))?,
            ),
            _ => None,
        };
        let report = match bundle {
            Some(bundle) => store.import(bundle, &import).await?,
            None => store.migrate(&files, format, &import).await?,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            tell(&report);
        }
        Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn tell(report: &ImportReport) {
    println!(
        "{} created, {} updated, {} unchanged, {} skipped, {} renamed, {} failed",
        report.created.len(),
        report.updated.len(),
        report.unchanged.len(),
        report.skipped.len(),
        report.renamed.len(),
        report.failed.len()
    );
    for renamed in &report.renamed {
        println!("renamed: {} is {} here", renamed.from, renamed.to);
    }
    for warning in &report.warnings {
        println!("note: {warning}");
    }
    for failed in &report.failed {
        println!("failed: {}: {}", failed.name, failed.reason);
    }
}

/// Every file of `paths`, folders recursively, with its name below the folder.
fn read(paths: &[PathBuf]) -> Result<Vec<(String, String)>, String> {
    let mut files = Vec::new();
    for path in paths {
        walk(path, path, &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn walk(root: &Path, path: &Path, files: &mut Vec<(String, String)>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                walk(root, &entry.path(), files)?;
            }
        }
        return Ok(());
    }
    let name = path.strip_prefix(root).unwrap_or(path);
    let name = if name.as_os_str().is_empty() { path.file_name().map(Path::new).unwrap_or(path) } else { name };
    files.push((name.to_string_lossy().into_owned(), std::fs::read_to_string(path).map_err(failed)?));
    Ok(())
}
