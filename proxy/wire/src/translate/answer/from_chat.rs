//! OpenAI's chat answers, with the field's conventions for reasoning: `reasoning_content` or `reasoning`, and
//! `thinking_blocks` for what is signed. Sound, images, log probabilities, annotations and further choices are left
//! out.

use super::super::said::{Block, Blocks, Call, Event, Head, Reason, Usage, call_id, failure, number, string};
use crate::json::{Document, Kind, Value};

/// Reads a stream's chunks.
#[derive(Debug)]
pub struct Decoder {
    pub blocks: Blocks,
    /// What ids are made of when the answer has none.
    fallback: String,
    id: Option<String>,
    calls: Vec<Pending>,
    /// The call that is being told; those before it are over, those after it wait.
    current: usize,
    refused: bool,
}

/// A tool call as far as it has come.
#[derive(Debug, Default)]
struct Pending {
    index: Option<u64>,
    /// As the provider states it.
    id: String,
    name: String,
    signature: Option<String>,
    arguments: String,
    /// How many bytes of the arguments have been told; `None` before the call itself has.
    told: Option<usize>,
}

impl Decoder {
    pub fn new(fallback: &str) -> Decoder {
        Decoder {
            blocks: Blocks::default(),
            fallback: fallback.to_owned(),
            id: None,
            calls: Vec::new(),
            current: 0,
            refused: false,
        }
    }

    /// After `[DONE]`.
    pub fn done(&mut self) {
        self.finish_calls();
        self.blocks.close();
        self.blocks.push(Event::Over);
    }

    pub fn frame(&mut self, root: Value<'_>) {
        if root.get("error").is_some_and(|error| !error.is_null()) {
            return self.blocks.push(failure(root.raw()));
        }
        if let Some(choice) = first_choice(root) {
            self.start(root);
            if let Some(delta) = choice.get("delta") {
                self.message(delta);
            }
            self.stop(choice);
        }
        if let Some(usage) = root.get("usage").filter(|usage| usage.kind() == Kind::Object) {
            self.blocks.push(Event::Usage(read_usage(usage)));
        }
    }

    fn start(&mut self, root: Value<'_>) {
        if self.id.is_some() {
            return;
        }
        let stated = Some(string(root, "id")).filter(|id| !id.is_empty());
        let id = stated.unwrap_or_else(|| self.fallback.clone());
        self.id = Some(id.clone());
        let created = number(root, "created").unwrap_or(0);
        self.blocks.push(Event::Start(Head { id, model: string(root, "model"), created }));
    }

    /// A whole message or a piece of one.
    fn message(&mut self, message: Value<'_>) {
        let reasoning = ["reasoning_content", "reasoning"].map(|name| string(message, name));
        let reasoning = reasoning.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        self.blocks_of_thought(message, &reasoning);
        match message.get("content") {
            Some(content) if content.kind() == Kind::Array => {
                for part in content.children() {
                    // Mistral's reasoning is a part with parts of its own.
                    for piece in part.get("thinking").into_iter().flat_map(|pieces| pieces.children()) {
                        self.think(&string(piece, "text"));
                    }
                    self.say(&string(part, "text"));
                }
            }
            _ => self.say(&string(message, "content")),
        }
        let refusal = string(message, "refusal");
        self.refused |= !refusal.is_empty();
        self.say(&refusal);
        for call in message.get("tool_calls").into_iter().flat_map(|calls| calls.children()) {
            self.call(call);
        }
    }

    /// Reasoning stands in `reasoning_content`, or in `thinking_blocks`, or in both; then the blocks of a stream's
    /// pieces add signatures only.
    fn blocks_of_thought(&mut self, message: Value<'_>, reasoning: &str) {
        let thoughts = message.get("thinking_blocks").filter(|blocks| blocks.children().next().is_some());
        let said = |blocks: Value<'_>| blocks.children().any(|block| !string(block, "thinking").is_empty());
        let in_blocks = thoughts.is_some_and(said);
        if !in_blocks {
            self.think(reasoning);
        }
        for block in thoughts.into_iter().flat_map(|blocks| blocks.children()) {
            if string(block, "type") == "redacted_thinking" {
                self.finish_calls();
                self.blocks.begin(Block::Redacted(string(block, "data")));
                continue;
            }
            self.think(&string(block, "thinking"));
            self.blocks.signature(&string(block, "signature"));
        }
    }

    fn think(&mut self, text: &str) {
        if !text.is_empty() {
            self.finish_calls();
            self.blocks.reasoning(text);
        }
    }

    fn say(&mut self, text: &str) {
        if !text.is_empty() {
            self.finish_calls();
            self.blocks.text(text);
        }
    }

