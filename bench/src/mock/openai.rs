//! The OpenAI wire forms: what the official SDKs send and expect, and nothing of how it is delivered.

use super::body::Heartbeat;
use super::delivery::{Answer, Event, Part, Stream};
use super::dialect::Dialect;
use super::reply::{self, Content, Order, Said, Turn};
use super::script::Script;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

/// The event that ends a complete stream.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    /// Absent when nothing was thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<UsageDetails>,
}

#[derive(Clone, Copy, Serialize)]
struct UsageDetails {
    reasoning_tokens: usize,
}

impl Usage {
    fn new(prompt_bytes: usize, said: &Said) -> Usage {
        let (prompt_tokens, completion_tokens) = (reply::prompt_tokens(prompt_bytes), said.tokens());
        let thought = said.reasoning.is_some();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens_details: thought.then(|| UsageDetails { reasoning_tokens: said.reasoning_tokens() }),
        }
    }
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

// ------------------------------------------------------------------ chat ---

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [ChatChoice<'a>; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    message: ChatMessage<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WholeCall<'a>>,
}

#[derive(Serialize)]
struct WholeCall<'a> {
    id: String,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Chunk<'a, Choice> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice],
    /// Absent unless it was asked for; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Absent, null beside a tool call, or text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

fn turns(messages: Option<&RawValue>) -> serde_json::Result<Vec<Turn>> {
    let turn =
        |message: Message| Turn { user: message.role == "user", text: message.content.and_then(Content::into_text) };
    Ok(reply::list(messages)?.into_iter().map(turn).collect())
}

/// Answers `POST /v1/chat/completions`; the error says why the body cannot be read. `deployment` stands for the model
/// that the body does not name.
pub(super) fn chat(order: Order, body: &[u8], deployment: &str) -> serde_json::Result<Answer> {
    let request: ChatRequest = serde_json::from_slice(body)?;
    let said = Said::new(order, body, || turns(request.messages))?;
    let id = format!("chatcmpl-mock{:012}", order.serial);
    let stamp = Stamp {
        id: &id,
        created: now(),
        model: request.model.as_deref().unwrap_or(deployment),
        usage: Usage::new(reply::bytes(&[request.messages]), &said),
    };
    let finish_reason = match (said.is_cut(), said.calls.is_empty()) {
        (true, _) => "length",
        (false, false) => "tool_calls",
        (false, true) => "stop",
    };
    if request.stream == Some(true) {
        let usage = request.stream_options.unwrap_or_default().include_usage;
        return stamp.chat_stream(order, &said, finish_reason, usage).map(Answer::Stream);
    }
    let completion = ChatCompletion {
        id: stamp.id,
        object: "chat.completion",
        created: stamp.created,
        model: stamp.model,
        choices: [ChatChoice {
            index: 0,
            message: ChatMessage {
                role: "assistant",
                content: said.text.as_ref().map(|text| &*text.text),
                refusal: None,
                reasoning_content: said.reasoning.as_ref().map(|reasoning| &*reasoning.text),
                tool_calls: said.calls.iter().enumerate().map(|(index, call)| whole_call(order, index, call)).collect(),
            },
            logprobs: None,
            finish_reason,
        }],
        usage: stamp.usage,
    };
    serde_json::to_vec(&completion).map(Answer::Plain)
}

fn whole_call<'a>(order: Order, index: usize, call: &'a reply::Call) -> WholeCall<'a> {
    let function = Function { name: Some(call.name), arguments: &call.arguments.text };
    WholeCall { id: order.id("call", index), r#type: "function", function }
}

/// What every chunk of one answer repeats.
struct Stamp<'a> {
    id: &'a str,
    created: u64,
    model: &'a str,
    usage: Usage,
}

