//! `sluice check`.

use crate::Outcome;
use clap::Args;
use sluice_config::{Config, Environment};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Check {
    /// The configuration to check.
    file: PathBuf,
}

impl Check {
    pub fn run(self) -> Outcome {
        match Config::load(&self.file, &Environment::from_process()) {
            Ok(_) => {
                println!("{}: ok", self.file.display());
                Ok(ExitCode::SUCCESS)
            }
            Err(faults) => {
                eprintln!("{faults}");
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
