//! Answers for OpenAI's chat clients.
//!
//! Reasoning goes by the field's conventions: `reasoning_content` for its text, `thinking_blocks` for what a client has
//! to give back as it was. A Gemini signature stands where Google's own OpenAI endpoint puts it.

use super::super::request::write::Writer;
use super::super::said::{Answer, Block, Call, Event, Part, Reason};
use crate::json::Document;

fn reason(answer: &Answer) -> &'static str {
    match answer.reason() {
        Reason::Length => "length",
        Reason::Tools => "tool_calls",
        Reason::Filtered => "content_filter",
        Reason::End | Reason::StopSequence(_) => "stop",
    }
}

fn write_usage(writer: &mut Writer, answer: &Answer) {
    let usage = &answer.usage;
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    writer.open('{').key("prompt_tokens").raw(&input.to_string());
    writer.key("completion_tokens").raw(&output.to_string());
    writer.key("total_tokens").raw(&input.saturating_add(output).to_string());
    writer.key("prompt_tokens_details").open('{');
    writer.key("cached_tokens").raw(&usage.cached.unwrap_or(0).to_string());
    if let Some(created) = usage.cache_created {
        writer.key("cache_write_tokens").raw(&created.to_string());
    }
    writer.close('}');
    writer.key("completion_tokens_details").open('{');
    writer.key("reasoning_tokens").raw(&usage.reasoning.unwrap_or(0).to_string()).close('}').close('}');
}

fn write_call(writer: &mut Writer, index: Option<usize>, call: &Call, arguments: &str) {
    writer.open('{');
    if let Some(index) = index {
        writer.key("index").raw(&index.to_string());
    }
    writer.key("id").text(&call.id).key("type").text("function").key("function").open('{');
    writer.key("name").text(&call.name).key("arguments").text(arguments).close('}');
    if let Some(signature) = &call.signature {
        writer.key("extra_content").open('{').key("google").open('{');
        writer.key("thought_signature").text(signature).close('}').close('}');
    }
    writer.close('}');
}

/// An entry of `thinking_blocks`. In streams it is numbered, for OpenAI's client adds up lists by that number.
fn write_thought(writer: &mut Writer, index: Option<usize>, text: &str, signature: Option<&str>) {
    writer.open('{');
    if let Some(index) = index {
        writer.key("index").raw(&index.to_string());
    }
    writer.key("type").text("thinking").key("thinking").text(text);
    if let Some(signature) = signature {
        writer.key("signature").text(signature);
    }
    writer.close('}');
}

fn write_redacted(writer: &mut Writer, index: Option<usize>, data: &str) {
    writer.open('{');
    if let Some(index) = index {
        writer.key("index").raw(&index.to_string());
    }
    writer.key("type").text("redacted_thinking").key("data").text(data).close('}');
}

/// Up to where answers and chunks are alike.
fn write_head(writer: &mut Writer, answer: &Answer, object: &str) {
    writer.open('{').key("id").text(&answer.head.id).key("object").text(object);
    writer.key("created").raw(&answer.head.created.to_string()).key("model").text(&answer.head.model);
}

/// A whole answer.
pub fn whole(answer: &Answer) -> String {
    let mut writer = Writer::default();
    write_head(&mut writer, answer, "chat.completion");
    writer.key("choices").open('[').open('{').key("index").raw("0").key("message").open('{');
    writer.key("role").text("assistant");
    let text = answer.text();
    match text.is_empty() {
        true => writer.key("content").raw("null"),
        false => writer.key("content").text(&text),
    };
    writer.key("refusal").raw("null");
    write_reasoning(&mut writer, answer);
    if answer.tools() > 0 {
        writer.key("tool_calls").open('[');
        for part in &answer.parts {
            if let Part::Tool { call, arguments } = part {
                write_call(&mut writer, None, call, arguments);
            }
        }
        writer.close(']');
    }
    writer.close('}').key("logprobs").raw("null").key("finish_reason").text(reason(answer)).close('}').close(']');
    if answer.usage.is_stated() {
        writer.key("usage");
        write_usage(&mut writer, answer);
    }
    writer.close('}');
    writer.finish()
}