impl Stamp<'_> {
    fn chat_stream(
        &self,
        order: Order,
        said: &Said,
        finish_reason: &'static str,
        usage: bool,
    ) -> serde_json::Result<Stream> {
        let chunk = |delta, finish_reason| {
            let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason };
            self.event("chat.completion.chunk", &[choice], usage.then_some(None))
        };
        let mut events = Vec::with_capacity(said.tokens() + said.calls.len() + 4);
        let content = Some(said.calls.is_empty().then_some(""));
        let opening = chunk(Delta { role: Some("assistant"), content, ..Delta::default() }, None)?;
        events.push(Event::new(Part::Opening, opening.clone()));
        for piece in said.reasoning.iter().flat_map(|reasoning| reasoning.pieces()) {
            let delta = Delta { reasoning_content: Some(piece), ..Delta::default() };
            events.push(Event::new(Part::Delta, chunk(delta, None)?));
        }
        for piece in said.text.iter().flat_map(|text| text.pieces()) {
            let delta = Delta { content: Some(Some(piece)), ..Delta::default() };
            events.push(Event::new(Part::Delta, chunk(delta, None)?));
        }
        for (index, call) in said.calls.iter().enumerate() {
            let function = Function { name: Some(call.name), arguments: "" };
            let named = CallDelta { index, id: Some(order.id("call", index)), r#type: Some("function"), function };
            let delta = Delta { tool_calls: Some([named]), ..Delta::default() };
            events.push(Event::new(Part::Delta, chunk(delta, None)?));
            for piece in call.arguments.pieces() {
                let function = Function { name: None, arguments: piece };
                let fed = CallDelta { index, id: None, r#type: None, function };
                let delta = Delta { tool_calls: Some([fed]), ..Delta::default() };
                events.push(Event::new(Part::Delta, chunk(delta, None)?));
            }
        }
        events.push(Event::new(Part::Closing, chunk(Delta::default(), Some(finish_reason))?));
        if usage {
            let last = self.event::<ChunkChoice>("chat.completion.chunk", &[], Some(Some(self.usage)))?;
            events.push(Event::new(Part::Closing, last));
        }
        events.push(Event::new(Part::Terminator, DONE));
        Ok(Stream { dialect: Dialect::OpenAi, events, heartbeat: Heartbeat::Same(opening), array: false })
    }

    fn event<Choice: Serialize>(
        &self,
        object: &'static str,
        choices: &[Choice],
        usage: Option<Option<Usage>>,
    ) -> serde_json::Result<Bytes> {
        let chunk = Chunk { id: self.id, object, created: self.created, model: self.model, choices, usage };
        let mut event = Vec::with_capacity(320);
        event.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut event, &chunk)?;
        event.extend_from_slice(b"\n\n");
        Ok(Bytes::from(event))
    }
}

/// The time of an answer, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

// ---------------------------------------------------- legacy completions ---

#[derive(Deserialize)]
struct CompletionRequest<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    prompt: Inputs,
}

/// One text, several texts, one list of tokens, or several of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Inputs {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl Default for Inputs {
    fn default() -> Inputs {
        Inputs::Texts(Vec::new())
    }
}

