//! What one event of a streamed answer carries.
//!
//! In OpenAI's chat dialect, channels are found by shape, not by a list of field names: every string below a choice
//! belongs to the model's answer, except a few that are enumerations or ids. So a field that a provider adds tomorrow
//! is restored too. The other dialects name their events, and each kind is read as its documentation gives it.

use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::json::{Document, Kind, Value, escape_into};
use std::ops::Range;

/// A string of an event that continues the same string of earlier events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Names the channel within the answer, for example `0/delta/tool_calls/1/function/arguments`.
    pub channel: String,
    /// The bytes between the string's quotes in the event's data.
    pub range: Range<usize>,
    /// Whether the channel's text is JSON (tool-call arguments).
    pub nested: bool,
}

/// A string of an event that is complete in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub range: Range<usize>,
    pub nested: bool,
    /// The tool whose arguments it is or belongs to, where the call is named beside them.
    pub tool: Option<String>,
}

/// A read event.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub deltas: Vec<Delta>,
    pub wholes: Vec<Whole>,
    /// Calls of tools that this event names: what their channels begin with, and the tool.
    pub tools: Vec<(String, String)>,
    /// What the channels of the item begin with that a Responses event is about.
    pub item: String,
    /// Channels that begin so are over: what is held of them comes before this event. An empty one means all.
    pub ends: Vec<String>,
    pub usage: Usage,
    pub error: Option<Failure<'static>>,
    /// Whether the dialect promises that nothing comes after this.
    pub over: bool,
    /// Whether the client would show something of it; events before the first such one are metadata.
    pub content: bool,
    /// Responses' `sequence_number`: where it stands and what it is.
    pub sequence: Option<(Range<usize>, u64)>,
    /// The value of Responses' `response.instructions`, which echoes the request's.
    pub instructions: Option<Range<usize>>,
    /// Chat's member `usage`, to be cut out where the caller did not ask for it.
    pub usage_member: Option<Range<usize>>,
    /// Whether a chat event states usage and has no choice.
    pub only_usage: bool,
    /// The event's members other than its content, as written, for synthesised events.
    head: String,
}

/// Token counts as a provider states them; in streams some come early and some late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Cached tokens included.
    pub input: Option<u64>,
    /// Reasoning included.
    pub output: Option<u64>,
}

impl Usage {
    /// The same, with what `later` states.
    pub fn and(self, later: Usage) -> Usage {
        Usage { input: later.input.or(self.input), output: later.output.or(self.output) }
    }

    /// The usage of a whole answer.
    pub fn of_answer(dialect: Dialect, body: &str) -> Usage {
        let Ok(document) = Document::parse(body) else { return Usage::default() };
        Usage::of_root(dialect, document.root(body))
    }

    /// The usage of a whole answer that was read already.
    pub fn of_root(dialect: Dialect, root: Value<'_>) -> Usage {
        match dialect {
            Dialect::Gemini => root.get("usageMetadata").map(Usage::of_gemini),
            Dialect::CountTokens => None,
            _ => root.get("usage").map(|usage| Usage::of_member(dialect, usage)),
        }
        .unwrap_or_default()
    }

    fn of_member(dialect: Dialect, usage: Value<'_>) -> Usage {
        let number = |name| usage.get(name).and_then(|value| value.raw().parse::<u64>().ok());
        match dialect {
            Dialect::Messages => {
                let cached =
                    number("cache_creation_input_tokens").unwrap_or(0) + number("cache_read_input_tokens").unwrap_or(0);
                Usage { input: number("input_tokens").map(|input| input + cached), output: number("output_tokens") }
            }
            // Images and audio state theirs as Responses does.
            _ => {
                let input = number("prompt_tokens").or_else(|| number("input_tokens"));
                let output = number("completion_tokens").or_else(|| number("output_tokens"));
                // Some leave reasoning out of the completion; the stated total shows it.
                let apart = usage
                    .get("completion_tokens_details")
                    .and_then(|details| details.get("reasoning_tokens")?.raw().parse::<u64>().ok())
                    .filter(|apart| {
                        number("total_tokens") == input.zip(output).map(|(input, output)| input + output + apart)
                    });
                Usage { input, output: output.map(|output| output + apart.unwrap_or(0)) }
            }
        }
    }

