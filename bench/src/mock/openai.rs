//! The OpenAI wire forms: what the official SDKs send and expect, and nothing of how it is delivered.

use super::reply::{self, Pieces};
use super::script::Script;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

/// An answer before pace and faults.
pub(super) enum Answer {
    /// One JSON document.
    Plain(Vec<u8>),
    /// Server-sent events.
    Stream(Events),
}

/// The events of a stream; only the deltas are paced and counted.
pub(super) struct Events {
    /// The event that opens the message.
    pub(super) opening: Bytes,
    pub(super) deltas: Vec<Bytes>,
    /// The finish reason, and the usage when it was asked for.
    pub(super) closing: Vec<Bytes>,
}

/// The event that ends a complete stream.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// A prompt token is taken for four bytes: the mock has no vocabulary, and nobody is billed.
    fn new(prompt_bytes: usize, completion_tokens: usize) -> Usage {
        let prompt_tokens = prompt_bytes.div_ceil(4);
        Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
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
    tool_calls: Option<[WholeCall<'a>; 1]>,
}

#[derive(Serialize)]
struct WholeCall<'a> {
    id: &'a str,
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
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

/// Answers `POST /v1/chat/completions`; the error says why the body cannot be read.
pub(super) fn chat(script: &Script, body: &[u8], serial: u64) -> serde_json::Result<Answer> {
    let request: ChatRequest = serde_json::from_slice(body)?;
    let call = match &script.tool_call {
        Some(call) if call.arguments == "echo" => {
            let text = reply::last_user_text(request.messages)?;
            Some((&*call.name, Cow::Owned(serde_json::json!({ "text": text }).to_string())))
        }
        Some(call) => Some((&*call.name, Cow::Borrowed(&*call.arguments))),
        None => None,
    };
    let spoken = match &call {
        Some((_, arguments)) => Cow::Borrowed(&**arguments),
        None => reply::to_chat(script, body, request.messages)?,
    };
    let said = Said::new(&spoken, script);
    let prompt_bytes = request.messages.map_or(0, |messages| messages.get().len());
    let (id, call_id) = (format!("chatcmpl-mock{serial:012}"), format!("call_mock{serial:012}"));
    let stamp = Stamp {
        id: &id,
        created: now(),
        model: request.model.as_deref().unwrap_or("mock"),
        usage: Usage::new(prompt_bytes, said.tokens),
    };
    let call = call.as_ref().map(|(name, _)| Call { id: &call_id, name });
    let finish_reason = match (&call, said.cut) {
        (_, true) => "length",
        (Some(_), false) => "tool_calls",
        (None, false) => "stop",
    };
    if request.stream == Some(true) {
        let usage = request.stream_options.unwrap_or_default().include_usage;
        return stamp.chat_stream(&said, call, finish_reason, usage).map(Answer::Stream);
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
                content: call.is_none().then_some(said.text),
                refusal: None,
                tool_calls: call.map(|Call { id, name }| {
                    let function = Function { name: Some(name), arguments: said.text };
                    [WholeCall { id, r#type: "function", function }]
                }),
            },
            logprobs: None,
            finish_reason,
        }],
        usage: stamp.usage,
    };
    serde_json::to_vec(&completion).map(Answer::Plain)
}

/// The text that is emitted: the reply, or its beginning when the script bounds the tokens.
struct Said<'a> {
    text: &'a str,
    pieces: Vec<&'a str>,
    tokens: usize,
    cut: bool,
}

