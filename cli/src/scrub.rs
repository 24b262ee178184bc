//! `sluice scrub`: what the scrubber finds in texts, line by line.

use crate::Outcome;
use clap::Args;
use serde_json::{Value, json};
use sluice_scrub::{Action, DEFAULT_THRESHOLD, Kind, Rules, find, warm};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Reads JSON lines `{"id", "text"}` and writes, for each, `{"id", "entities": [{"type", "start", "end", "text",
/// "score"}]}` in the same order. `start` and `end` count Unicode code points.
#[derive(Args)]
pub struct Scrub {
    /// Kinds that are looked for, separated by commas; all when absent.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    types: Vec<Kind>,
    /// The least score that is reported, from 0 to 1.
    #[arg(long, default_value_t = DEFAULT_THRESHOLD)]
    threshold: f32,
    /// The lines; standard input when absent or `-`.
    file: Option<PathBuf>,
}

/// Longest line that is read, in bytes.
const MAX_LINE: usize = 256 << 20;

fn kind(name: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::of_name(name).ok_or_else(|| format!("unknown kind; there are {}", names()))
}

impl Scrub {
    pub fn run(self) -> Outcome {
        let mut rules = Rules::of(&[]);
        let kinds = if self.types.is_empty() { &Kind::ALL[..] } else { &self.types };
        kinds.iter().for_each(|kind| rules.want(*kind, self.threshold, Action::Report));
        warm();
        let named = self.file.filter(|file| file.as_os_str() != "-");
        let name = named.as_ref().map_or("standard input".to_owned(), |file| file.display().to_string());
        let input: Box<dyn BufRead> = match &named {
            Some(file) => Box::new(BufReader::new(File::open(file).map_err(|error| format!("{name}: {error}"))?)),
            None => Box::new(io::stdin().lock()),
        };
        let mut out = BufWriter::new(io::stdout().lock());
        match scan(input, &rules, &mut out) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            // Whoever reads may have seen enough.
            Err(Broken::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            Err(Broken::Write(error)) => Err(format!("standard output: {error}").into()),
            Err(Broken::Line(number, reason)) => Err(format!("{name}:{number}: {reason}").into()),
        }
    }
}

enum Broken {
    Line(usize, String),
    Write(io::Error),
}

fn scan(mut input: Box<dyn BufRead>, rules: &Rules, out: &mut impl Write) -> Result<(), Broken> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = io::Read::take(&mut input, MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| Broken::Line(number, error.to_string()))? == 0 {
            break;
        }
        if line.len() > MAX_LINE {
            return Err(Broken::Line(number, format!("the line is longer than {MAX_LINE} bytes")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value: Value = serde_json::from_slice(&line).map_err(|error| Broken::Line(number, error.to_string()))?;
        let missing = || Broken::Line(number, "there is no string `text`".to_owned());
        let text = value.get("text").and_then(Value::as_str).ok_or_else(missing)?;
        let answer = json!({ "id": value.get("id"), "entities": entities(text, rules) });
        writeln!(out, "{answer}").map_err(Broken::Write)?;
    }
    out.flush().map_err(Broken::Write)
}

fn entities(text: &str, rules: &Rules) -> Vec<Value> {
    // Findings are in order, so characters are counted once.
    let (mut byte, mut place) = (0, 0);
    let mut characters = |to: usize| {
        place += text[byte..to].chars().count();
        byte = to;
        place
    };
    let entity = |finding: sluice_scrub::Finding| {
        let (start, end) = (characters(finding.range.start), characters(finding.range.end));
        let score = (f64::from(finding.score) * 1000.0).round() / 1000.0;
        json!({ "type": finding.kind.name(), "start": start, "end": end, "text": &text[finding.range], "score": score })
    };
    find(text, rules).into_iter().map(entity).collect()
}