fn write_reasoning(writer: &mut Writer, answer: &Answer) {
    let texts = answer.parts.iter().filter_map(|part| match part {
        Part::Reasoning { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let reasoning: String = texts.collect();
    if !reasoning.is_empty() {
        writer.key("reasoning_content").text(&reasoning);
    }
    let is_signed = |part: &Part| matches!(part, Part::Redacted(_) | Part::Reasoning { signature: Some(_), .. });
    if !answer.parts.iter().any(is_signed) {
        return;
    }
    writer.key("thinking_blocks").open('[');
    for part in &answer.parts {
        match part {
            Part::Reasoning { text, signature } => write_thought(writer, None, text, signature.as_deref()),
            Part::Redacted(data) => write_redacted(writer, None, data),
            _ => {}
        }
    }
    writer.close(']');
}

/// Writes a stream's chunks.
#[derive(Debug)]
pub struct Encoder {
    /// Whether the client asked for a chunk with the usage; then the others say that they have none.
    usage: bool,
    started: bool,
    thoughts: usize,
}

impl Encoder {
    pub fn new(asked: &str) -> Encoder {
        let usage = Document::parse(asked).is_ok_and(|document| {
            let options = document.root(asked).get("stream_options").and_then(|options| options.get("include_usage"));
            options.is_some_and(|include| include.raw() == "true")
        });
        Encoder { usage, started: false, thoughts: 0 }
    }

    /// Writes what `event` adds to `answer`, which has it already.
    pub fn event(&mut self, answer: &Answer, event: &Event, out: &mut Vec<u8>) {
        // The first chunk states the role, whatever the provider begins with.
        if !self.started && !matches!(event, Event::Usage(_)) {
            self.start(answer, out);
        }
        let number = Some(self.thoughts);
        match event {
            Event::Text(text) => self.chunk(answer, out, |delta| {
                delta.key("content").text(text);
            }),
            Event::Reasoning(text) => self.chunk(answer, out, |delta| {
                delta.key("reasoning_content").text(text);
            }),
            Event::Signature(signature) => self.thought(answer, out, |delta| {
                write_thought(delta, number, "", Some(signature));
            }),
            Event::Open(Block::Redacted(data)) => self.thought(answer, out, |delta| {
                write_redacted(delta, number, data);
            }),
            Event::Open(Block::Tool(call)) => self.chunk(answer, out, |delta| {
                delta.key("tool_calls").open('[');
                write_call(delta, Some(answer.tools().saturating_sub(1)), call, "");
                delta.close(']');
            }),
            Event::Arguments(json) => self.chunk(answer, out, |delta| {
                let index = answer.tools().saturating_sub(1).to_string();
                delta.key("tool_calls").open('[').open('{').key("index").raw(&index);
                delta.key("function").open('{').key("arguments").text(json).close('}').close('}').close(']');
            }),
            Event::Over => self.finish(answer, out),
            _ => {}
        }
    }

    fn start(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        self.started = true;
        self.chunk(answer, out, |delta| {
            delta.key("role").text("assistant").key("content").text("");
        });
    }

    fn thought(&mut self, answer: &Answer, out: &mut Vec<u8>, entry: impl FnOnce(&mut Writer)) {
        self.thoughts += 1;
        self.chunk(answer, out, |delta| {
            delta.key("thinking_blocks").open('[');
            entry(delta);
            delta.close(']');
        });
    }

    fn chunk(&self, answer: &Answer, out: &mut Vec<u8>, delta: impl FnOnce(&mut Writer)) {
        self.choice(answer, out, "null", delta);
    }

    fn choice(&self, answer: &Answer, out: &mut Vec<u8>, finish: &str, delta: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::default();
        write_head(&mut writer, answer, "chat.completion.chunk");
        writer.key("choices").open('[').open('{').key("index").raw("0").key("delta").open('{');
        delta(&mut writer);
        writer.close('}').key("logprobs").raw("null").key("finish_reason").raw(finish).close('}').close(']');
        if self.usage {
            writer.key("usage").raw("null");
        }
        writer.close('}');
        super::data(&writer.finish(), out);
    }

    fn finish(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        self.choice(answer, out, &format!("\"{}\"", reason(answer)), |_| {});
        if self.usage {
            let mut writer = Writer::default();
            write_head(&mut writer, answer, "chat.completion.chunk");
            writer.key("choices").open('[').close(']').key("usage");
            write_usage(&mut writer, answer);
            writer.close('}');
            super::data(&writer.finish(), out);
        }
        super::data("[DONE]", out);
    }
}
