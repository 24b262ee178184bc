//! What a stream says, read by other means than the crate's: whole lines, whole documents, one field after the other.
//! It reads what providers sent and what clients got alike, so that both can be held against each other.

use serde_json::Value;
use sluice_wire::Dialect;
use std::collections::BTreeMap;

/// A frame's name, if it has one, and its data.
#[derive(Debug)]
pub struct Event {
    pub name: Option<String>,
    pub data: String,
}

impl Event {
    /// The data as JSON, or nothing where there is none, as in `[DONE]`.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

/// Cuts a stream into its events; comments are none.
pub fn events(stream: &[u8]) -> Vec<Event> {
    let text = std::str::from_utf8(stream).unwrap().replace("\r\n", "\n");
    let field = |frame: &str, name: &str| {
        frame.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start().to_owned())
    };
    let frames = text.split_inclusive("\n\n").filter(|frame| frame.ends_with("\n\n"));
    frames.filter_map(|frame| Some(Event { name: field(frame, "event:"), data: field(frame, "data:")? })).collect()
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// The JSON text, put together.
    pub arguments: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    End,
    Length,
    Tools,
    Filtered,
}

/// Input includes what was cached, output what was thought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cached: u64,
    pub reasoning: u64,
}

#[derive(Debug, Default)]
pub struct Told {
    pub id: String,
    pub model: String,
    pub text: String,
    pub reasoning: String,
    pub signatures: Vec<String>,
    pub redacted: Vec<String>,
    pub calls: Vec<Call>,
    pub usage: Usage,
    pub error: Option<String>,
    stop: Option<Stop>,
    /// Messages' blocks by number, with the place of the call in `calls`.
    blocks: BTreeMap<u64, (String, usize)>,
    /// Messages' own counts, of which a later event may state only some.
    counts: BTreeMap<&'static str, u64>,
}

impl Told {
    pub fn of_stream(dialect: Dialect, stream: &[u8]) -> Told {
        let mut told = Told::default();
        for event in events(stream) {
            told.read(dialect, &event.json());
        }
        told
    }

    pub fn of_answer(dialect: Dialect, body: &Value) -> Told {
        let mut told = Told::default();
        match dialect {
            Dialect::Messages => {
                told.messages_start(body);
                for (index, block) in list(&body["content"]).enumerate() {
                    told.messages_block(index as u64, block);
                    if block["type"] == "tool_use" {
                        told.last_call().arguments = block["input"].to_string();
                    }
                }
                told.messages_stop(&body["stop_reason"]);
            }
            Dialect::Responses => {
                list(&body["output"]).for_each(|item| told.responses_item(item));
                told.responses_end(body);
                let parts = list(&body["output"]).flat_map(|item| list(&item["content"]));
                told.text = parts.map(|part| text(&part["text"])).collect();
                let summaries = list(&body["output"]).flat_map(|item| list(&item["summary"]));
                told.reasoning = summaries.map(|part| text(&part["text"])).collect();
            }
            _ => told.read(dialect, body),
        }
        told
    }

    /// Why it stopped; one that calls tools and just ends does so for them.
    pub fn stop(&self) -> Stop {
        match self.stop.unwrap_or(Stop::End) {
            Stop::End if !self.calls.is_empty() => Stop::Tools,
            stop => stop,
        }
    }

    fn read(&mut self, dialect: Dialect, event: &Value) {
        match dialect {
            Dialect::Messages => self.messages(event),
            Dialect::Responses => self.responses(event),
            Dialect::Gemini => self.gemini(event),
            _ => self.chat(event),
        }
    }

    fn head(&mut self, id: &Value, model: &Value) {
        for (known, stated) in [(&mut self.id, id), (&mut self.model, model)] {
            if known.is_empty() {
                *known = text(stated);
            }
        }
    }

    fn last_call(&mut self) -> &mut Call {
        self.calls.last_mut().unwrap()
    }

