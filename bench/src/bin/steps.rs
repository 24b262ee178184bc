//! Steps of a request, to be counted instead of timed: each is done a few times by a function of its own, whose name an
//! instruction counter knows. `steps` under `valgrind --tool=callgrind` tells what they cost, whatever else the machine
//! does.

use serde_json::Value;
use sluice_bench::chat::{self, Stream, is_code};
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

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steps: {error}");
            ExitCode::from(2)
        }
    }
}

/// How often each step is done; what is made at the first time counts little then.
const TIMES: usize = 5;

fn run() -> Result<(), Failure> {
    let rules = Rules::default();
    warm();
    let english = corpus(|line| line["lang"] == "en" && !is_code(line))?;
    let chinese = corpus(|line| line["lang"] == "zh")?;
    let code = corpus(is_code)?;
    let prose = prose()?;
    let body = chat::body(2 << 10, &english.concat());
    let stream = Stream::of(EVENTS, &rules);
    let embedder = Embedder::shipped()?;
    let questions: Vec<String> = prose.iter().map(|text| text.chars().take(60).collect()).collect();
    for _ in 0..TIMES {
        step::scrub_english(&english, &rules);
        step::scrub_chinese(&chinese, &rules);
        step::scrub_code(&code, &rules);
        step::scrub_prose(&prose, &rules);
        step::chat_body(&body, &rules);
        step::stream_events(&stream);
        step::embed_questions(&questions, embedder);
    }
    Ok(())
}

/// What is counted, by name.
mod step {
    use super::*;

    /// Functions that do the same become one, so each says its name.
    fn search(name: &str, texts: &[String], rules: &Rules) {
        black_box(name);
        black_box(texts.iter().map(|text| find(black_box(text), rules).len()).sum::<usize>());
    }

    #[inline(never)]
    pub fn scrub_english(texts: &[String], rules: &Rules) {
        search("english", texts, rules);
    }

    #[inline(never)]
    pub fn scrub_chinese(texts: &[String], rules: &Rules) {
        search("chinese", texts, rules);
    }

    #[inline(never)]
    pub fn scrub_code(texts: &[String], rules: &Rules) {
        search("code", texts, rules);
    }

    #[inline(never)]
    pub fn scrub_prose(texts: &[String], rules: &Rules) {
        search("prose", texts, rules);
    }

    #[inline(never)]
    pub fn chat_body(body: &str, rules: &Rules) {
        black_box(chat::scrubbed(black_box(body).as_bytes().to_vec(), rules));
    }

    #[inline(never)]
    pub fn stream_events(stream: &Stream) {
        black_box(stream.restore());
    }

    #[inline(never)]
    pub fn embed_questions(questions: &[String], embedder: &Embedder) {
        questions.iter().for_each(|question| drop(black_box(embedder.embed(question))));
    }
}

/// The texts of the labelled corpus whose line is `wanted`.
fn corpus(wanted: impl Fn(&Value) -> bool) -> Result<Vec<String>, Failure> {
    let lines: Vec<Value> = CORPUS.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let texts = lines.iter().filter(|line| wanted(line)).filter_map(|line| line["text"].as_str());
    Ok(texts.map(str::to_owned).collect())
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
