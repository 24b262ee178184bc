//! The steps of a request, to be counted instead of timed: `steps NAME TIMES` does one of them so often and nothing else.
//! The difference of two runs under an instruction counter is what the step costs, whatever the machine is busy with.

use serde_json::Value;
use sluice_bench::chat::{self, Stream};
use sluice_scrub::{Rules, find, warm};
use sluice_text::Embedder;
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;

const CORPUS: &str = include_str!("../../../policies/scrub/tests/corpus/dev.jsonl");
const PROSE: &str = include_str!("../../../samples/knowledge/scifact/corpus.jsonl");
/// Prose that is searched once a step, in bytes.
const STRETCH: usize = 64 << 10;

/// Events of the stream that is restored once a step.
const EVENTS: usize = 100;

type Failure = Box<dyn Error>;
type Step = Box<dyn FnMut() -> usize>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steps: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = arguments.as_slice() else { return Err("usage: steps NAME TIMES".into()) };
    let mut step = step(name)?;
    let mut sum = 0;
    for _ in 0..times.parse::<usize>()? {
        sum += step();
    }
    black_box(sum);
    Ok(())
}

fn step(name: &str) -> Result<Step, Failure> {
    let rules = Rules::default();
    let searched = |texts: Vec<String>, rules: Rules| -> Step {
        warm();
        Box::new(move || texts.iter().map(|text| find(black_box(text), &rules).len()).sum())
    };
    Ok(match name {
        "scrub-english" => searched(corpus(|line| line["lang"] == "en" && !is_code(line))?, rules),
        "scrub-chinese" => searched(corpus(|line| line["lang"] == "zh")?, rules),
        "scrub-code" => searched(corpus(is_code)?, rules),
        "scrub-prose" => searched(prose()?, rules),
        "chat-body" => {
            warm();
            let body = chat::body(2 << 10, &corpus(|line| line["lang"] == "en" && !is_code(line))?.concat());
            Box::new(move || chat::scrubbed(black_box(&body).clone().into_bytes(), &rules).len())
        }
        "stream-event" => {
            let stream = Stream::of(EVENTS, &rules);
            Box::new(move || stream.restore().0)
        }
        "embed" => {
            let embedder = Embedder::shipped()?;
            let questions: Vec<String> = prose()?.iter().map(|text| text.chars().take(60).collect()).collect();
            Box::new(move || questions.iter().map(|text| usize::from(embedder.embed(black_box(text)).is_some())).sum())
        }
        other => return Err(format!("there is no step {other}").into()),
    })
}

/// The texts of the labelled corpus whose line is `wanted`.
fn corpus(wanted: impl Fn(&Value) -> bool) -> Result<Vec<String>, Failure> {
    let lines: Vec<Value> = CORPUS.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let texts = lines.iter().filter(|line| wanted(line)).filter_map(|line| line["text"].as_str());
    Ok(texts.map(str::to_owned).collect())
}

fn is_code(line: &Value) -> bool {
    matches!(line["kind"].as_str(), Some("code" | "neg-code" | "neg-lock" | "neg-cfg" | "env"))
}

fn prose() -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    let mut bytes = 0;
    for line in PROSE.lines() {
        let text = serde_json::from_str::<Value>(line)?["text"].as_str().unwrap_or_default().to_owned();
        bytes += text.len();
        texts.push(text);
        if bytes >= STRETCH {
            break;
        }
    }
    Ok(texts)
}