    fn call(&mut self, piece: Value<'_>) {
        let (index, id) = (number(piece, "index"), string(piece, "id"));
        let place = self.place(index, &id);
        let Some(call) = self.calls.get_mut(place) else { return };
        if call.id.is_empty() {
            call.id = id;
        }
        let signature = piece
            .get("extra_content")
            .and_then(|extra| extra.get("google"))
            .and_then(|google| google.get("thought_signature"))
            .and_then(|signature| signature.string());
        if let Some(signature) = signature {
            call.signature = Some(signature.into_owned());
        }
        if let Some(function) = piece.get("function") {
            if call.name.is_empty() {
                call.name = string(function, "name");
            }
            match function.get("arguments") {
                Some(arguments) if arguments.kind() == Kind::Object => call.arguments.push_str(arguments.raw()),
                _ => call.arguments.push_str(&string(function, "arguments")),
            }
        }
        self.tell();
    }

    /// Which call a piece belongs to. Some servers number none of them: then a new id begins a new call.
    fn place(&mut self, index: Option<u64>, id: &str) -> usize {
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if id.is_empty() => self.calls.len().checked_sub(1),
            None => self.calls.iter().position(|call| call.id == id),
        };
        // And some number all of them 0.
        let known = known.filter(|&at| {
            let theirs = self.calls.get(at).map_or("", |call| call.id.as_str());
            id.is_empty() || theirs.is_empty() || theirs == id
        });
        known.unwrap_or_else(|| {
            self.calls.push(Pending { index, ..Pending::default() });
            self.calls.len() - 1
        })
    }

    /// Tells what may be told. Calls may come interleaved, and clients want one after the other: the next one is told
    /// once the arguments of the one before are whole.
    fn tell(&mut self) {
        loop {
            self.tell_current();
            let next_waits = self.calls.len() > self.current + 1;
            let whole = self.calls.get(self.current).is_some_and(|call| Document::parse(&call.arguments).is_ok());
            if !next_waits || !whole {
                return;
            }
            self.current += 1;
        }
    }

    fn tell_current(&mut self) {
        let number = self.current;
        let Some(call) = self.calls.get_mut(number) else { return };
        if call.told.is_none() {
            if call.name.is_empty() {
                return;
            }
            let id = match call.id.is_empty() {
                true => call_id(self.id.as_deref().unwrap_or_default(), number),
                false => call.id.clone(),
            };
            self.blocks.begin(Block::Tool(Call { id, name: call.name.clone(), signature: call.signature.clone() }));
        }
        let told = call.told.unwrap_or(0);
        self.blocks.arguments(call.arguments.get(told..).unwrap_or_default());
        call.told = Some(call.arguments.len());
    }

    /// What comes after calls ends them all.
    fn finish_calls(&mut self) {
        while self.current < self.calls.len() {
            self.tell_current();
            self.current += 1;
        }
    }

    fn stop(&mut self, choice: Value<'_>) {
        let reason = match string(choice, "finish_reason").as_str() {
            "" => return,
            "length" => Reason::Length,
            "tool_calls" | "function_call" => Reason::Tools,
            "content_filter" => Reason::Filtered,
            _ if self.refused => Reason::Filtered,
            // vLLM's word for the stop text that was met.
            _ => match choice.get("stop_reason").and_then(|text| text.string()) {
                Some(sequence) => Reason::StopSequence(Some(sequence.into_owned())),
                None => Reason::End,
            },
        };
        self.finish_calls();
        self.blocks.close();
        self.blocks.push(Event::Stop(reason));
    }
}

/// The choice with index 0, or the first where there are no numbers.
fn first_choice(root: Value<'_>) -> Option<Value<'_>> {
    root.get("choices")?.children().find(|choice| number(*choice, "index").unwrap_or(0) == 0)
}

fn read_usage(usage: Value<'_>) -> Usage {
    let detail = |member, name| usage.get(member).and_then(|details| number(details, name));
    let (input, output) = (number(usage, "prompt_tokens"), number(usage, "completion_tokens"));
    let reasoning = detail("completion_tokens_details", "reasoning_tokens");
    // xAI counts reasoning beside the completion; its total tells.
    let sum = [input, output, reasoning].into_iter().flatten().fold(0, u64::saturating_add);
    let beside = reasoning.filter(|_| number(usage, "total_tokens") == Some(sum)).unwrap_or(0);
    Usage {
        input,
        output: output.map(|output| output.saturating_add(beside)),
        // DeepSeek counts beside, not in, the details.
        cached: detail("prompt_tokens_details", "cached_tokens").or_else(|| number(usage, "prompt_cache_hit_tokens")),
        // Gateways before Anthropic say it in Anthropic's word.
        cache_created: detail("prompt_tokens_details", "cache_write_tokens")
            .or_else(|| number(usage, "cache_creation_input_tokens")),
        reasoning,
    }
}

/// The events of a whole answer.
pub fn whole(root: Value<'_>, fallback: &str) -> Option<Vec<Event>> {
    let choice = first_choice(root)?;
    let mut decoder = Decoder::new(fallback);
    decoder.start(root);
    decoder.message(choice.get("message")?);
    decoder.stop(choice);
    decoder.finish_calls();
    decoder.blocks.close();
    if let Some(usage) = root.get("usage").filter(|usage| usage.kind() == Kind::Object) {
        decoder.blocks.push(Event::Usage(read_usage(usage)));
    }
    Some(decoder.blocks.events)
}