    fn of_gemini(usage: Value<'_>) -> Usage {
        let number = |name| usage.get(name).and_then(|value| value.raw().parse::<u64>().ok());
        let thoughts = number("thoughtsTokenCount");
        let candidates = number("candidatesTokenCount");
        let output =
            (thoughts.is_some() || candidates.is_some()).then(|| thoughts.unwrap_or(0) + candidates.unwrap_or(0));
        let tools = number("toolUsePromptTokenCount").unwrap_or(0);
        Usage { input: number("promptTokenCount").map(|input| input + tools), output }
    }
}

/// Strings that are not the model's text: enumerations, ids, and what is signed or encrypted.
const NOT_TEXT: [&str; 15] = [
    "role",
    "type",
    "id",
    "item_id",
    "call_id",
    "tool_use_id",
    "name",
    "status",
    "finish_reason",
    "stop_reason",
    "logprobs",
    "signature",
    "thoughtSignature",
    "thought_signature",
    "encrypted_content",
];

fn is_text_member(value: Value<'_>) -> bool {
    !NOT_TEXT.iter().any(|name| value.key_is(name))
}

/// Every string at or below `value` that may hold the model's text.
pub fn wholes(value: Value<'_>) -> Vec<Whole> {
    let mut found = Vec::new();
    collect(value, false, None, &mut found);
    found
}

/// `free`: inside a tool's arguments, whose members may have any name.
fn collect(value: Value<'_>, free: bool, tool: Option<&str>, found: &mut Vec<Whole>) {
    if let Some(range) = value.inner_span() {
        found.push(Whole { range, nested: value.key_is("arguments"), tool: tool.map(str::to_owned) });
        return;
    }
    let free = free || (value.kind() == Kind::Object && (value.key_is("input") || value.key_is("args")));
    let named = if free { None } else { value.get("name").and_then(|name| name.string()) };
    for child in value.children().filter(|child| free || is_text_member(*child)) {
        let is_arguments = ["arguments", "input", "args"].iter().any(|name| child.key_is(name));
        collect(child, free, if is_arguments { named.as_deref().or(tool) } else { tool }, found);
    }
}

impl Chunk {
    /// Reads an event's data; `None` when it is not what the dialect allows.
    pub fn read(dialect: Dialect, data: &str) -> Option<Chunk> {
        if data == "[DONE]" {
            return Some(Chunk { over: true, content: true, ends: vec![String::new()], ..Chunk::default() });
        }
        let document = Document::parse(data).ok()?;
        let root = document.root(data);
        if root.kind() != Kind::Object {
            return None;
        }
        let mut chunk = Chunk::default();
        match dialect {
            Dialect::Messages => chunk.read_messages(root, data),
            Dialect::Responses => chunk.read_responses(root, data),
            Dialect::Gemini => chunk.read_gemini(root, data),
            _ => chunk.read_chat(root, data),
        }
        Some(chunk)
    }

    fn fail(&mut self, data: &str) {
        self.error = Failure::read(200, data);
        self.ends = vec![String::new()];
        self.over = true;
    }

    fn head_member(&mut self, member: Value<'_>, data: &str) {
        let scalar = matches!(member.kind(), Kind::String | Kind::Number | Kind::Literal);
        if let (Some(key), true) = (member.key_span(), scalar) {
            self.head.push_str(&data[key]);
            self.head.push(':');
            self.head.push_str(member.raw());
            self.head.push(',');
        }
    }

    fn read_chat(&mut self, root: Value<'_>, data: &str) {
        let mut choices = 0;
        let mut stated = false;
        for member in root.children() {
            if member.key_is("choices") {
                for (position, choice) in member.children().enumerate() {
                    choices += 1;
                    self.read_choice(choice, position);
                }
            } else if member.key_is("usage") {
                stated = !member.is_null();
                self.usage = Usage::of_member(Dialect::Chat, member);
                self.usage_member = member.key_span().map(|key| key.start..member.span().end);
            } else if member.key_is("error") && !member.is_null() {
                self.fail(data);
            } else {
                self.head_member(member, data);
            }
        }
        self.only_usage = stated && choices == 0;
    }

