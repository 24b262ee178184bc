//! The wire forms of OpenAI's responses.

use super::body::Heartbeat;
use super::delivery::{Answer, Event, Part, Stream};
use super::dialect::Dialect;
use super::openai::now;
use super::reply::{self, Content, Order, Said, Spoken, Turn, quoted};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    include: Option<Vec<String>>,
    // What follows is only said back.
    #[serde(borrow, default)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parallel_tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    previous_response_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    store: Option<&'a RawValue>,
    #[serde(borrow, default)]
    temperature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default)]
    top_p: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Item>),
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    content: Option<Content>,
    /// What a tool gave back.
    #[serde(default)]
    output: Option<Content>,
}

impl Request<'_> {
    fn turns(&self) -> serde_json::Result<Vec<Turn>> {
        let instructions =
            self.instructions.map(|raw| serde_json::from_str::<Option<String>>(raw.get())).transpose()?;
        let mut turns = vec![Turn { user: false, text: instructions.flatten() }];
        match self.input.map(|input| serde_json::from_str(input.get())).transpose()? {
            Some(Input::Text(text)) => turns.push(Turn { user: true, text: Some(text) }),
            Some(Input::Items(items)) => turns.extend(items.into_iter().map(|item| Turn {
                user: item.role.as_deref() == Some("user"),
                text: item.content.or(item.output).and_then(Content::into_text),
            })),
            None => {}
        }
        Ok(turns)
    }
}