impl<'a> Said<'a> {
    fn new(reply: &'a str, script: &Script) -> Said<'a> {
        let limit = script.tokens.unwrap_or(usize::MAX);
        let pieces: Vec<&str> = Pieces::new(reply, script.split).take(limit).collect();
        let length = pieces.iter().map(|piece| piece.len()).sum();
        Said { text: &reply[..length], tokens: pieces.len(), cut: length < reply.len(), pieces }
    }
}

#[derive(Clone, Copy)]
struct Call<'a> {
    id: &'a str,
    name: &'a str,
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
        said: &Said,
        call: Option<Call>,
        finish_reason: &'static str,
        usage: bool,
    ) -> serde_json::Result<Events> {
        let chunk = |delta, finish_reason| {
            let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason };
            self.event("chat.completion.chunk", &[choice], usage.then_some(None))
        };
        let delta = |piece| match call {
            None => Delta { content: Some(Some(piece)), ..Delta::default() },
            Some(_) => {
                let function = Function { name: None, arguments: piece };
                let call = CallDelta { index: 0, id: None, r#type: None, function };
                Delta { tool_calls: Some([call]), ..Delta::default() }
            }
        };
        let mut deltas = Vec::with_capacity(said.pieces.len() + 1);
        if let Some(Call { id, name }) = call {
            let function = Function { name: Some(name), arguments: "" };
            let call = CallDelta { index: 0, id: Some(id), r#type: Some("function"), function };
            deltas.push(chunk(Delta { tool_calls: Some([call]), ..Delta::default() }, None)?);
        }
        for piece in &said.pieces {
            deltas.push(chunk(delta(piece), None)?);
        }
        let content = Some(call.is_none().then_some(""));
        let mut closing = vec![chunk(Delta::default(), Some(finish_reason))?];
        if usage {
            closing.push(self.event::<ChunkChoice>("chat.completion.chunk", &[], Some(Some(self.usage)))?);
        }
        Ok(Events {
            opening: chunk(Delta { role: Some("assistant"), content, tool_calls: None }, None)?,
            deltas,
            closing,
        })
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

fn now() -> u64 {
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
pub(super) fn completion(script: &Script, body: &[u8], serial: u64) -> serde_json::Result<Answer> {
    let request: CompletionRequest = serde_json::from_slice(body)?;
    let prompts = request.prompt.into_texts();
    let text = reply::to_prompts(script, body, &prompts);
    let said = Said::new(&text, script);
    let id = format!("cmpl-mock{serial:012}");
    let stamp = Stamp {
        id: &id,
        created: now(),
        model: request.model.as_deref().unwrap_or("mock"),
        usage: Usage::new(prompts.iter().map(String::len).sum(), said.tokens),
    };
    let finish_reason = Some(if said.cut { "length" } else { "stop" });
    let choice = |text, finish_reason| TextChoice { index: 0, text, logprobs: None, finish_reason };
    if request.stream != Some(true) {
        let completion = Chunk {
            id: stamp.id,
            object: "text_completion",
            created: stamp.created,
            model: stamp.model,
            choices: &[choice(said.text, finish_reason)],
            usage: Some(Some(stamp.usage)),
        };
        return serde_json::to_vec(&completion).map(Answer::Plain);
    }
    let usage = request.stream_options.unwrap_or_default().include_usage;
    let chunk =
        |text, finish_reason| stamp.event("text_completion", &[choice(text, finish_reason)], usage.then_some(None));
    let mut closing = vec![chunk("", finish_reason)?];
    if usage {
        closing.push(stamp.event::<TextChoice>("text_completion", &[], Some(Some(stamp.usage)))?);
    }
    Ok(Answer::Stream(Events {
        opening: chunk("", None)?,
        deltas: said.pieces.iter().map(|piece| chunk(piece, None)).collect::<Result<_, _>>()?,
        closing,
    }))
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
pub(super) fn embeddings(body: &[u8]) -> serde_json::Result<Answer> {
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
        model: request.model.as_deref().unwrap_or("mock"),
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

/// Answers any other path: what arrived, so that a test of a pass-through can see it.
pub(super) fn other(method: &str, path: &str, bytes: usize) -> serde_json::Result<Answer> {
    #[derive(Serialize)]
    struct Other<'a> {
        object: &'static str,
        method: &'a str,
        path: &'a str,
        bytes: usize,
    }
    serde_json::to_vec(&Other { object: "mock", method, path, bytes }).map(Answer::Plain)
}

/// An error in OpenAI's form.
pub(super) fn error(message: &str, kind: &str, code: &str) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: Detail<'a>,
    }
    #[derive(Serialize)]
    struct Detail<'a> {
        message: &'a str,
        r#type: &'a str,
        param: Option<()>,
        code: &'a str,
    }
    serde_json::to_vec(&Envelope { error: Detail { message, r#type: kind, param: None, code } })
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