    fn read_choice(&mut self, choice: Value<'_>, position: usize) {
        let index = index_of(choice).unwrap_or(position as u32);
        if choice.get("finish_reason").is_some_and(|reason| !reason.is_null()) {
            self.ends.push(format!("{index}/"));
            self.content = true;
        }
        let calls = choice.get("delta").and_then(|delta| delta.get("tool_calls"));
        for (position, call) in calls.iter().flat_map(|calls| calls.children()).enumerate() {
            self.content = true;
            let name = call.get("function").and_then(|function| function.get("name")?.string());
            if let Some(name) = name {
                let call = index_of(call).unwrap_or(position as u32);
                self.tools.push((format!("{index}/delta/tool_calls/{call}/"), name.into_owned()));
            }
        }
        self.visit(choice, &mut index.to_string(), false);
    }

    fn visit(&mut self, value: Value<'_>, path: &mut String, nested: bool) {
        if let Some(range) = value.inner_span() {
            self.content |= !range.is_empty();
            self.deltas.push(Delta { channel: path.clone(), range, nested });
            return;
        }
        for (position, child) in value.children().enumerate() {
            let length = path.len();
            path.push('/');
            match child.key() {
                Some(key) if NOT_TEXT.contains(&key.as_ref()) => {
                    path.truncate(length);
                    continue;
                }
                Some(key) => path.push_str(&key),
                None => path.push_str(&index_of(child).unwrap_or(position as u32).to_string()),
            }
            self.visit(child, path, child.key_is("arguments"));
            path.truncate(length);
        }
    }

    fn read_messages(&mut self, root: Value<'_>, data: &str) {
        let kind = root.get("type").and_then(|kind| kind.string()).unwrap_or_default();
        let index = index_of(root).unwrap_or(0);
        match kind.as_ref() {
            "error" => self.fail(data),
            "message_start" => {
                if let Some(usage) = root.get("message").and_then(|message| message.get("usage")) {
                    self.usage = Usage::of_member(Dialect::Messages, usage);
                }
            }
            "content_block_start" => {
                let Some(block) = root.get("content_block") else { return };
                let kind = block.get("type").and_then(|kind| kind.string()).unwrap_or_default();
                self.content = !matches!(kind.as_ref(), "text" | "thinking");
                if let Some(name) = block.get("name").and_then(|name| name.string()) {
                    self.tools.push((format!("{index}/"), name.into_owned()));
                }
                for (name, nested) in [("text", false), ("thinking", false)] {
                    self.delta(block, name, format!("{index}/{name}"), nested);
                }
                if self.content {
                    self.wholes_below(block);
                }
            }
            "content_block_delta" => {
                self.content = true;
                let Some(delta) = root.get("delta") else { return };
                for (name, nested) in [("text", false), ("thinking", false), ("partial_json", true)] {
                    self.delta(delta, name, format!("{index}/{name}"), nested);
                }
                if let Some(citation) = delta.get("citation") {
                    self.wholes_below(citation);
                }
            }
            "content_block_stop" => self.ends.push(format!("{index}/")),
            "message_delta" => {
                self.content = true;
                self.ends.push(String::new());
                if let Some(usage) = root.get("usage") {
                    self.usage = Usage::of_member(Dialect::Messages, usage);
                }
            }
            "message_stop" => {
                self.content = true;
                self.over = true;
                self.ends.push(String::new());
            }
            _ => {}
        }
    }

    fn delta(&mut self, object: Value<'_>, name: &str, channel: String, nested: bool) {
        if let Some(range) = object.get(name).and_then(|text| text.inner_span()) {
            self.content |= !range.is_empty();
            self.deltas.push(Delta { channel, range, nested });
        }
    }

