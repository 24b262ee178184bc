//! Answers for Anthropic's clients. A signed tool call of Gemini's has its signature in a thinking block before it.

use super::super::request::write::Writer;
use super::super::said::{Answer, Block, Event, Part, Reason, object};

fn reason(answer: &Answer) -> &'static str {
    match answer.reason() {
        Reason::End => "end_turn",
        Reason::Length => "max_tokens",
        Reason::Tools => "tool_use",
        Reason::Filtered => "refusal",
        Reason::StopSequence(_) => "stop_sequence",
    }
}

fn write_reason(writer: &mut Writer, answer: &Answer) {
    writer.key("stop_reason").text(reason(answer)).key("stop_sequence");
    match answer.reason() {
        Reason::StopSequence(Some(sequence)) => writer.text(&sequence),
        _ => writer.raw("null"),
    };
}

/// Anthropic's input excludes what the cache had to do with.
fn write_usage(writer: &mut Writer, answer: &Answer) {
    let usage = &answer.usage;
    let (cached, created) = (usage.cached.unwrap_or(0), usage.cache_created.unwrap_or(0));
    let input = usage.input.unwrap_or(0).saturating_sub(cached).saturating_sub(created);
    writer.key("usage").open('{').key("input_tokens").raw(&input.to_string());
    writer.key("cache_creation_input_tokens").raw(&created.to_string());
    writer.key("cache_read_input_tokens").raw(&cached.to_string());
    writer.key("output_tokens").raw(&usage.output.unwrap_or(0).to_string());
    if let Some(reasoning) = usage.reasoning {
        writer.key("output_tokens_details").open('{').key("thinking_tokens").raw(&reasoning.to_string()).close('}');
    }
    writer.close('}');
}

fn write_head(writer: &mut Writer, answer: &Answer) {
    writer.open('{').key("id").text(&answer.head.id).key("type").text("message").key("role").text("assistant");
    writer.key("model").text(&answer.head.model);
}

fn write_thinking(writer: &mut Writer, text: &str, signature: &str) {
    writer.open('{').key("type").text("thinking").key("thinking").text(text);
    writer.key("signature").text(signature).close('}');
}

fn write_part(writer: &mut Writer, part: &Part) {
    match part {
        Part::Text(text) => {
            writer.open('{').key("type").text("text").key("text").text(text).close('}');
        }
        Part::Reasoning { text, signature } => write_thinking(writer, text, signature.as_deref().unwrap_or_default()),
        Part::Redacted(data) => {
            writer.open('{').key("type").text("redacted_thinking").key("data").text(data).close('}');
        }
        Part::Tool { call, arguments } => {
            if let Some(signature) = &call.signature {
                write_thinking(writer, "", signature);
            }
            writer.open('{').key("type").text("tool_use").key("id").text(&call.id);
            writer.key("name").text(&call.name).key("input").raw(&object(arguments)).close('}');
        }
    }
}

/// A whole answer.
pub fn whole(answer: &Answer) -> String {
    let mut writer = Writer::default();
    write_head(&mut writer, answer);
    writer.key("content").open('[');
    for part in &answer.parts {
        write_part(&mut writer, part);
    }
    writer.close(']');
    write_reason(&mut writer, answer);
    write_usage(&mut writer, answer);
    writer.close('}');
    writer.finish()
}

/// Writes a stream's events.
#[derive(Debug, Default)]
pub struct Encoder {
    started: bool,
    /// How many blocks have begun.
    blocks: usize,
}

impl Encoder {
    /// Writes what `event` adds to `answer`, which has it already.
    pub fn event(&mut self, answer: &Answer, event: &Event, out: &mut Vec<u8>) {
        // The first event states the input's tokens, if they are known by then.
        if !self.started && !matches!(event, Event::Start(_) | Event::Usage(_)) {
            self.start(answer, out);
        }
        match event {
            Event::Open(block) => self.open(block, out),
            Event::Text(text) => self.delta("text_delta", "text", text, out),
            Event::Reasoning(text) => self.delta("thinking_delta", "thinking", text, out),
            Event::Signature(signature) => self.delta("signature_delta", "signature", signature, out),
            Event::Arguments(json) => self.delta("input_json_delta", "partial_json", json, out),
            Event::Close => self.close(out),
            Event::Over => finish(answer, out),
            Event::Start(_) | Event::Usage(_) | Event::Stop(_) | Event::Error(_) => {}
        }
    }

    fn start(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        self.started = true;
        event("message_start", out, |writer| {
            write_head(writer.key("message"), answer);
            writer.key("content").open('[').close(']');
            writer.key("stop_reason").raw("null").key("stop_sequence").raw("null");
            write_usage(writer, answer);
            writer.close('}');
        });
    }

    fn open(&mut self, block: &Block, out: &mut Vec<u8>) {
        match block {
            Block::Text => self.begin(out, |writer| {
                writer.key("type").text("text").key("text").text("");
            }),
            Block::Reasoning => self.begin(out, |writer| {
                writer.key("type").text("thinking").key("thinking").text("").key("signature").text("");
            }),
            Block::Redacted(data) => self.begin(out, |writer| {
                writer.key("type").text("redacted_thinking").key("data").text(data);
            }),
            Block::Tool(call) => {
                if let Some(signature) = &call.signature {
                    self.open(&Block::Reasoning, out);
                    self.delta("signature_delta", "signature", signature, out);
                    self.close(out);
                }
                self.begin(out, |writer| {
                    writer.key("type").text("tool_use").key("id").text(&call.id).key("name").text(&call.name);
                    writer.key("input").open('{').close('}');
                });
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>, block: impl FnOnce(&mut Writer)) {
        self.blocks += 1;
        event("content_block_start", out, |writer| {
            writer.key("index").raw(&self.index()).key("content_block").open('{');
            block(writer);
            writer.close('}');
        });
    }

    fn delta(&self, kind: &str, name: &str, text: &str, out: &mut Vec<u8>) {
        event("content_block_delta", out, |writer| {
            writer.key("index").raw(&self.index()).key("delta").open('{');
            writer.key("type").text(kind).key(name).text(text).close('}');
        });
    }

    fn close(&self, out: &mut Vec<u8>) {
        event("content_block_stop", out, |writer| {
            writer.key("index").raw(&self.index());
        });
    }

    /// The number of the open block.
    fn index(&self) -> String {
        self.blocks.saturating_sub(1).to_string()
    }
}

fn finish(answer: &Answer, out: &mut Vec<u8>) {
    event("message_delta", out, |writer| {
        writer.key("delta").open('{');
        write_reason(writer, answer);
        writer.close('}');
        write_usage(writer, answer);
    });
    event("message_stop", out, |_| {});
}

fn event(name: &str, out: &mut Vec<u8>, members: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::default();
    writer.open('{').key("type").text(name);
    members(&mut writer);
    writer.close('}');
    super::event(name, &writer.finish(), out);
}
