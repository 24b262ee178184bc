//! Gemini's answers. Generated files, code that the provider ran, grounding and further candidates are left out, and
//! so are signatures of texts: the provider does without them.

use super::super::said::{Block, Blocks, Call, Event, Head, Reason, Usage, call_id, failure, number, string};
use crate::Failure;
use crate::json::Value;

/// Reads a stream's responses; a whole answer is a stream of one.
#[derive(Debug)]
pub struct Decoder {
    pub blocks: Blocks,
    /// What ids are made of when the answer has none.
    fallback: String,
    id: Option<String>,
    calls: usize,
    content: bool,
    finished: bool,
}

impl Decoder {
    pub fn new(fallback: &str) -> Decoder {
        Decoder {
            blocks: Blocks::default(),
            fallback: fallback.to_owned(),
            id: None,
            calls: 0,
            content: false,
            finished: false,
        }
    }

    /// Ends the answer; whether it had said everything. Gemini has no other terminator than its stop reason, which
    /// usage may still follow.
    pub fn end(&mut self) -> bool {
        if self.finished {
            self.blocks.close();
            self.blocks.push(Event::Over);
        }
        self.finished
    }

    pub fn frame(&mut self, root: Value<'_>) {
        if root.get("error").is_some_and(|error| !error.is_null()) {
            return self.blocks.push(failure(root.raw()));
        }
        if self.id.is_none() {
            self.start(root);
        }
        if let Some(usage) = root.get("usageMetadata") {
            self.blocks.push(Event::Usage(read_usage(usage)));
        }
        let Some(candidate) = root.get("candidates").and_then(|candidates| candidates.children().next()) else {
            let feedback = root.get("promptFeedback").and_then(|feedback| feedback.get("blockReason"));
            if feedback.is_some_and(|reason| !reason.is_null()) {
                self.stop(Reason::Filtered);
            }
            return;
        };
        if let Some(parts) = candidate.get("content").and_then(|content| content.get("parts")) {
            for part in parts.children() {
                self.part(part);
            }
        }
        self.finish(candidate);
    }

    fn start(&mut self, root: Value<'_>) {
        let stated = Some(string(root, "responseId")).filter(|id| !id.is_empty());
        let id = stated.unwrap_or_else(|| self.fallback.clone());
        self.id = Some(id.clone());
        self.blocks.push(Event::Start(Head { id, model: string(root, "modelVersion"), created: 0 }));
    }

    fn part(&mut self, part: Value<'_>) {
        if let Some(call) = part.get("functionCall") {
            return self.call(call, part);
        }
        let text = string(part, "text");
        self.content |= !text.is_empty();
        match part.get("thought").is_some_and(|thought| thought.raw() == "true") {
            true => self.blocks.reasoning(&text),
            false => self.blocks.text(&text),
        }
    }

    fn call(&mut self, call: Value<'_>, part: Value<'_>) {
        let signature = part.get("thoughtSignature").and_then(|text| text.string()).map(|text| text.into_owned());
        let stated = Some(string(call, "id")).filter(|id| !id.is_empty());
        let id = stated.unwrap_or_else(|| call_id(self.id.as_deref().unwrap_or_default(), self.calls));
        self.calls += 1;
        self.content = true;
        self.blocks.begin(Block::Tool(Call { id, name: string(call, "name"), signature }));
        self.blocks.arguments(call.get("args").filter(|args| !args.is_null()).map_or("", |args| args.raw()));
        self.blocks.close();
    }

    fn finish(&mut self, candidate: Value<'_>) {
        let reason = string(candidate, "finishReason");
        match reason.as_str() {
            "" | "FINISH_REASON_UNSPECIFIED" => {}
            "STOP" => self.stop(if self.calls > 0 { Reason::Tools } else { Reason::End }),
            "MAX_TOKENS" => self.stop(Reason::Length),
            "SAFETY"
            | "RECITATION"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "LANGUAGE"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT"
            | "IMAGE_RECITATION" => self.stop(Reason::Filtered),
            // Such as MALFORMED_FUNCTION_CALL: the model failed. With something said there is an answer to show.
            _ if self.content => self.stop(Reason::End),
            _ => self.blocks.push(Event::Error(Failure {
                status: 502,
                kind: "server_error".into(),
                code: None,
                param: None,
                message: format!("The model gave no answer: {reason}").into(),
            })),
        }
    }

    fn stop(&mut self, reason: Reason) {
        self.finished = true;
        self.blocks.push(Event::Stop(reason));
    }
}

fn read_usage(usage: Value<'_>) -> Usage {
    let reasoning = number(usage, "thoughtsTokenCount");
    let said = number(usage, "candidatesTokenCount");
    let output =
        (reasoning.is_some() || said.is_some()).then(|| reasoning.unwrap_or(0).saturating_add(said.unwrap_or(0)));
    Usage {
        // What tools that the provider ran gave the model to read is billed as input, and counted apart.
        input: number(usage, "promptTokenCount")
            .map(|input| input.saturating_add(number(usage, "toolUsePromptTokenCount").unwrap_or(0))),
        output,
        cached: number(usage, "cachedContentTokenCount"),
        cache_created: None,
        reasoning,
    }
}

/// The events of a whole answer; `None` when there is none in it.
pub fn whole(root: Value<'_>, fallback: &str) -> Option<Vec<Event>> {
    let mut decoder = Decoder::new(fallback);
    decoder.frame(root);
    decoder.end().then_some(decoder.blocks.events)
}