    fn chat(&mut self, event: &Value) {
        if !event["error"].is_null() {
            self.error = Some(text(&event["error"]["message"]));
            return;
        }
        self.head(&event["id"], &event["model"]);
        let choice = &event["choices"][0];
        let said = if choice["message"].is_object() { &choice["message"] } else { &choice["delta"] };
        self.text += &text(&said["content"]);
        for part in list(&said["content"]) {
            self.text += &text(&part["text"]);
            self.reasoning.extend(list(&part["thinking"]).map(|piece| text(&piece["text"])));
        }
        self.text += &text(&said["refusal"]);
        self.reasoning += &text(&said["reasoning_content"]);
        self.reasoning += &text(&said["reasoning"]);
        for block in list(&said["thinking_blocks"]) {
            self.signatures.extend(block["signature"].as_str().map(str::to_owned));
            self.redacted.extend(block["data"].as_str().map(str::to_owned));
        }
        for (place, piece) in list(&said["tool_calls"]).enumerate() {
            let place = piece["index"].as_u64().unwrap_or(place as u64) as usize;
            self.calls.resize(self.calls.len().max(place + 1), Call::default());
            self.calls[place].id += &text(&piece["id"]);
            self.calls[place].name += &text(&piece["function"]["name"]);
            self.calls[place].arguments += &text(&piece["function"]["arguments"]);
            let signature = &piece["extra_content"]["google"]["thought_signature"];
            self.signatures.extend(signature.as_str().map(str::to_owned));
        }
        match choice["finish_reason"].as_str() {
            Some("stop") => self.stop = Some(Stop::End),
            Some("length") => self.stop = Some(Stop::Length),
            Some("tool_calls") => self.stop = Some(Stop::Tools),
            Some("content_filter") => self.stop = Some(Stop::Filtered),
            Some(other) => panic!("{other}"),
            None => {}
        }
        let usage = &event["usage"];
        if usage.is_object() {
            let input = number(&usage["prompt_tokens"]);
            self.usage = Usage {
                input,
                // By the sum: not everybody counts reasoning among the completion's tokens.
                output: number(&usage["total_tokens"]) - input,
                cached: number(&usage["prompt_tokens_details"]["cached_tokens"]),
                reasoning: number(&usage["completion_tokens_details"]["reasoning_tokens"]),
            };
        }
    }

    fn messages(&mut self, event: &Value) {
        match event["type"].as_str().unwrap() {
            "message_start" => self.messages_start(&event["message"]),
            "content_block_start" => self.messages_block(number(&event["index"]), &event["content_block"]),
            "content_block_delta" => {
                let (kind, call) = self.blocks[&number(&event["index"])].clone();
                let delta = &event["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" if kind == "text" => self.text += &text(&delta["text"]),
                    "thinking_delta" if kind == "thinking" => self.reasoning += &text(&delta["thinking"]),
                    "signature_delta" if kind == "thinking" => self.signatures.push(text(&delta["signature"])),
                    "input_json_delta" if kind == "tool_use" => {
                        self.calls[call].arguments += &text(&delta["partial_json"]);
                    }
                    other => assert!(kind != "text" && kind != "thinking", "{other} in {kind}"),
                }
            }
            "message_delta" => {
                self.messages_stop(&event["delta"]["stop_reason"]);
                self.messages_usage(&event["usage"]);
            }
            "error" => self.error = Some(text(&event["error"]["message"])),
            _ => {}
        }
    }

    fn messages_start(&mut self, message: &Value) {
        self.head(&message["id"], &message["model"]);
        self.messages_usage(&message["usage"]);
    }

    fn messages_block(&mut self, index: u64, block: &Value) {
        let kind = text(&block["type"]);
        match kind.as_str() {
            "text" => self.text += &text(&block["text"]),
            "thinking" => {
                self.reasoning += &text(&block["thinking"]);
                self.signatures.extend(Some(text(&block["signature"])).filter(|signature| !signature.is_empty()));
            }
            "redacted_thinking" => self.redacted.push(text(&block["data"])),
            "tool_use" => {
                self.calls.push(Call { id: text(&block["id"]), name: text(&block["name"]), arguments: String::new() });
            }
            _ => {}
        }
        self.blocks.insert(index, (kind, self.calls.len().saturating_sub(1)));
    }

    fn messages_stop(&mut self, reason: &Value) {
        self.stop = match reason.as_str() {
            Some("end_turn" | "stop_sequence") => Some(Stop::End),
            Some("max_tokens") => Some(Stop::Length),
            Some("tool_use") => Some(Stop::Tools),
            Some("refusal") => Some(Stop::Filtered),
            other => panic!("{other:?}"),
        };
    }