/// Answers `POST /v1/responses`.
pub(super) fn responses(order: Order, body: &[u8]) -> serde_json::Result<Answer> {
    let request: Request = serde_json::from_slice(body)?;
    let said = Said::new(order, body, || request.turns())?;
    let input = reply::prompt_tokens(reply::bytes(&[request.instructions, request.input]));
    let response = ResponseObject { order, request: &request, created: now() };
    let items = Items { order, said: &said, encrypted: request.wants_encrypted_reasoning() };
    let usage = usage(input, &said);
    let status = if said.is_cut() { "incomplete" } else { "completed" };
    let whole = response.json(status, &items.whole(), &usage);
    if request.stream != Some(true) {
        return Ok(Answer::Plain(whole.into_bytes()));
    }
    let begun = format!(r#""response":{}"#, response.json("in_progress", "", "null"));
    let mut events = Numbered(Vec::with_capacity(said.tokens() + 16));
    events.push(Part::Opening, "response.created", &begun);
    events.push(Part::Opening, "response.in_progress", &begun);
    let heartbeat = Heartbeat::Numbered(events.0.len() as u64);
    items.stream(&mut events);
    events.push(Part::Terminator, &format!("response.{status}"), &format!(r#""response":{whole}"#));
    Ok(Answer::Stream(Stream { dialect: Dialect::Responses, events: events.0, heartbeat, array: false }))
}

impl Request<'_> {
    fn wants_encrypted_reasoning(&self) -> bool {
        self.include.iter().flatten().any(|included| included == "reasoning.encrypted_content")
    }
}

fn usage(input: usize, said: &Said) -> String {
    let (output, thought) = (said.tokens(), said.reasoning_tokens());
    format!(
        concat!(
            r#"{{"input_tokens":{},"input_tokens_details":{{"cached_tokens":0}},"output_tokens":{},"#,
            r#""output_tokens_details":{{"reasoning_tokens":{}}},"total_tokens":{}}}"#
        ),
        input,
        output,
        thought,
        input + output
    )
}

/// What every state of one response repeats.
struct ResponseObject<'a> {
    order: Order<'a>,
    request: &'a Request<'a>,
    created: u64,
}

impl ResponseObject<'_> {
    fn json(&self, status: &str, output: &str, usage: &str) -> String {
        let request = self.request;
        let or = |asked: Option<&RawValue>, otherwise: &'static str| match asked {
            Some(asked) => asked.get().to_owned(),
            None => otherwise.to_owned(),
        };
        let incomplete = match status {
            "incomplete" => r#"{"reason":"max_output_tokens"}"#,
            _ => "null",
        };
        format!(
            concat!(
                r#"{{"id":"resp_mock{:012}","object":"response","created_at":{},"status":"{}","error":null,"#,
                r#""incomplete_details":{},"instructions":{},"max_output_tokens":{},"model":{},"output":[{}],"#,
                r#""parallel_tool_calls":{},"previous_response_id":{},"reasoning":{},"store":{},"temperature":{},"#,
                r#""text":{},"tool_choice":{},"tools":{},"top_p":{},"truncation":"disabled","usage":{},"#,
                r#""user":null,"metadata":{}}}"#
            ),
            self.order.serial,
            self.created,
            status,
            incomplete,
            or(request.instructions, "null"),
            or(request.max_output_tokens, "null"),
            quoted(request.model.as_deref().unwrap_or("mock")),
            output,
            or(request.parallel_tool_calls, "true"),
            or(request.previous_response_id, "null"),
            or(request.reasoning, r#"{"effort":null,"summary":null}"#),
            or(request.store, "true"),
            or(request.temperature, "1.0"),
            or(request.text, r#"{"format":{"type":"text"}}"#),
            or(request.tool_choice, r#""auto""#),
            or(request.tools, "[]"),
            or(request.top_p, "1.0"),
            usage,
            or(request.metadata, "{}"),
        )
    }
}

/// The events of a stream, each with its number.
struct Numbered(Vec<Event>);

impl Numbered {
    /// `fields`: the members that follow the type and the number.
    fn push(&mut self, part: Part, name: &str, fields: &str) {
        let number = self.0.len();
        let data = format!(r#"{{"type":"{name}","sequence_number":{number},{fields}}}"#);
        self.0.push(Event::named(part, name, &data));
    }

    fn added(&mut self, output: usize, item: &str) {
        let fields = format!(r#""output_index":{output},"item":{item}"#);
        self.push(Part::Frame, "response.output_item.added", &fields);
    }

    fn done(&mut self, output: usize, item: &str) {
        let fields = format!(r#""output_index":{output},"item":{item}"#);
        self.push(Part::Frame, "response.output_item.done", &fields);
    }
}

/// The items of the output.
struct Items<'a> {
    order: Order<'a>,
    said: &'a Said<'a>,
    encrypted: bool,
}

impl Items<'_> {
    fn reasoning(&self, summary: &str) -> String {
        let (id, encrypted) = (self.order.id("rs", 0), if self.encrypted { r#""sig-mock""# } else { "null" });
        format!(r#"{{"id":"{id}","type":"reasoning","summary":[{summary}],"encrypted_content":{encrypted}}}"#)
    }

    fn message(&self, status: &str, content: &str) -> String {
        let id = self.order.id("msg", 0);
        let end = format!(r#""role":"assistant","content":[{content}]"#);
        format!(r#"{{"id":"{id}","type":"message","status":"{status}",{end}}}"#)
    }

    fn call(&self, index: usize, status: &str, name: &str, arguments: &str) -> String {
        let (id, call_id) = (self.order.id("fc", index), self.order.id("call", index));
        let (name, arguments) = (quoted(name), quoted(arguments));
        let head = format!(r#""id":"{id}","type":"function_call","status":"{status}""#);
        format!(r#"{{{head},"call_id":"{call_id}","name":{name},"arguments":{arguments}}}"#)
    }

    /// All items as a finished response has them.
    fn whole(&self) -> String {
        let reasoning = self.said.reasoning.iter().map(|reasoning| self.reasoning(&summary(&reasoning.text)));
        let text = self.said.text.iter().map(|text| self.message("completed", &output_text(&text.text)));
        let calls = self.said.calls.iter().enumerate();
        let calls = calls.map(|(index, call)| self.call(index, "completed", call.name, &call.arguments.text));
        reasoning.chain(text).chain(calls).collect::<Vec<_>>().join(",")
    }

    fn stream(&self, events: &mut Numbered) {
        let mut output = 0;
        if let Some(reasoning) = &self.said.reasoning {
            let id = self.order.id("rs", 0);
            let place = format!(r#""item_id":"{id}","output_index":{output},"summary_index":0"#);
            let pieces = Pieces { part: "reasoning_summary_part", text: "reasoning_summary_text", extra: "" };
            events.added(output, &self.reasoning(""));
            pieces.stream(events, &place, reasoning, summary);
            events.done(output, &self.reasoning(&summary(&reasoning.text)));
            output += 1;
        }
        if let Some(text) = &self.said.text {
            let id = self.order.id("msg", 0);
            let place = format!(r#""item_id":"{id}","output_index":{output},"content_index":0"#);
            let pieces = Pieces { part: "content_part", text: "output_text", extra: r#","logprobs":[]"# };
            events.added(output, &self.message("in_progress", ""));
            pieces.stream(events, &place, text, output_text);
            events.done(output, &self.message("completed", &output_text(&text.text)));
            output += 1;
        }
        for (index, call) in self.said.calls.iter().enumerate() {
            let id = self.order.id("fc", index);
            let place = format!(r#""item_id":"{id}","output_index":{output}"#);
            events.added(output, &self.call(index, "in_progress", call.name, ""));
            for piece in call.arguments.pieces() {
                let delta = format!(r#"{place},"delta":{}"#, quoted(piece));
                events.push(Part::Delta, "response.function_call_arguments.delta", &delta);
            }
            let whole = format!(r#"{place},"arguments":{}"#, quoted(&call.arguments.text));
            events.push(Part::Frame, "response.function_call_arguments.done", &whole);
            events.done(output, &self.call(index, "completed", call.name, &call.arguments.text));
            output += 1;
        }
    }
}

/// The names that the events of a text have, which is a part of an item.
struct Pieces {
    part: &'static str,
    text: &'static str,
    /// Members that every event of the text has.
    extra: &'static str,
}

impl Pieces {
    fn stream(&self, events: &mut Numbered, place: &str, spoken: &Spoken, part: impl Fn(&str) -> String) {
        let Pieces { part: part_name, text: text_name, extra } = self;
        let added = format!(r#"{place},"part":{}"#, part(""));
        events.push(Part::Frame, &format!("response.{part_name}.added"), &added);
        for piece in spoken.pieces() {
            let delta = format!(r#"{place},"delta":{}{extra}"#, quoted(piece));
            events.push(Part::Delta, &format!("response.{text_name}.delta"), &delta);
        }
        let whole = format!(r#"{place},"text":{}{extra}"#, quoted(&spoken.text));
        events.push(Part::Frame, &format!("response.{text_name}.done"), &whole);
        let done = format!(r#"{place},"part":{}"#, part(&spoken.text));
        events.push(Part::Frame, &format!("response.{part_name}.done"), &done);
    }
}

fn summary(text: &str) -> String {
    format!(r#"{{"type":"summary_text","text":{}}}"#, quoted(text))
}

fn output_text(text: &str) -> String {
    format!(r#"{{"type":"output_text","text":{},"annotations":[],"logprobs":[]}}"#, quoted(text))
}
