//! The wire forms of Gemini's generateContent.

use super::body::Heartbeat;
use super::delivery::{Answer, Event, Part, Stream};
use super::dialect::Dialect;
use super::reply::{self, Order, Said, Turn, object, quoted};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The signature under every thought.
const SIGNATURE: &str = r#","thoughtSignature":"sig-mock""#;

/// What a path asks of a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Generate,
    /// `array`: the answers come as elements of a JSON array instead of as events.
    Stream {
        array: bool,
    },
    Count,
}

/// The versions of the API that official SDKs ask for.
const MODELS_OF_VERSIONS: [&str; 3] = ["/v1beta/models/", "/v1/models/", "/v1alpha/models/"];

/// The model and the method of `/v1beta/models/{model}:{method}`.
pub(super) fn method<'a>(path: &'a str, query: Option<&str>) -> Option<(&'a str, Method)> {
    let (model, method) = MODELS_OF_VERSIONS.iter().find_map(|prefix| path.strip_prefix(prefix))?.rsplit_once(':')?;
    let events = query.is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
    let method = match method {
        "generateContent" => Method::Generate,
        "streamGenerateContent" => Method::Stream { array: !events },
        "countTokens" => Method::Count,
        _ => return None,
    };
    Some((model, method))
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, default, rename = "systemInstruction", alias = "system_instruction")]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    contents: Option<&'a RawValue>,
    /// Counting may be asked for a whole request.
    #[serde(borrow, default, rename = "generateContentRequest")]
    whole: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Content {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    parts: Vec<RequestPart>,
}

#[derive(Deserialize)]
struct RequestPart {
    #[serde(default)]
    text: Option<String>,
    #[serde(default, rename = "functionResponse", alias = "function_response")]
    result: Option<FunctionResult>,
}

#[derive(Deserialize)]
struct FunctionResult {
    #[serde(default)]
    response: Option<Box<RawValue>>,
}

impl Content {
    fn into_turn(self, user: bool) -> Turn {
        let results = !self.parts.is_empty() && self.parts.iter().all(|part| part.result.is_some());
        let texts: Vec<String> = self.parts.into_iter().filter_map(RequestPart::into_text).collect();
        Turn { user: user && !results, text: (!texts.is_empty()).then(|| texts.join("\n")) }
    }
}

impl RequestPart {
    fn into_text(self) -> Option<String> {
        self.text.or_else(|| Some(self.result?.response?.get().to_owned()))
    }
}

impl Request<'_> {
    fn turns(&self) -> serde_json::Result<Vec<Turn>> {
        let system: Content =
            self.system.map_or_else(|| Ok(Content::default()), |raw| serde_json::from_str(raw.get()))?;
        let mut turns = vec![system.into_turn(false)];
        // A single turn needs no role.
        turns.extend(reply::list(self.contents)?.into_iter().map(|content: Content| {
            let user = content.role.as_deref() != Some("model");
            content.into_turn(user)
        }));
        Ok(turns)
    }

    fn tokens(&self) -> usize {
        reply::prompt_tokens(reply::bytes(&[self.system, self.contents, self.whole]))
    }
}

