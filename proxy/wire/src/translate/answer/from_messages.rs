//! Anthropic's answers. Blocks of tools that the provider runs itself have no counterpart and are left out, as are
//! citations.

use super::super::said::{Block, Blocks, Call, Event, Head, Reason, Usage, failure, number, string};
use crate::json::{Kind, Value};

/// Reads a stream's events.
#[derive(Debug, Default)]
pub struct Decoder {
    pub blocks: Blocks,
    counts: Counts,
    /// The call's arguments, where the block's first event already has them.
    input: String,
    /// Inside a block that is left out.
    skipping: bool,
}

/// Anthropic's own counts: events may state some of them again.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    read: Option<u64>,
    created: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
}

impl Counts {
    fn take(&mut self, usage: Value<'_>) -> Usage {
        self.input = number(usage, "input_tokens").or(self.input);
        self.read = number(usage, "cache_read_input_tokens").or(self.read);
        self.created = number(usage, "cache_creation_input_tokens").or(self.created);
        self.output = number(usage, "output_tokens").or(self.output);
        let thinking = usage.get("output_tokens_details").and_then(|details| number(details, "thinking_tokens"));
        self.thinking = thinking.or(self.thinking);
        let cached = self.read.unwrap_or(0).saturating_add(self.created.unwrap_or(0));
        Usage {
            input: self.input.map(|input| input.saturating_add(cached)),
            output: self.output,
            cached: self.read,
            cache_created: self.created,
            reasoning: self.thinking,
        }
    }
}

impl Decoder {
    pub fn frame(&mut self, root: Value<'_>) {
        match string(root, "type").as_str() {
            "message_start" => {
                if let Some(message) = root.get("message") {
                    self.start(message);
                }
            }
            "content_block_start" => {
                if let Some(block) = root.get("content_block") {
                    self.open(block);
                }
            }
            "content_block_delta" if !self.skipping => {
                if let Some(delta) = root.get("delta") {
                    self.delta(delta);
                }
            }
            "content_block_stop" => self.close(),
            "message_delta" => {
                if let Some(delta) = root.get("delta") {
                    self.stop(delta);
                }
                self.usage(root);
            }
            "message_stop" => {
                self.close();
                self.blocks.push(Event::Over);
            }
            "error" => self.blocks.push(failure(root.raw())),
            _ => {}
        }
    }

    fn start(&mut self, message: Value<'_>) {
        let head = Head { id: string(message, "id"), model: string(message, "model"), created: 0 };
        self.blocks.push(Event::Start(head));
        self.usage(message);
    }

    fn usage(&mut self, holder: Value<'_>) {
        if let Some(usage) = holder.get("usage") {
            let usage = self.counts.take(usage);
            self.blocks.push(Event::Usage(usage));
        }
    }

    fn open(&mut self, block: Value<'_>) {
        self.close();
        match string(block, "type").as_str() {
            "text" => self.blocks.text(&string(block, "text")),
            "thinking" => {
                self.blocks.begin(Block::Reasoning);
                self.delta(block);
            }
            "redacted_thinking" => self.blocks.begin(Block::Redacted(string(block, "data"))),
            "tool_use" => {
                let call = Call { id: string(block, "id"), name: string(block, "name"), signature: None };
                self.blocks.begin(Block::Tool(call));
                self.input = block.get("input").map(|input| input.raw().to_owned()).unwrap_or_default();
            }
            _ => self.skipping = true,
        }
    }

    fn delta(&mut self, delta: Value<'_>) {
        let json = string(delta, "partial_json");
        if !json.is_empty() {
            self.input.clear();
        }
        self.blocks.arguments(&json);
        self.blocks.text(&string(delta, "text"));
        self.blocks.reasoning(&string(delta, "thinking"));
        self.blocks.signature(&string(delta, "signature"));
    }

    fn close(&mut self) {
        let input = std::mem::take(&mut self.input);
        self.blocks.arguments(&input);
        self.blocks.close();
        self.skipping = false;
    }

    fn stop(&mut self, delta: Value<'_>) {
        let sequence = delta.get("stop_sequence").and_then(|text| text.string()).map(|text| text.into_owned());
        let reason = match string(delta, "stop_reason").as_str() {
            "" => return,
            "max_tokens" | "model_context_window_exceeded" => Reason::Length,
            "tool_use" => Reason::Tools,
            "refusal" => Reason::Filtered,
            "stop_sequence" => Reason::StopSequence(sequence),
            _ => Reason::End,
        };
        self.blocks.push(Event::Stop(reason));
    }
}

/// The events of a whole answer.
pub fn whole(root: Value<'_>) -> Option<Vec<Event>> {
    let content = root.get("content").filter(|content| content.kind() == Kind::Array)?;
    let mut decoder = Decoder::default();
    decoder.start(root);
    for block in content.children() {
        decoder.open(block);
    }
    decoder.close();
    decoder.stop(root);
    Some(decoder.blocks.events)
}