    fn messages_usage(&mut self, usage: &Value) {
        const NAMES: [&str; 4] =
            ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"];
        for name in NAMES {
            self.counts.extend(usage[name].as_u64().map(|count| (name, count)));
        }
        let [input, read, created, output] = NAMES.map(|name| self.counts.get(name).copied().unwrap_or(0));
        let reasoning = number(&usage["output_tokens_details"]["thinking_tokens"]);
        self.usage = Usage { input: input + read + created, output, cached: read, reasoning };
    }

    fn gemini(&mut self, event: &Value) {
        if !event["error"].is_null() {
            self.error = Some(text(&event["error"]["message"]));
            return;
        }
        self.head(&event["responseId"], &event["modelVersion"]);
        let candidate = &event["candidates"][0];
        for part in list(&candidate["content"]["parts"]) {
            let call = &part["functionCall"];
            if call.is_object() {
                let arguments = if call["args"].is_null() { "{}".to_owned() } else { call["args"].to_string() };
                self.calls.push(Call { id: text(&call["id"]), name: text(&call["name"]), arguments });
            }
            match part["thought"] == true {
                true => self.reasoning += &text(&part["text"]),
                false => self.text += &text(&part["text"]),
            }
            if call.is_object() || part["thought"] == true {
                self.signatures.extend(part["thoughtSignature"].as_str().map(str::to_owned));
            }
        }
        match candidate["finishReason"].as_str() {
            Some("STOP") => self.stop = Some(Stop::End),
            Some("MAX_TOKENS") => self.stop = Some(Stop::Length),
            Some("SAFETY" | "PROHIBITED_CONTENT") => self.stop = Some(Stop::Filtered),
            Some(other) => panic!("{other}"),
            None if event["promptFeedback"]["blockReason"].is_string() => self.stop = Some(Stop::Filtered),
            None => {}
        }
        let usage = &event["usageMetadata"];
        if usage.is_object() {
            let reasoning = number(&usage["thoughtsTokenCount"]);
            self.usage = Usage {
                // Google bills what its tools read as input.
                input: number(&usage["promptTokenCount"]) + number(&usage["toolUsePromptTokenCount"]),
                output: number(&usage["candidatesTokenCount"]) + reasoning,
                cached: number(&usage["cachedContentTokenCount"]),
                reasoning,
            };
        }
    }

    fn responses(&mut self, event: &Value) {
        match event["type"].as_str().unwrap() {
            "response.created" => self.head(&event["response"]["id"], &event["response"]["model"]),
            "response.output_text.delta" => self.text += &text(&event["delta"]),
            "response.reasoning_summary_text.delta" => self.reasoning += &text(&event["delta"]),
            "response.output_item.done" => self.responses_item(&event["item"]),
            "response.completed" | "response.incomplete" => self.responses_end(&event["response"]),
            "error" => self.error = Some(text(&event["message"])),
            _ => {}
        }
    }

    fn responses_item(&mut self, item: &Value) {
        match item["type"].as_str().unwrap() {
            "function_call" => self.calls.push(Call {
                id: text(&item["call_id"]),
                name: text(&item["name"]),
                arguments: text(&item["arguments"]),
            }),
            "reasoning" => {
                match item["encrypted_content"].as_str().map(|sealed| (sealed.strip_prefix("redacted:"), sealed)) {
                    Some((Some(redacted), _)) => self.redacted.push(redacted.to_owned()),
                    Some((None, signature)) => self.signatures.push(signature.to_owned()),
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn responses_end(&mut self, response: &Value) {
        self.head(&response["id"], &response["model"]);
        self.stop = match response["incomplete_details"]["reason"].as_str() {
            Some("max_output_tokens") => Some(Stop::Length),
            Some("content_filter") => Some(Stop::Filtered),
            _ => Some(Stop::End),
        };
        let usage = &response["usage"];
        self.usage = Usage {
            input: number(&usage["input_tokens"]),
            output: number(&usage["output_tokens"]),
            cached: number(&usage["input_tokens_details"]["cached_tokens"]),
            reasoning: number(&usage["output_tokens_details"]["reasoning_tokens"]),
        };
        assert_eq!(number(&usage["total_tokens"]), self.usage.input + self.usage.output);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