/// Answers a method of the model `model`.
pub(super) fn answer(order: Order, model: &str, method: Method, body: &[u8]) -> serde_json::Result<Answer> {
    let request: Request = serde_json::from_slice(body)?;
    let prompt = request.tokens();
    if method == Method::Count {
        let details = format!(r#"[{{"modality":"TEXT","tokenCount":{prompt}}}]"#);
        let count = format!(r#"{{"totalTokens":{prompt},"promptTokensDetails":{details}}}"#);
        return Ok(Answer::Plain(count.into_bytes()));
    }
    let said = Said::new(order, body, || request.turns())?;
    let chunk = Chunk { order, model, prompt };
    let finish = if said.is_cut() { "MAX_TOKENS" } else { "STOP" };
    let whole_usage = chunk.usage(said.tokens() - said.reasoning_tokens(), said.reasoning_tokens());
    let signature = said.reasoning.as_ref().map_or("", |_| SIGNATURE);
    // A call is never cut into deltas. The first one carries the signature.
    let calls = said.calls.iter().enumerate().map(|(index, call)| {
        let (name, arguments) = (quoted(call.name), object(&call.arguments.text));
        let signature = if index == 0 { signature } else { "" };
        format!(r#"{{"functionCall":{{"name":{name},"args":{arguments}}}{signature}}}"#)
    });
    let Method::Stream { array } = method else {
        let thought = said.reasoning.iter().map(|reasoning| thought(&reasoning.text));
        let text = said.text.iter().map(|text| text_part(&text.text, signature));
        let parts = thought.chain(text).chain(calls).collect::<Vec<_>>().join(",");
        return Ok(Answer::Plain(chunk.json(&parts, Some(finish), &whole_usage).into_bytes()));
    };
    let mut events = Vec::new();
    let delta = |part: &str, thoughts: usize, spoken: usize| {
        let json = chunk.json(part, None, &chunk.usage(spoken, thoughts));
        Event::new(Part::Delta, framed(&json))
    };
    let mut thoughts = 0;
    for piece in said.reasoning.iter().flat_map(|reasoning| reasoning.pieces()) {
        thoughts += 1;
        events.push(delta(&thought(piece), thoughts, 0));
    }
    for (index, piece) in said.text.iter().flat_map(|text| text.pieces()).enumerate() {
        events.push(delta(&text_part(piece, ""), thoughts, index + 1));
    }
    for (index, call) in calls.enumerate() {
        events.push(delta(&call, thoughts, index + 1));
    }
    // The signature of a text comes when there is nothing more to say.
    let signature = if said.calls.is_empty() { signature } else { "" };
    let last = chunk.json(&text_part("", signature), Some(finish), &whole_usage);
    events.push(Event::new(Part::Terminator, framed(&last)));
    let heartbeat = Heartbeat::Same(framed(&chunk.without_candidates()));
    Ok(Answer::Stream(Stream { dialect: Dialect::Gemini, events, heartbeat, array }))
}

fn thought(text: &str) -> String {
    format!(r#"{{"text":{},"thought":true}}"#, quoted(text))
}

fn text_part(text: &str, signature: &str) -> String {
    format!(r#"{{"text":{}{signature}}}"#, quoted(text))
}

fn framed(json: &str) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

/// What every chunk of one answer repeats.
struct Chunk<'a> {
    order: Order<'a>,
    model: &'a str,
    prompt: usize,
}

impl Chunk<'_> {
    fn json(&self, parts: &str, finish: Option<&str>, usage: &str) -> String {
        let finish = finish.map(|finish| format!(r#""finishReason":"{finish}","#)).unwrap_or_default();
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{parts}],"role":"model"}},{finish}"index":0}}],{}}}"#,
            self.tail(usage)
        )
    }

    fn without_candidates(&self) -> String {
        format!("{{{}}}", self.tail(&self.usage(0, 0)))
    }

    fn tail(&self, usage: &str) -> String {
        let (model, serial) = (quoted(self.model), self.order.serial);
        format!(r#""usageMetadata":{usage},"modelVersion":{model},"responseId":"mock{serial:012}""#)
    }

    /// Gemini counts thoughts beside the candidates, not among them, and leaves out what is zero.
    fn usage(&self, spoken: usize, thoughts: usize) -> String {
        let prompt = self.prompt;
        let count = |name: &str, tokens: usize| match tokens {
            0 => String::new(),
            _ => format!(r#""{name}":{tokens},"#),
        };
        format!(
            concat!(
                r#"{{"promptTokenCount":{},{}{}"totalTokenCount":{},"#,
                r#""promptTokensDetails":[{{"modality":"TEXT","tokenCount":{}}}]}}"#
            ),
            prompt,
            count("candidatesTokenCount", spoken),
            count("thoughtsTokenCount", thoughts),
            prompt + spoken + thoughts,
            prompt,
        )
    }
}

/// Answers `GET /v1beta/models`.
pub(super) const MODELS: &str = concat!(
    r#"{"models":["#,
    r#"{"name":"models/gemini-2.5-flash","version":"001","displayName":"Gemini 2.5 Flash","inputTokenLimit":1048576,"#,
    r#""outputTokenLimit":65536,"supportedGenerationMethods":["generateContent","countTokens"]},"#,
    r#"{"name":"models/gemini-2.5-pro","version":"2.5","displayName":"Gemini 2.5 Pro","inputTokenLimit":1048576,"#,
    r#""outputTokenLimit":65536,"supportedGenerationMethods":["generateContent","countTokens"]}"#,
    r#"]}"#
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_model_and_method() {
        let found = |path, query| method(path, query).map(|(model, method)| (model.to_owned(), method));
        let stream = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
        let model = || "gemini-2.5-pro".to_owned();
        assert!(found(stream, Some("key=k&alt=sse")) == Some((model(), Method::Stream { array: false })));
        assert!(found(stream, None) == Some((model(), Method::Stream { array: true })));
        assert!(found("/v1beta/models/a:b:countTokens", None) == Some(("a:b".to_owned(), Method::Count)));
        assert!(found("/v1/models/a:generateContent", None) == Some(("a".to_owned(), Method::Generate)));
        assert!(found("/v1beta/models/a:embedContent", None).is_none());
        assert!(found("/v1beta/models", None).is_none());
    }
}
