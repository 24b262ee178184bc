//! What is sent: SciFact's queries inside chat completions of the size that `notes/performance.md` measured with.

use super::failure::{Doing, Failure};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a request body and of the mock's answer, as in the notes' measurements of other gateways.
const REQUEST_BYTES: usize = 605;
const ANSWER_BYTES: usize = 745;

/// Events of a streamed answer: the role, the text in pieces, the reason why it ended, `[DONE]`.
pub(super) const STREAM_EVENTS: usize = 32;
/// The pace of a stream's pieces. Events that were written at once would be read at once, and cost a proxy nothing.
const STREAM_PACE_MILLISECONDS: u64 = 2;

/// What a request with personal data names, and what stands for it at the provider, whose answer names it.
pub(super) const ADDRESS: &str = "ann.lee@example.com";
const PLACEHOLDER: &str = "<EMAIL_1>";

/// Where the edge finds the mock's key.
pub(super) const PROVIDER_KEY_ENV: &str = "JOURNEY_PROVIDER_KEY";

/// The managed prompt of the full route; it has a variable so that it is really rendered.
pub(super) const PROMPT: &str = "+++
[variables.audience]
default = \"researchers\"
+++
You help {{ audience }} to check scientific claims. Answer from the passages that come with the question, \
name the passage that an answer rests on, and say so when the passages do not decide the matter.
";

/// An earlier turn of the conversation, cut to fill a body up to its size. It holds no personal data.
const EARLIER: &str = "Before we begin: keep the answers short, give the effect size where a study reports one, \
and keep apart what was seen in cells, in animals and in patients. When two studies disagree, say which of them \
is larger and how they differ in method. I do not need a summary of the field, only what bears on the claim. \
If a claim has two parts, judge each part by itself, and do not guess at numbers that no passage gives. \
Thank you, and please go on in the same way for all the questions that follow in this conversation.";

/// A document or a query of the sample files.
#[derive(Deserialize)]
pub struct Line {
    #[serde(alias = "_id")]
    pub id: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub text: String,
}

/// Reads a JSONL file.
pub fn read_lines(file: &Path) -> Result<Vec<Line>, Failure> {
    let text = fs::read_to_string(file).doing(file.display())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| serde_json::from_str(line).doing(format_args!("{}:{}", file.display(), number + 1)))
        .collect()
}

/// The texts that requests are made of. Cloning shares them.
#[derive(Clone)]
pub(super) struct Workload {
    queries: Arc<[String]>,
    /// Words of the corpus, each once, none so rare that it would be a typing error.
    words: Arc<[String]>,
    key: Arc<str>,
}

impl Workload {
    pub(super) fn read(corpus: &Path, queries: &Path) -> Result<Workload, Failure> {
        let queries: Vec<String> = read_lines(queries)?.into_iter().map(|line| line.text).collect();
        let words = vocabulary(&read_lines(corpus)?);
        if queries.is_empty() || words.is_empty() {
            return Err(Failure::because("reading the samples", "there are no queries or no words"));
        }
        Ok(Workload { queries: queries.into(), words: words.into(), key: "".into() })
    }

    pub(super) fn with_key(self, key: String) -> Workload {
        Workload { key: key.into(), ..self }
    }

    /// A query as it stands in the file.
    pub(super) fn query(&self, number: u64) -> &str {
        &self.queries[(number % self.queries.len() as u64) as usize]
    }

    /// A query that no other number has: one of the file with a word or two of the corpus at its end.
    pub(super) fn distinct(&self, number: u64) -> String {
        let turn = (number / self.queries.len() as u64) as usize;
        let count = self.words.len();
        let query = self.query(number).trim_end_matches(['.', ' ']);
        let word = &self.words[turn % count];
        // When the words have all been used once, the second word tells the rounds apart.
        match (turn / count, turn % 2) {
            (0, 0) => format!("{query} {word}"),
            (lap, _) => format!("{query} {word} {}", self.words[(turn * 31 + lap) % count]),
        }
    }

    /// A query whose answer says an address that it has itself, where that is restored.
    pub(super) fn personal(&self, number: u64) -> String {
        format!("{} Tell {ADDRESS} too.", self.query(number))
    }

