//! Walks the sample files. A new sample joins by being dropped into its folder; `UPDATE_EXPECT=1` writes what is
//! expected of it. Variables stand in `NAME.env` beside `NAME.toml`, one `NAME=value` a line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sluice_config::{Config, Environment};
use std::fs;
use std::path::{Path, PathBuf};

fn samples(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new("tests/samples").join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of samples can be listed");
    let paths = entries.map(|entry| entry.expect("a sample can be listed").path());
    let mut samples: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    samples.sort();
    assert!(!samples.is_empty(), "{} has samples", folder.display());
    samples
}

fn environment(sample: &Path) -> Environment {
    let lines = fs::read_to_string(sample.with_extension("env")).unwrap_or_default();
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    Environment::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// What a user would see, with the sample's folder left out.
fn told(sample: &Path) -> String {
    match Config::load(sample, &environment(sample)) {
        Ok(_) => "no fault\n".to_owned(),
        Err(faults) => {
            let folder = format!("{}/", sample.parent().expect("a sample lies in a folder").display());
            format!("{faults}\n").replace(&folder, "")
        }
    }
}

#[test]
fn every_valid_sample_is_believed() {
    for sample in samples("valid") {
        let told = told(&sample);
        assert_eq!(told, "no fault\n", "{}:\n{told}", sample.display());
    }
}

#[test]
fn every_invalid_sample_is_told_as_expected() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for sample in samples("invalid") {
        let told = told(&sample);
        let expectation = sample.with_extension("txt");
        if update {
            fs::write(&expectation, &told).expect("an expectation can be written");
        }
        let expected = fs::read_to_string(&expectation).unwrap_or_default();
        if told != expected || told == "no fault\n" {
            wrong.push(format!("{}\n--- expected\n{expected}--- told\n{told}", sample.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 rewrites what is expected.\n\n{}", wrong.join("\n"));
}

#[test]
fn no_sample_repeats_a_secret() {
    for sample in samples("invalid") {
        let told = told(&sample);
        assert!(!told.contains("hunter2"), "{}:\n{told}", sample.display());
    }
}

/// Every sample with one place damaged, which reaches corners of the parser's recovery that nobody would write down.
#[test]
fn a_damaged_sample_neither_panics_nor_repeats_a_secret() {
    let insertions = ["\"", "'''", "[", "}", "=", ".", "\n", "\0", "é"];
    for sample in samples("valid").into_iter().chain(samples("invalid")) {
        let bytes = fs::read(&sample).expect("a sample can be read");
        let text = String::from_utf8_lossy(&bytes);
        let environment = environment(&sample);
        let check = |damaged: String| {
            if let Err(faults) = Config::parse("damaged.toml", &damaged, &environment) {
                let told = faults.to_string();
                let name = sample.display();
                assert!(!told.contains("hunter2"), "{name}\n--- damaged\n{damaged}\n--- told\n{told}");
            }
        };
        // One insertion at each place instead of all of them keeps the test within seconds.
        for ((index, character), insertion) in text.char_indices().zip(insertions.iter().cycle()) {
            let (before, rest) = text.split_at(index);
            check(format!("{before}{}", &rest[character.len_utf8()..]));
            check(format!("{before}{insertion}{rest}"));
            if character == '\n' || character == '"' {
                check(before.to_owned());
            }
        }
    }
}