    fn read_responses(&mut self, root: Value<'_>, data: &str) {
        let kind = root.get("type").and_then(|kind| kind.string()).unwrap_or_default();
        if let Some(number) = root.get("sequence_number") {
            self.sequence = number.raw().parse().ok().map(|sequence| (number.span(), sequence));
        }
        let place = |name| root.get(name).map_or("", |value: Value<'_>| value.raw());
        let output = place("output_index");
        self.item = format!("{output}/");
        if let Some(name) = root.get("item").and_then(|item| item.get("name")?.string()) {
            self.tools.push((self.item.clone(), name.into_owned()));
        }
        let channel = |base: &str| format!("{output}/{}/{}/{base}", place("content_index"), place("summary_index"));
        if kind == "error" {
            return self.fail(data);
        }
        if let Some(response) = root.get("response") {
            self.usage = Usage::of_root(Dialect::Responses, response);
            self.instructions = response.get("instructions").map(|instructions| instructions.span());
            let instructions = self.instructions.clone();
            self.wholes_below(response);
            self.wholes.retain(|whole| !instructions.as_ref().is_some_and(|range| range.contains(&whole.range.start)));
            if matches!(kind.as_ref(), "response.completed" | "response.incomplete" | "response.failed") {
                self.over = true;
                self.content = true;
                self.ends.push(String::new());
            }
            if kind == "response.failed" {
                self.error = response.get("error").and_then(|error| Failure::read(200, error.raw()));
            }
            return;
        }
        if let Some(base) = kind.strip_suffix(".delta") {
            self.content = true;
            // Sound is no text.
            if !base.ends_with("audio") {
                self.delta(root, "delta", channel(base), base.contains("arguments"));
            }
            return;
        }
        if let Some(base) = kind.strip_suffix(".done") {
            self.content = true;
            self.ends.push(match root.get("item").is_some() || root.get("part").is_some() {
                true => format!("{output}/"),
                false => channel(base),
            });
        }
        self.content |= root.get("item").is_some_and(|item| {
            item.get("type").and_then(|kind| kind.string()).is_some_and(|kind| kind != "message" && kind != "reasoning")
        });
        self.wholes_below(root);
    }

    fn read_gemini(&mut self, root: Value<'_>, data: &str) {
        for member in root.children() {
            if member.key_is("candidates") {
                for (position, candidate) in member.children().enumerate() {
                    self.read_candidate(candidate, position);
                }
            } else if member.key_is("usageMetadata") {
                self.usage = Usage::of_gemini(member);
            } else if member.key_is("promptFeedback") {
                self.over |= member.get("blockReason").is_some();
                self.content |= self.over;
            } else if member.key_is("error") && !member.is_null() {
                self.fail(data);
            } else {
                self.head_member(member, data);
            }
        }
    }

    fn read_candidate(&mut self, candidate: Value<'_>, position: usize) {
        let index = index_of(candidate).unwrap_or(position as u32);
        let parts = candidate.get("content").and_then(|content| content.get("parts"));
        for part in parts.iter().flat_map(|parts| parts.children()) {
            let thought = part.get("thought").is_some_and(|thought| thought.raw() == "true");
            let channel = if thought { "thought" } else { "text" };
            self.delta(part, "text", format!("{index}/{channel}"), false);
            for member in part.children().filter(|member| !member.key_is("text") && is_text_member(*member)) {
                self.content = true;
                self.wholes_below(member);
            }
        }
        for member in candidate.children().filter(|member| !member.key_is("content") && !member.key_is("finishReason"))
        {
            self.wholes_below(member);
        }
        if candidate.get("finishReason").is_some() {
            self.over = true;
            self.content = true;
            self.ends.push(format!("{index}/"));
        }
    }

    fn wholes_below(&mut self, value: Value<'_>) {
        collect(value, false, None, &mut self.wholes);
    }

    /// A frame of the same answer that says only `text` on `channel`. Responses has none, as an event there is best
    /// made in the image of the channel's last one: see [`Chunk::again`].
    pub fn synthesise(&self, dialect: Dialect, channel: &str, text: &str) -> String {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        escape_into(text, &mut quoted);
        quoted.push('"');
        let (first, rest) = channel.split_once('/').unwrap_or((channel, ""));
        match dialect {
            Dialect::Messages => {
                let kind = match rest {
                    "text" => "text_delta",
                    "thinking" => "thinking_delta",
                    _ => "input_json_delta",
                };
                let delta = format!("{{\"type\":\"{kind}\",\"{rest}\":{quoted}}}");
                format!(
                    "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{first},\"delta\":{delta}}}\n\n"
                )
            }
            Dialect::Gemini => {
                let thought = if rest == "thought" { ",\"thought\":true" } else { "" };
                format!(
                    "data: {{{}\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":{quoted}{thought}}}],\"role\":\"model\"}},\"index\":{first}}}]}}\n\n",
                    self.head
                )
            }
            _ => format!("data: {}\n\n", self.synthesise_chat(first, rest, &quoted)),
        }
    }

    fn synthesise_chat(&self, choice: &str, path: &str, quoted: &str) -> String {
        let mut open = String::new();
        let mut close = String::new();
        let mut steps = path.split('/').peekable();
        while let Some(step) = steps.next() {
            let inside_array = steps.peek().is_some_and(|next| next.bytes().all(|byte| byte.is_ascii_digit()));
            open.push('"');
            escape_into(step, &mut open);
            open.push_str("\":");
            match (inside_array, steps.peek()) {
                (true, Some(_)) => {
                    let index = steps.next().unwrap_or("0");
                    open.push_str(&format!("[{{\"index\":{index},"));
                    close.insert_str(0, "}]");
                }
                (false, Some(_)) => {
                    open.push('{');
                    close.insert(0, '}');
                }
                (_, None) => open.push_str(quoted),
            }
        }
        format!("{{{}\"choices\":[{{\"index\":{choice},{open}{close},\"finish_reason\":null}}]}}", self.head)
    }

    /// The data of an event again, with another text in `range` (the inside of a string).
    pub fn again(data: &str, range: Range<usize>, text: &str) -> String {
        let mut out = String::with_capacity(data.len() + text.len());
        out.push_str(data.get(..range.start).unwrap_or_default());
        escape_into(text, &mut out);
        out.push_str(data.get(range.end..).unwrap_or_default());
        out
    }
}