    /// A chat completion for the route `model`, its body filled up to the common size.
    pub(super) fn chat(&self, model: &str, query: &str, stream: bool) -> Bytes {
        let query = serde_json::Value::from(query);
        let body = |earlier: &str| {
            format!(
                r#"{{"model":"{model}","messages":[{{"role":"user","content":"{earlier}"}},{{"role":"assistant","content":"Understood."}},{{"role":"user","content":{query}}}],"temperature":0.2,"max_tokens":256,"stream":{stream}}}"#
            )
        };
        let room = REQUEST_BYTES.saturating_sub(body("").len()).min(EARLIER.len());
        self.post("/v1/chat/completions", &self.key, &body(&EARLIER[..room]))
    }

    pub(super) fn post(&self, path: &str, key: &str, body: &str) -> Bytes {
        Bytes::from(format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\naccept: application/json\r\nuser-agent: sluice-bench\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    pub(super) fn get(&self, path: &str) -> Bytes {
        Bytes::from(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n"))
    }

    /// The mock's script: one fixed answer, so that it costs the mock as little as possible, which a stream cuts into
    /// pieces of one size.
    pub(super) fn script(&self) -> String {
        // The envelope of an answer around its text; ids, times and counts have fixed lengths.
        const ENVELOPE: usize = 290;
        let text = format!("I shall tell {PLACEHOLDER} too. {}", EARLIER.repeat(2));
        let text = text[..ANSWER_BYTES - ENVELOPE].trim_end();
        let piece = text.len().div_ceil(STREAM_EVENTS - 3);
        let pace = STREAM_PACE_MILLISECONDS;
        serde_json::json!({ "reply": { "text": text }, "record": false, "split": piece, "token_milliseconds": pace })
            .to_string()
    }
}

/// The corpus's words of at least five letters that occur in at least three documents, spread so that neighbours in
/// the list have nothing in common.
fn vocabulary(documents: &[Line]) -> Vec<String> {
    let mut documents_with: HashMap<String, (usize, usize)> = HashMap::new();
    for (number, document) in documents.iter().enumerate() {
        for word in document.text.split(|character: char| !character.is_ascii_alphabetic()) {
            if (5..=14).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase()) {
                let (count, last) = documents_with.entry(word.to_owned()).or_insert((0, usize::MAX));
                if *last != number {
                    (*count, *last) = (*count + 1, number);
                }
            }
        }
    }
    let mut words: Vec<String> =
        documents_with.into_iter().filter(|(_, (count, _))| *count >= 3).map(|(word, _)| word).collect();
    // The order of a hash of the word is the same in every run and every process.
    let spread = |word: &str| {
        word.bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    words.sort_unstable_by_key(|word| spread(word));
    words
}

/// The edge's configuration.
pub(super) fn configuration(edge: SocketAddr, admin: SocketAddr, mock: SocketAddr) -> String {
    format!(
        r#"[server]
listen = "{edge}"
admin_listen = "{admin}"
worker_threads = 1

[log]
level = "warn"

[limits]
requests_per_minute = 1_000_000_000

[providers.mock]
kind = "openai"
base_url = "http://{mock}/v1"
api_key_env = "{PROVIDER_KEY_ENV}"

[routes.limit]
provider = "mock"
model = "limit"
scrub = []

[routes.full]
provider = "mock"
model = "full"
prompt = "bench"
collections = ["scifact"]
context_tokens = 1_500
scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]
"#
    )
}

/// The key in what `sluice key create --json` prints.
pub(super) fn key(created: &str) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Created {
        key: String,
    }
    let created: Created = serde_json::from_str(created).doing("reading the new key")?;
    Ok(created.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn workload() -> Workload {
        let queries = ["A claim.", "Another claim"].map(str::to_owned).to_vec();
        let words = ["kinase", "tumour", "insulin"].map(str::to_owned).to_vec();
        Workload { queries: queries.into(), words: words.into(), key: "sk-sluice-x".into() }
    }

    #[test]
    fn distinct_queries_are_distinct_even_when_the_words_run_out() {
        let workload = workload();
        let queries: HashSet<String> = (0..18).map(|number| workload.distinct(number)).collect();
        assert_eq!(queries.len(), 18, "{queries:?}");
        assert_eq!(workload.distinct(0), "A claim kinase");
    }

    #[test]
    fn a_body_has_the_common_size() {
        let request = workload().chat("limit", "Is this \"so\"?", false);
        let body = request.windows(4).position(|window| window == b"\r\n\r\n").map(|head| request.slice(head + 4..));
        let body = body.expect("a head");
        assert_eq!(body.len(), REQUEST_BYTES);
        serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    }
}
