//! A request that belongs to no dialect: what decoders write and encoders read.
//!
//! It holds values of the client's body, not copies, so that an encoder can copy them as they were written and can
//! name them when its dialect has no words for them.

use super::read::{Read, Written, fault, string};
use crate::json::Value;
use std::borrow::Cow;

/// A whole request, without what no target can express: decoders have reported that.
#[derive(Default)]
pub struct Conversation<'d> {
    pub turns: Vec<Turn<'d>>,
    pub tools: Vec<Tool<'d>>,
    pub choice: Option<Choice<'d>>,
    /// Whether several tools may be called at once.
    pub parallel: Option<(bool, Value<'d>)>,
    pub format: Option<Format<'d>>,
    pub reasoning: Reasoning<'d>,
    pub sampling: Sampling<'d>,
    /// Who the request is made for.
    pub user: Option<Value<'d>>,
    /// OpenAI's word for how long answers are.
    pub verbosity: Option<Value<'d>>,
    /// OpenAI's processing tier, where it is not the usual one.
    pub service_tier: Option<Value<'d>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

/// What one side said in one go.
pub struct Turn<'d> {
    pub role: Role,
    pub parts: Vec<Part<'d>>,
}

pub enum Part<'d> {
    Text(Text<'d>),
    Media(Media<'d>),
    Call(Call<'d>),
    Outcome(Outcome<'d>),
    Thought(Thought<'d>),
    /// Reasoning that only its provider can read.
    Sealed(Written<'d>),
}

pub struct Text<'d> {
    pub text: Written<'d>,
    /// Anthropic's `cache_control`.
    pub cache: Option<Value<'d>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Image,
    Document,
    Audio,
    Video,
}

/// An image, a document or a sound.
pub struct Media<'d> {
    pub medium: Medium,
    pub source: Source<'d>,
    /// A document's name.
    pub name: Option<Value<'d>>,
    /// OpenAI's `detail`, where it is not `auto`.
    pub detail: Option<Value<'d>>,
    pub cache: Option<Value<'d>>,
    /// What is named when the target cannot take it.
    pub at: Value<'d>,
}

pub enum Source<'d> {
    /// `mime` where the client stated it.
    Url { url: Written<'d>, mime: Option<Written<'d>> },
    /// `data` is base64.
    Data { mime: Written<'d>, data: Written<'d> },
}

/// The model asked for a tool.
pub struct Call<'d> {
    pub id: Cow<'d, str>,
    pub name: Written<'d>,
    /// A JSON text; from OpenAI's dialects it is as the model wrote it and may be anything.
    pub arguments: Cow<'d, str>,
    pub cache: Option<Value<'d>>,
    pub at: Value<'d>,
}

/// What a tool answered: texts and media.
pub struct Outcome<'d> {
    pub id: Cow<'d, str>,
    pub parts: Vec<Part<'d>>,
    /// Whether the tool failed.
    pub failed: bool,
    /// The member that says so, where the parts do not.
    pub error: Option<Value<'d>>,
    pub cache: Option<Value<'d>>,
    pub at: Value<'d>,
}

/// Reasoning of an earlier answer. Where a dialect signs another part, the thought stands directly before that part
/// and its text is empty.
pub struct Thought<'d> {
    pub text: Written<'d>,
    pub signature: Option<Written<'d>>,
    /// Whether the client says that Google signed it.
    pub google: bool,
}

/// A function that the model may call.
pub struct Tool<'d> {
    pub name: Value<'d>,
    pub description: Option<Value<'d>>,
    /// A JSON schema.
    pub parameters: Option<Cow<'d, str>>,
    /// `strict: true`.
    pub strict: Option<Value<'d>>,
    pub cache: Option<Value<'d>>,
}

/// Whether and which tool must be called, and where that is said.
pub struct Choice<'d> {
    pub mode: Mode<'d>,
    pub at: Value<'d>,
}

pub enum Mode<'d> {
    Auto,
    Never,
    Any,
    Named(Written<'d>),
}

/// The form that the answer must have.
pub enum Format<'d> {
    /// Any JSON object; the value is what asks for it.
    Json(Value<'d>),
    Schema {
        name: Option<Value<'d>>,
        description: Option<Value<'d>>,
        schema: Cow<'d, str>,
        strict: Option<Value<'d>>,
    },
}

#[derive(Default)]
pub struct Sampling<'d> {
    pub temperature: Option<Value<'d>>,
    pub top_p: Option<Value<'d>>,
    pub top_k: Option<Value<'d>>,
    pub seed: Option<Value<'d>>,
    pub presence_penalty: Option<Value<'d>>,
    pub frequency_penalty: Option<Value<'d>>,
    /// Strings.
    pub stop: Vec<Value<'d>>,
    pub max_tokens: Option<Value<'d>>,
}

