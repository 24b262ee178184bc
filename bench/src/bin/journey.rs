//! `make bench`: runs the benchmark of the whole journey, prints its table and writes its figures.

// The table is this command's output.
#![allow(clippy::print_stdout)]

use clap::Parser;
use sluice_bench::journey::{self, Options, plain_recall};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Measures what a request through Sluice costs beside a bare proxy and plain library calls")]
struct Flags {
    /// The `sluice` binary.
    #[arg(long, default_value = "target/dist/sluice")]
    sluice: PathBuf,
    /// The `floor` binary.
    #[arg(long, default_value = "target/dist/floor")]
    floor: PathBuf,
    /// Documents to ingest, as JSONL with `id`, `title` and `text`.
    #[arg(long)]
    corpus: PathBuf,
    /// Queries to send, as JSONL with `id` and `text`.
    #[arg(long)]
    queries: PathBuf,
    /// Where the figures are written.
    #[arg(long, default_value = "target/bench/journey.json")]
    out: PathBuf,
    /// Fewer rounds and requests, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Fail when a bar is missed.
    #[arg(long)]
    enforce: bool,
    /// Run as the meter of plain recall with this folder for its indexes; the benchmark starts it so.
    #[arg(long, hide = true)]
    plain_recall: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("journey: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let Flags { sluice, floor, corpus, queries, out, quick, enforce, plain_recall } = flags;
    if let Some(folder) = plain_recall {
        plain_recall::meter(&corpus, &queries, &folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = journey::run(&Options { sluice, floor, corpus, queries, quick })?;
    if let Some(folder) = out.parent().filter(|folder| *folder != Path::new("")) {
        fs::create_dir_all(folder)?;
    }
    fs::write(&out, serde_json::to_string_pretty(&outcome)? + "\n")?;
    print!("{outcome}");
    println!("figures: {}", out.display());
    Ok(if enforce && !outcome.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