fn index_of(value: Value<'_>) -> Option<u32> {
    value.get("index").and_then(|index| index.raw().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(dialect: Dialect, data: &str) -> Vec<(String, String, bool)> {
        let chunk = Chunk::read(dialect, data).unwrap();
        chunk
            .deltas
            .iter()
            .map(|delta| (delta.channel.clone(), data[delta.range.clone()].to_owned(), delta.nested))
            .collect()
    }

    #[test]
    fn a_chunk_names_its_channels() {
        let data = r#"{"id":"c","object":"o","choices":[{"index":1,"delta":{"role":"assistant","content":"a","tool_calls":[{"index":2,"id":"x","type":"function","function":{"name":"f","arguments":"{\"k"}}]},"finish_reason":null}],"usage":null}"#;
        let chunk = Chunk::read(Dialect::Chat, data).unwrap();
        assert_eq!(
            channels(Dialect::Chat, data),
            [
                ("1/delta/content".to_owned(), "a".to_owned(), false),
                ("1/delta/tool_calls/2/function/arguments".to_owned(), "{\\\"k".to_owned(), true)
            ]
        );
        assert!(chunk.content && !chunk.over);
        let said = chunk.synthesise(Dialect::Chat, "1/delta/tool_calls/2/function/arguments", "\"z");
        assert_eq!(
            said,
            "data: {\"id\":\"c\",\"object\":\"o\",\"choices\":[{\"index\":1,\"delta\":{\"tool_calls\":[{\"index\":2,\"function\":{\"arguments\":\"\\\"z\"}}]},\"finish_reason\":null}]}\n\n"
        );
    }

    #[test]
    fn each_dialect_names_its_channels_and_a_synthesised_event_continues_them() {
        for (dialect, data, channel, text, nested) in [
            (
                Dialect::Messages,
                r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"hi"}}"#,
                "2/text",
                "hi",
                false,
            ),
            (
                Dialect::Messages,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a"}}"#,
                "0/partial_json",
                "{\\\"a",
                true,
            ),
            (
                Dialect::Gemini,
                r#"{"responseId":"r","candidates":[{"content":{"parts":[{"text":"why","thought":true}],"role":"model"},"index":0}]}"#,
                "0/thought",
                "why",
                false,
            ),
            (Dialect::Completions, r#"{"choices":[{"text":"t","index":0}]}"#, "0/text", "t", false),
        ] {
            assert_eq!(channels(dialect, data), [(channel.to_owned(), text.to_owned(), nested)]);
            let chunk = Chunk::read(dialect, data).unwrap();
            assert!(chunk.content);
            let frame = chunk.synthesise(dialect, channel, "é\"");
            let again = frame.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            assert_eq!(channels(dialect, again), [(channel.to_owned(), "é\\\"".to_owned(), nested)], "{frame}");
        }
        let data = r#"{"type":"response.function_call_arguments.delta","item_id":"i","output_index":1,"delta":"{","sequence_number":4}"#;
        assert_eq!(
            channels(Dialect::Responses, data),
            [("1///response.function_call_arguments".to_owned(), "{".to_owned(), true)]
        );
        let chunk = Chunk::read(Dialect::Responses, data).unwrap();
        assert_eq!(chunk.sequence.unwrap().1, 4);
        assert_eq!(Chunk::again(data, chunk.deltas[0].range.clone(), "x").replace("\"x\"", "\"{\""), data);
    }

    #[test]
    fn what_providers_count_apart_is_added() {
        let xai = r#"{"usage":{"prompt_tokens":10,"completion_tokens":26,"total_tokens":232,"completion_tokens_details":{"reasoning_tokens":196}}}"#;
        assert_eq!(Usage::of_answer(Dialect::Chat, xai), Usage { input: Some(10), output: Some(222) });
        let openai = xai.replace("232", "36").replace("196", "20");
        assert_eq!(Usage::of_answer(Dialect::Chat, &openai), Usage { input: Some(10), output: Some(26) });
        let gemini =
            r#"{"usageMetadata":{"promptTokenCount":147,"toolUsePromptTokenCount":360,"candidatesTokenCount":9}}"#;
        assert_eq!(Usage::of_answer(Dialect::Gemini, gemini), Usage { input: Some(507), output: Some(9) });
    }

    #[test]
    fn usage_ends_and_errors_are_seen() {
        let read = |dialect, data| Chunk::read(dialect, data).unwrap();
        let chunk = read(Dialect::Chat, r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#);
        assert_eq!((chunk.usage, chunk.only_usage), (Usage { input: Some(3), output: Some(4) }, true));
        let chunk = read(Dialect::Chat, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        assert_eq!(chunk.ends, ["0/"]);
        assert!(read(Dialect::Chat, r#"{"error":{"message":"x"}}"#).error.is_some());
        assert!(!read(Dialect::Chat, r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#).content);
        let start = read(
            Dialect::Messages,
            r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
        );
        let end = read(Dialect::Messages, r#"{"type":"message_delta","usage":{"output_tokens":9}}"#);
        assert_eq!(start.usage.and(end.usage), Usage { input: Some(7), output: Some(9) });
        assert!(!start.content && end.content);
        assert!(read(Dialect::Messages, r#"{"type":"message_stop"}"#).over);
        assert_eq!(
            read(Dialect::Messages, r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#)
                .error
                .unwrap()
                .status,
            529
        );
        let last = read(
            Dialect::Gemini,
            r#"{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2,"thoughtsTokenCount":3}}"#,
        );
        assert_eq!((last.over, last.usage.output), (true, Some(5)));
        let done = read(
            Dialect::Responses,
            r#"{"type":"response.completed","response":{"instructions":"secret","output":[{"content":[{"text":"t"}]}],"usage":{"input_tokens":1,"output_tokens":2}}}"#,
        );
        assert_eq!((done.over, done.usage.input, done.wholes.len()), (true, Some(1), 1));
        assert!(done.instructions.is_some());
    }
}
