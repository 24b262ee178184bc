//! The wire forms of Anthropic's messages.

use super::body::Heartbeat;
use super::delivery::{Answer, Event, Part, Stream};
use super::dialect::Dialect;
use super::reply::{self, Content, Order, Said, Turn, object, quoted};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What keeps a stream alive while nothing is said.
const PING: Bytes = Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n");

/// The signature under every thought.
const SIGNATURE: &str = "sig-mock";

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

impl Request<'_> {
    fn turns(&self) -> serde_json::Result<Vec<Turn>> {
        let system = self.system.map(|system| serde_json::from_str::<Content>(system.get())).transpose()?;
        let mut turns = vec![Turn { user: false, text: system.and_then(Content::into_text) }];
        turns.extend(reply::list(self.messages)?.into_iter().map(|message: Message| Turn {
            user: message.role == "user" && !message.content.as_ref().is_some_and(Content::is_results),
            text: message.content.and_then(Content::into_text),
        }));
        Ok(turns)
    }

    fn tokens(&self) -> usize {
        reply::prompt_tokens(reply::bytes(&[self.system, self.messages]))
    }
}

/// Answers `POST /v1/messages/count_tokens`.
pub(super) fn count_tokens(body: &[u8]) -> serde_json::Result<Answer> {
    let request: Request = serde_json::from_slice(body)?;
    Ok(Answer::Plain(format!(r#"{{"input_tokens":{}}}"#, request.tokens()).into_bytes()))
}

/// Answers `POST /v1/messages`.
pub(super) fn messages(order: Order, body: &[u8]) -> serde_json::Result<Answer> {
    let request: Request = serde_json::from_slice(body)?;
    let said = Said::new(order, body, || request.turns())?;
    let stop_reason = match (said.is_cut(), said.calls.is_empty()) {
        (true, _) => "max_tokens",
        (false, false) => "tool_use",
        (false, true) => "end_turn",
    };
    let (input, output) = (request.tokens(), said.tokens());
    let message = |content: &str, stop_reason: &str, output: usize| {
        format!(
            concat!(
                r#"{{"id":"msg_mock{:012}","type":"message","role":"assistant","model":{},"content":[{}],"#,
                r#""stop_reason":{},"stop_sequence":null,"usage":{}}}"#
            ),
            order.serial,
            quoted(request.model.as_deref().unwrap_or("mock")),
            content,
            stop_reason,
            usage(input, output),
        )
    };
    if request.stream != Some(true) {
        let whole = message(&content(order, &said), &quoted(stop_reason), output);
        return Ok(Answer::Plain(whole.into_bytes()));
    }
    // Before anything is said, one token counts as put out.
    let start = format!(r#"{{"type":"message_start","message":{}}}"#, message("", "null", 1));
    let mut events = vec![Event::named(Part::Opening, "message_start", &start), Event::new(Part::Opening, PING)];
    blocks(order, &said, &mut events);
    let delta = format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":"{stop_reason}","stop_sequence":null}},"usage":{}}}"#,
        usage(input, output)
    );
    events.push(Event::named(Part::Closing, "message_delta", &delta));
    events.push(Event::named(Part::Terminator, "message_stop", r#"{"type":"message_stop"}"#));
    Ok(Answer::Stream(Stream { dialect: Dialect::Anthropic, events, heartbeat: Heartbeat::Same(PING), array: false }))
}

fn usage(input: usize, output: usize) -> String {
    format!(
        concat!(
            r#"{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"#,
            r#""output_tokens":{},"service_tier":"standard"}}"#
        ),
        input, output
    )
}

/// The blocks of a plain answer.
fn content(order: Order, said: &Said) -> String {
    let thought = said.reasoning.iter().map(|reasoning| {
        format!(r#"{{"type":"thinking","thinking":{},"signature":"{SIGNATURE}"}}"#, quoted(&reasoning.text))
    });
    let text = said.text.iter().map(|text| format!(r#"{{"type":"text","text":{}}}"#, quoted(&text.text)));
    let calls = said.calls.iter().enumerate().map(|(index, call)| {
        let (id, name, input) = (order.id("toolu", index), quoted(call.name), object(&call.arguments.text));
        format!(r#"{{"type":"tool_use","id":"{id}","name":{name},"input":{input}}}"#)
    });
    thought.chain(text).chain(calls).collect::<Vec<_>>().join(",")
}

/// The blocks of a stream.
fn blocks(order: Order, said: &Said, events: &mut Vec<Event>) {
    let mut block = Block { index: 0, events };
    if let Some(reasoning) = &said.reasoning {
        block.start(r#"{"type":"thinking","thinking":"","signature":""}"#);
        for piece in reasoning.pieces() {
            block.delta(Part::Delta, &format!(r#"{{"type":"thinking_delta","thinking":{}}}"#, quoted(piece)));
        }
        block.delta(Part::Frame, &format!(r#"{{"type":"signature_delta","signature":"{SIGNATURE}"}}"#));
        block.stop();
    }
    if let Some(text) = &said.text {
        block.start(r#"{"type":"text","text":""}"#);
        for piece in text.pieces() {
            block.delta(Part::Delta, &format!(r#"{{"type":"text_delta","text":{}}}"#, quoted(piece)));
        }
        block.stop();
    }
    for (index, call) in said.calls.iter().enumerate() {
        let (id, name) = (order.id("toolu", index), quoted(call.name));
        block.start(&format!(r#"{{"type":"tool_use","id":"{id}","name":{name},"input":{{}}}}"#));
        block.delta(Part::Frame, r#"{"type":"input_json_delta","partial_json":""}"#);
        for piece in call.arguments.pieces() {
            block.delta(Part::Delta, &format!(r#"{{"type":"input_json_delta","partial_json":{}}}"#, quoted(piece)));
        }
        block.stop();
    }
}

/// The content block that is being streamed.
struct Block<'a> {
    index: usize,
    events: &'a mut Vec<Event>,
}

impl Block<'_> {
    fn start(&mut self, block: &str) {
        let index = self.index;
        let data = format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#);
        self.events.push(Event::named(Part::Frame, "content_block_start", &data));
    }

    fn delta(&mut self, part: Part, delta: &str) {
        let index = self.index;
        let data = format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#);
        self.events.push(Event::named(part, "content_block_delta", &data));
    }

    fn stop(&mut self) {
        let data = format!(r#"{{"type":"content_block_stop","index":{}}}"#, self.index);
        self.events.push(Event::named(Part::Frame, "content_block_stop", &data));
        self.index += 1;
    }
}