/// How much to think, in whichever of the two ways the client said it.
#[derive(Default)]
pub struct Reasoning<'d> {
    pub effort: Option<(Effort, Value<'d>)>,
    pub thinking: Option<(Thinking, Value<'d>)>,
    /// Whether the client wants to see it.
    pub visible: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    Off,
    /// As much as the model sees fit.
    Adaptive,
    /// At most so many tokens.
    Budget(u64),
}

/// How much effort reasoning is worth.
///
/// | effort  | Chat, Messages | Gemini budget, tokens | from a budget of |
/// | ------- | -------------- | --------------------- | ---------------- |
/// | none    | none, disabled |                     0 |                0 |
/// | minimal | minimal, low   |                  1024 |                  |
/// | low     | low            |                  1024 |       up to 2048 |
/// | medium  | medium         |                  8192 |       up to 8192 |
/// | high    | high           |                 24576 |             more |
/// | xhigh   | xhigh          |                 24576 |                  |
/// | max     | max            |                 24576 |                  |
///
/// The budgets are those of Google's page on OpenAI compatibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl Effort {
    pub fn of_name(name: &str) -> Option<Effort> {
        Some(match name {
            "none" => Effort::None,
            "minimal" => Effort::Minimal,
            "low" => Effort::Low,
            "medium" => Effort::Medium,
            "high" => Effort::High,
            "xhigh" => Effort::Xhigh,
            "max" => Effort::Max,
            _ => return None,
        })
    }

    pub fn of_budget(tokens: u64) -> Effort {
        match tokens {
            0 => Effort::None,
            1..=2048 => Effort::Low,
            2049..=8192 => Effort::Medium,
            _ => Effort::High,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Xhigh => "xhigh",
            Effort::Max => "max",
        }
    }

    /// Thinking tokens.
    pub fn budget(self) -> u64 {
        match self {
            Effort::None => 0,
            Effort::Minimal | Effort::Low => 1024,
            Effort::Medium => 8192,
            Effort::High | Effort::Xhigh | Effort::Max => 24576,
        }
    }
}

impl<'d> Conversation<'d> {
    /// Adds parts to the last turn when it is that role's, else as a new turn.
    pub fn extend(&mut self, role: Role, parts: impl IntoIterator<Item = Part<'d>>) {
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.parts.extend(parts),
            _ => self.turns.push(Turn { role, parts: parts.into_iter().collect() }),
        }
    }

    /// The texts of the system's turns, in order.
    pub fn system(&self) -> impl Iterator<Item = &Text<'d>> {
        self.turns.iter().filter(|turn| turn.role == Role::System).flat_map(|turn| turn.parts.iter()).filter_map(
            |part| match part {
                Part::Text(text) => Some(text),
                _ => None,
            },
        )
    }
}

impl Source<'_> {
    /// The media type: stated, or told by the URL's ending.
    pub fn mime(&self) -> Option<Cow<'_, str>> {
        match self {
            Source::Data { mime, .. } => Some(mime.text()),
            Source::Url { mime: Some(mime), .. } => Some(mime.text()),
            Source::Url { url, mime: None } => mime_of_url(&url.text()).map(Cow::Borrowed),
        }
    }
}

fn mime_of_url(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let (_, ending) = path.rsplit_once('/')?.1.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        _ => return None,
    })
}

/// What a media type is shown as.
pub fn medium_of_mime(mime: &str) -> Option<Medium> {
    match mime.split('/').next()? {
        "image" => Some(Medium::Image),
        "audio" => Some(Medium::Audio),
        "video" => Some(Medium::Video),
        "application" | "text" => Some(Medium::Document),
        _ => None,
    }
}

/// Reads a URL or a base64 `data:` URI (RFC 2397).
pub fn source_of_uri<'d>(value: Value<'d>) -> Read<'d, Source<'d>> {
    let uri = string(value)?;
    if !uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Ok(Source::Url { url: Written::of(value)?, mime: None });
    }
    let pieces = match &uri {
        Cow::Borrowed(uri) => data_uri(uri).map(|(mime, data)| (Cow::Borrowed(mime), Cow::Borrowed(data))),
        Cow::Owned(uri) => data_uri(uri).map(|(mime, data)| (mime.to_owned().into(), data.to_owned().into())),
    };
    match pieces {
        Some((mime, data)) => Ok(Source::Data { mime: Written::decoded(mime), data: Written::decoded(data) }),
        None => fault(value, "is not a base64 data URI"),
    }
}

/// Media type and base64 of a `data:` URI.
fn data_uri(uri: &str) -> Option<(&str, &str)> {
    let (head, data) = uri.get(5..)?.split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    let mime = head.split(';').next().filter(|mime| !mime.is_empty())?;
    Some((mime, data))
}