impl Inputs {
    /// Each input as a text; tokens become their numbers, which is enough to tell one input from another.
    fn into_texts(self) -> Vec<String> {
        let spell = |tokens: Vec<u32>| tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        match self {
            Inputs::Text(text) => vec![text],
            Inputs::Texts(texts) => texts,
            Inputs::Tokens(tokens) => vec![spell(tokens)],
            Inputs::TokenLists(lists) => lists.into_iter().map(spell).collect(),
        }
    }
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

/// Answers `POST /v1/completions`.
pub(super) fn completion(order: Order, body: &[u8], deployment: &str) -> serde_json::Result<Answer> {
    let request: CompletionRequest = serde_json::from_slice(body)?;
    let prompts = request.prompt.into_texts();
    // The endpoint knows neither calls nor thoughts.
    let script = Script { tool_call: None, tool_calls: None, reasoning: None, ..order.script.clone() };
    let turn = |prompt: &String| Turn { user: true, text: Some(prompt.clone()) };
    let said = Said::new(Order { script: &script, ..order }, body, || Ok(prompts.iter().map(turn).collect()))?;
    let id = format!("cmpl-mock{:012}", order.serial);
    let stamp = Stamp {
        id: &id,
        created: now(),
        model: request.model.as_deref().unwrap_or(deployment),
        usage: Usage::new(prompts.iter().map(String::len).sum(), &said),
    };
    let finish_reason = Some(if said.is_cut() { "length" } else { "stop" });
    let choice = |text, finish_reason| TextChoice { index: 0, text, logprobs: None, finish_reason };
    if request.stream != Some(true) {
        let completion = Chunk {
            id: stamp.id,
            object: "text_completion",
            created: stamp.created,
            model: stamp.model,
            choices: &[choice(said.text.as_ref().map_or("", |text| &*text.text), finish_reason)],
            usage: Some(Some(stamp.usage)),
        };
        return serde_json::to_vec(&completion).map(Answer::Plain);
    }
    let usage = request.stream_options.unwrap_or_default().include_usage;
    let chunk =
        |text, finish_reason| stamp.event("text_completion", &[choice(text, finish_reason)], usage.then_some(None));
    let opening = chunk("", None)?;
    let mut events = vec![Event::new(Part::Opening, opening.clone())];
    for piece in said.text.iter().flat_map(|text| text.pieces()) {
        events.push(Event::new(Part::Delta, chunk(piece, None)?));
    }
    events.push(Event::new(Part::Closing, chunk("", finish_reason)?));
    if usage {
        let last = stamp.event::<TextChoice>("text_completion", &[], Some(Some(stamp.usage)))?;
        events.push(Event::new(Part::Closing, last));
    }
    events.push(Event::new(Part::Terminator, DONE));
    Ok(Answer::Stream(Stream { dialect: Dialect::OpenAi, events, heartbeat: Heartbeat::Same(opening), array: false }))
}

// ------------------------------------------------------------ embeddings ---

#[derive(Deserialize)]
struct EmbeddingRequest<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    input: Inputs,
    #[serde(default)]
    dimensions: Option<usize>,
    /// The official Python SDK asks for `base64` unless told otherwise.
    #[serde(borrow, default)]
    encoding_format: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: EmbeddingUsage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Answers `POST /v1/embeddings` with unit vectors made from a hash of each input.
pub(super) fn embeddings(body: &[u8], deployment: &str) -> serde_json::Result<Answer> {
    let request: EmbeddingRequest = serde_json::from_slice(body)?;
    let base64 = request.encoding_format.as_deref() == Some("base64");
    let dimensions = request.dimensions.unwrap_or(8);
    let texts = request.input.into_texts();
    let prompt_tokens = texts.iter().map(|text| text.len().div_ceil(4)).sum();
    let embedding = |(index, text): (usize, &String)| {
        let numbers = vector(text, dimensions);
        let embedding = if base64 {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        } else {
            Vector::Numbers(numbers)
        };
        Embedding { object: "embedding", index, embedding }
    };
    let list = EmbeddingList {
        object: "list",
        data: texts.iter().enumerate().map(embedding).collect(),
        model: request.model.as_deref().unwrap_or(deployment),
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    };
    serde_json::to_vec(&list).map(Answer::Plain)
}

/// A unit vector that depends on `text` alone: FNV-1a seeds splitmix64, which needs no crate and never changes.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 24 bits are exact in an f32; they become a number from -1 to 1.
        ((mixed >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    let mut numbers: Vec<f32> = (0..dimensions).map(|_| next()).collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    if length > 0.0 {
        numbers.iter_mut().for_each(|number| *number /= length);
    }
    numbers
}

// ---------------------------------------------------------------- others ---

/// Answers `GET /v1/models`.
pub(super) const MODELS: &str = concat!(
    r#"{"object":"list","data":["#,
    r#"{"id":"gpt-4o","object":"model","created":1715367049,"owned_by":"mock"},"#,
    r#"{"id":"gpt-4o-mini","object":"model","created":1721172741,"owned_by":"mock"},"#,
    r#"{"id":"text-embedding-3-small","object":"model","created":1705948997,"owned_by":"mock"}"#,
    r#"]}"#
);

/// Answers any other path: what arrived, so that a test of a pass-through can see that it arrived whole.
pub(super) fn other(method: &str, path: &str, body: &[u8]) -> serde_json::Result<Answer> {
    #[derive(Serialize)]
    struct Other<'a> {
        object: &'static str,
        method: &'a str,
        path: &'a str,
        bytes: usize,
        body_sha256: String,
        usage: Usage,
    }
    let prompt_tokens = reply::prompt_tokens(body.len());
    let other = Other {
        object: "mock",
        method,
        path,
        bytes: body.len(),
        body_sha256: Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect(),
        usage: Usage {
            prompt_tokens,
            completion_tokens: 0,
            total_tokens: prompt_tokens,
            completion_tokens_details: None,
        },
    };
    serde_json::to_vec(&other).map(Answer::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_equal_unit_vectors_and_others_differ() {
        let length = |numbers: &[f32]| numbers.iter().map(|number| number * number).sum::<f32>();
        let (one, other) = (vector("one", 256), vector("other", 256));
        assert_eq!(one, vector("one", 256));
        assert_ne!(one, other);
        assert!((length(&one) - 1.0).abs() < 1e-5, "{}", length(&one));
    }
}
