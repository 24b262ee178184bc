//! Answers for clients of OpenAI's responses.
//!
//! Every block of an answer is an output item of its own. Reasoning has its text in the summary and what the client has
//! to give back as it was in `encrypted_content`: a signature, or `redacted:` and Anthropic's redacted reasoning.

use super::super::request::write::Writer;
use super::super::said::{Answer, Block, Call, Event, Part, Reason};
use crate::json::Document;

/// What a response repeats of its request, and what it says where the request is silent.
const ECHOED: [(&str, &str); 12] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("reasoning", "{\"effort\":null,\"summary\":null}"),
    ("temperature", "null"),
    ("text", "{\"format\":{\"type\":\"text\"}}"),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_p", "null"),
    ("truncation", "\"disabled\""),
    ("user", "null"),
];

/// The members of a response that come from its request.
fn echo(asked: &str) -> String {
    let document = Document::parse(asked).ok();
    let root = document.as_ref().map(|document| document.root(asked));
    let mut out = String::new();
    for (name, silent) in ECHOED {
        let stated = root.and_then(|root| root.get(name)).filter(|value| !value.is_null());
        let separator = if out.is_empty() { "" } else { "," };
        let value = stated.map_or(silent, |value| value.raw());
        out.push_str(&format!("{separator}\"{name}\":{value}"));
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    Incomplete(&'static str),
}

impl Status {
    fn of(answer: &Answer) -> Status {
        match answer.reason() {
            Reason::Length => Status::Incomplete("max_output_tokens"),
            Reason::Filtered => Status::Incomplete("content_filter"),
            Reason::End | Reason::Tools | Reason::StopSequence(_) => Status::Completed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete(_) => "incomplete",
        }
    }
}

fn write_response(writer: &mut Writer, answer: &Answer, status: Status, echo: &str) {
    writer.open('{').key("id").text(&answer.head.id).key("object").text("response");
    writer.key("created_at").raw(&answer.head.created.to_string()).key("status").text(status.name());
    writer.key("background").raw("false").key("error").raw("null").key("incomplete_details");
    match status {
        Status::Incomplete(reason) => writer.open('{').key("reason").text(reason).close('}'),
        _ => writer.raw("null"),
    };
    writer.key("model").text(&answer.head.model).key("output").open('[');
    if status != Status::InProgress {
        let mut place = 0;
        for part in &answer.parts {
            place = write_part(writer, answer, part, place);
        }
    }
    writer.close(']').key("previous_response_id").raw("null").key("store").raw("false").raw(echo).key("usage");
    match status != Status::InProgress && answer.usage.is_stated() {
        true => write_usage(writer, answer),
        false => {
            writer.raw("null");
        }
    }
    writer.close('}');
}

fn write_usage(writer: &mut Writer, answer: &Answer) {
    let usage = &answer.usage;
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    writer.open('{').key("input_tokens").raw(&input.to_string()).key("input_tokens_details").open('{');
    writer.key("cached_tokens").raw(&usage.cached.unwrap_or(0).to_string());
    writer.key("cache_write_tokens").raw(&usage.cache_created.unwrap_or(0).to_string()).close('}');
    writer.key("output_tokens").raw(&output.to_string()).key("output_tokens_details").open('{');
    writer.key("reasoning_tokens").raw(&usage.reasoning.unwrap_or(0).to_string()).close('}');
    writer.key("total_tokens").raw(&input.saturating_add(output).to_string()).close('}');
}

/// The id of the output item at `place`.
fn item_id(answer: &Answer, prefix: &str, place: usize) -> String {
    format!("{prefix}_{}_{place}", answer.head.id)
}

/// Writes the items of a part, the first of which has that place, and gives the place after them.
fn write_part(writer: &mut Writer, answer: &Answer, part: &Part, place: usize) -> usize {
    match part {
        Part::Text(text) => write_message(writer, &item_id(answer, "msg", place), "completed", Some(text)),
        Part::Reasoning { text, signature } => {
            write_reasoning(writer, &item_id(answer, "rs", place), text, signature.as_deref());
        }
        Part::Redacted(data) => {
            write_reasoning(writer, &item_id(answer, "rs", place), "", Some(&format!("redacted:{data}")));
        }
        Part::Tool { call, arguments } => {
            let mut place = place;
            if let Some(signature) = &call.signature {
                write_reasoning(writer, &item_id(answer, "rs", place), "", Some(signature));
                place += 1;
            }
            write_call(writer, &item_id(answer, "fc", place), "completed", call, arguments);
            return place + 1;
        }
    }
    place + 1
}

fn write_message(writer: &mut Writer, id: &str, status: &str, text: Option<&str>) {
    writer.open('{').key("id").text(id).key("type").text("message").key("status").text(status);
    writer.key("role").text("assistant").key("content").open('[');
    if let Some(text) = text {
        write_text(writer, text);
    }
    writer.close(']').close('}');
}

fn write_text(writer: &mut Writer, text: &str) {
    writer.open('{').key("type").text("output_text").key("text").text(text);
    writer.key("annotations").open('[').close(']').key("logprobs").open('[').close(']').close('}');
}

fn write_summary(writer: &mut Writer, text: &str) {
    writer.open('{').key("type").text("summary_text").key("text").text(text).close('}');
}

fn write_reasoning(writer: &mut Writer, id: &str, text: &str, encrypted: Option<&str>) {
    writer.open('{').key("id").text(id).key("type").text("reasoning").key("summary").open('[');
    if !text.is_empty() {
        write_summary(writer, text);
    }
    writer.close(']');
    if let Some(encrypted) = encrypted {
        writer.key("encrypted_content").text(encrypted);
    }
    writer.close('}');
}

fn write_call(writer: &mut Writer, id: &str, status: &str, call: &Call, arguments: &str) {
    writer.open('{').key("id").text(id).key("type").text("function_call").key("status").text(status);
    writer.key("call_id").text(&call.id).key("name").text(&call.name);
    writer.key("arguments").text(arguments).close('}');
}

/// A whole answer.
pub fn whole(answer: &Answer, asked: &str) -> String {
    let mut writer = Writer::default();
    write_response(&mut writer, answer, Status::of(answer), &echo(asked));
    writer.finish()
}

/// Writes a stream's events.
#[derive(Debug)]
pub struct Encoder {
    echo: String,
    sequence: u64,
    started: bool,
    /// The place of the open item, or of the next one.
    place: usize,
    /// Whether the open reasoning has a summary yet.
    summary: bool,
}

impl Encoder {
    pub fn new(asked: &str) -> Encoder {
        Encoder { echo: echo(asked), sequence: 0, started: false, place: 0, summary: false }
    }

    /// The number of the next event.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Writes what `event` adds to `answer`, which has it already.
    pub fn event(&mut self, answer: &Answer, event: &Event, out: &mut Vec<u8>) {
        if !self.started {
            self.start(answer, out);
        }
        match event {
            Event::Open(block) => self.open(answer, block, out),
            Event::Text(text) => self.delta("response.output_text.delta", "msg", answer, text, out),
            Event::Arguments(json) => self.delta("response.function_call_arguments.delta", "fc", answer, json, out),
            Event::Reasoning(text) => self.reasoning(answer, text, out),
            Event::Close => self.close(answer, out),
            Event::Over => self.finish(answer, out),
            Event::Start(_) | Event::Signature(_) | Event::Stop(_) | Event::Usage(_) | Event::Error(_) => {}
        }
    }

    fn write(&mut self, name: &str, out: &mut Vec<u8>, members: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::default();
        writer.open('{').key("type").text(name).key("sequence_number").raw(&self.sequence.to_string());
        self.sequence += 1;
        members(&mut writer);
        writer.close('}');
        super::event(name, &writer.finish(), out);
    }

    fn start(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        self.started = true;
        self.response("response.created", answer, Status::InProgress, out);
        self.response("response.in_progress", answer, Status::InProgress, out);
    }

    fn response(&mut self, name: &str, answer: &Answer, status: Status, out: &mut Vec<u8>) {
        let echo = std::mem::take(&mut self.echo);
        self.write(name, out, |writer| write_response(writer.key("response"), answer, status, &echo));
        self.echo = echo;
    }

    fn finish(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        let status = Status::of(answer);
        self.response(&format!("response.{}", status.name()), answer, status, out);
    }

    /// An event about a whole output item.
    fn item(&mut self, name: &str, out: &mut Vec<u8>, item: impl FnOnce(&mut Writer)) {
        let place = self.place.to_string();
        self.write(name, out, |writer| item(writer.key("output_index").raw(&place).key("item")));
    }

    /// An event inside an output item; `part` names the kind of index that goes with it.
    fn inside(&mut self, name: &str, id: &str, part: &str, out: &mut Vec<u8>, members: impl FnOnce(&mut Writer)) {
        let place = self.place.to_string();
        self.write(name, out, |writer| {
            writer.key("item_id").text(id).key("output_index").raw(&place);
            if !part.is_empty() {
                writer.key(part).raw("0");
            }
            members(writer);
        });
    }

    fn open(&mut self, answer: &Answer, block: &Block, out: &mut Vec<u8>) {
        match block {
            Block::Text => {
                let id = item_id(answer, "msg", self.place);
                self.item("response.output_item.added", out, |item| write_message(item, &id, "in_progress", None));
                self.inside("response.content_part.added", &id, "content_index", out, |writer| {
                    write_text(writer.key("part"), "");
                });
            }
            Block::Reasoning => {
                self.summary = false;
                self.reason(answer, "response.output_item.added", None, out);
            }
            Block::Redacted(data) => {
                let encrypted = format!("redacted:{data}");
                self.reason(answer, "response.output_item.added", Some(&encrypted), out);
            }
            Block::Tool(call) => {
                if let Some(signature) = &call.signature {
                    self.reason(answer, "response.output_item.added", Some(signature), out);
                    self.reason(answer, "response.output_item.done", Some(signature), out);
                    self.place += 1;
                }
                let id = item_id(answer, "fc", self.place);
                self.item("response.output_item.added", out, |item| write_call(item, &id, "in_progress", call, ""));
            }
        }
    }

    /// An event about a reasoning item without text.
    fn reason(&mut self, answer: &Answer, name: &str, encrypted: Option<&str>, out: &mut Vec<u8>) {
        let id = item_id(answer, "rs", self.place);
        self.item(name, out, |item| write_reasoning(item, &id, "", encrypted));
    }

    fn delta(&mut self, name: &str, prefix: &str, answer: &Answer, text: &str, out: &mut Vec<u8>) {
        let id = item_id(answer, prefix, self.place);
        let is_text = prefix == "msg";
        let part = if is_text { "content_index" } else { "" };
        self.inside(name, &id, part, out, |writer| {
            writer.key("delta").text(text);
            if is_text {
                writer.key("logprobs").open('[').close(']');
            }
        });
    }

    fn reasoning(&mut self, answer: &Answer, text: &str, out: &mut Vec<u8>) {
        let id = item_id(answer, "rs", self.place);
        if !self.summary {
            self.summary = true;
            self.inside("response.reasoning_summary_part.added", &id, "summary_index", out, |writer| {
                write_summary(writer.key("part"), "");
            });
        }
        self.inside("response.reasoning_summary_text.delta", &id, "summary_index", out, |writer| {
            writer.key("delta").text(text);
        });
    }

    fn close(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        let place = self.place;
        match answer.parts.last() {
            Some(Part::Text(text)) => self.close_text(&item_id(answer, "msg", place), text, out),
            Some(Part::Reasoning { text, signature }) => {
                self.close_reasoning(&item_id(answer, "rs", place), text, signature.as_deref(), out);
            }
            Some(Part::Redacted(data)) => {
                let encrypted = format!("redacted:{data}");
                self.reason(answer, "response.output_item.done", Some(&encrypted), out);
            }
            Some(Part::Tool { call, arguments }) => {
                self.close_call(&item_id(answer, "fc", place), call, arguments, out);
            }
            None => {}
        }
        self.place += 1;
    }

    fn close_text(&mut self, id: &str, text: &str, out: &mut Vec<u8>) {
        self.inside("response.output_text.done", id, "content_index", out, |writer| {
            writer.key("text").text(text).key("logprobs").open('[').close(']');
        });
        self.inside("response.content_part.done", id, "content_index", out, |writer| {
            write_text(writer.key("part"), text);
        });
        self.item("response.output_item.done", out, |item| write_message(item, id, "completed", Some(text)));
    }

    fn close_reasoning(&mut self, id: &str, text: &str, signature: Option<&str>, out: &mut Vec<u8>) {
        if self.summary {
            self.inside("response.reasoning_summary_text.done", id, "summary_index", out, |writer| {
                writer.key("text").text(text);
            });
            self.inside("response.reasoning_summary_part.done", id, "summary_index", out, |writer| {
                write_summary(writer.key("part"), text);
            });
        }
        self.item("response.output_item.done", out, |item| write_reasoning(item, id, text, signature));
    }

    fn close_call(&mut self, id: &str, call: &Call, arguments: &str, out: &mut Vec<u8>) {
        self.inside("response.function_call_arguments.done", id, "", out, |writer| {
            writer.key("name").text(&call.name).key("arguments").text(arguments);
        });
        self.item("response.output_item.done", out, |item| write_call(item, id, "completed", call, arguments));
    }
}
