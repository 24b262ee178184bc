//! Every direction with the same conversation: reasoning, a text and two tool calls, whole and streamed.

use crate::Dialect;
use crate::sse::Frames;
use crate::translate::{Malformed, Stream, Target, answer, request};
use serde_json::{Value, json};

const DIRECTIONS: [(Dialect, Dialect); 9] = [
    (Dialect::Chat, Dialect::Responses),
    (Dialect::Chat, Dialect::Messages),
    (Dialect::Chat, Dialect::Gemini),
    (Dialect::Messages, Dialect::Chat),
    (Dialect::Messages, Dialect::Responses),
    (Dialect::Messages, Dialect::Gemini),
    (Dialect::Gemini, Dialect::Chat),
    (Dialect::Gemini, Dialect::Responses),
    (Dialect::Gemini, Dialect::Messages),
];

const ASKED: &str = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"instructions":"Be \"brief\".",
"tools":[],"temperature":0.70}"#;

const TEXT: &str = "Ich \"frage\" nach – é\n漢 🦀";
const THOUGHT: &str = "Two cities, so two calls.";

fn whole_of(dialect: Dialect) -> String {
    match dialect {
        Dialect::Chat => json!({
            "id": "chatcmpl-9", "object": "chat.completion", "created": 1_790_000_000_u64, "model": "m-1",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": null, "message": {
                "role": "assistant", "content": TEXT, "refusal": null, "reasoning_content": THOUGHT,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Zürich\",\n\"n\":1.0}"}},
                    {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": ""}},
                ]}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140,
                "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 15}},
        })
        .to_string(),
        Dialect::Messages => json!({
            "id": "msg_9", "type": "message", "role": "assistant", "model": "m-1",
            "content": [
                {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "eHl6"},
                {"type": "text", "text": TEXT},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich", "n": 1.0}},
                {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 36, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 4, "output_tokens": 40},
        })
        .to_string(),
        _ => json!({
            "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
                {"text": THOUGHT, "thought": true},
                {"text": TEXT},
                {"functionCall": {"name": "weather", "args": {"city": "Zürich", "n": 1.0}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "time"}},
            ]}}],
            "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 25, "thoughtsTokenCount": 15,
                "totalTokenCount": 140, "cachedContentTokenCount": 64},
            "modelVersion": "m-1", "responseId": "resp9",
        })
        .to_string(),
    }
}

fn chat_chunk(delta: Value, finish: Value) -> String {
    let choices = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    frame(&json!({"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 1_790_000_000_u64, "model": "m-1",
        "choices": choices, "usage": null}))
}

fn frame(data: &Value) -> String {
    match data["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}

fn halves(text: &str) -> [&str; 2] {
    let at = (1..text.len()).filter(|&at| text.is_char_boundary(at)).find(|&at| at >= text.len() / 2).unwrap();
    [&text[..at], &text[at..]]
}

/// A stream's frames, terminator last.
fn stream_of(dialect: Dialect) -> Vec<String> {
    let mut frames = Vec::new();
    match dialect {
        Dialect::Chat => {
            frames.push(chat_chunk(json!({"role": "assistant", "content": ""}), Value::Null));
            frames.extend(halves(THOUGHT).map(|text| chat_chunk(json!({"reasoning_content": text}), Value::Null)));
            frames.extend(halves(TEXT).map(|text| chat_chunk(json!({"content": text}), Value::Null)));
            let call = |call: Value| chat_chunk(json!({"tool_calls": [call]}), Value::Null);
            frames.push(call(json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}})));
            frames.extend(
                halves("{\"city\":\"Zürich\",\n\"n\":1.0}")
                    .map(|text| call(json!({"index": 0, "function": {"arguments": text}}))),
            );
            frames.push(call(
                json!({"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": ""}}),
            ));
            frames.push(chat_chunk(json!({}), json!("tool_calls")));
            let whole: Value = serde_json::from_str(&whole_of(Dialect::Chat)).unwrap();
            frames.push(frame(
                &json!({"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 1, "model": "m-1",
                "choices": [], "usage": whole["usage"]}),
            ));
            frames.push("data: [DONE]\n\n".to_owned());
        }
        Dialect::Messages => {
            let delta = |index: u64, delta: Value| {
                frame(&json!({"type": "content_block_delta", "index": index, "delta": delta}))
            };
            let start = |index: u64, block: Value| {
                frame(&json!({"type": "content_block_start", "index": index, "content_block": block}))
            };
            let stop = |index: u64| frame(&json!({"type": "content_block_stop", "index": index}));
            frames.push(frame(&json!({"type": "message_start", "message": {"id": "msg_9", "type": "message",
                "role": "assistant", "model": "m-1", "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 36, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 4, "output_tokens": 1}}})));
            frames.push(start(0, json!({"type": "thinking", "thinking": "", "signature": ""})));
            frames.push(frame(&json!({"type": "ping"})));
            frames.extend(halves(THOUGHT).map(|text| delta(0, json!({"type": "thinking_delta", "thinking": text}))));
            frames.push(delta(0, json!({"type": "signature_delta", "signature": "c2ln"})));
            frames.push(stop(0));
            frames.push(start(1, json!({"type": "redacted_thinking", "data": "eHl6"})));
            frames.push(stop(1));
            frames.push(start(2, json!({"type": "text", "text": ""})));
            frames.extend(halves(TEXT).map(|text| delta(2, json!({"type": "text_delta", "text": text}))));
            frames.push(stop(2));
            frames.push(start(3, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}})));
            frames.extend(
                halves("{\"city\":\"Zürich\",\"n\":1.0}")
                    .map(|text| delta(3, json!({"type": "input_json_delta", "partial_json": text}))),
            );
            frames.push(stop(3));
            frames.push(start(4, json!({"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}})));
            frames.push(stop(4));
            frames.push(frame(&json!({"type": "message_delta",
                "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 40}})));
            frames.push(frame(&json!({"type": "message_stop"})));
        }
        _ => {
            let response = |parts: Value, candidates: u64| {
                json!({"candidates": [{"index": 0, "content": {"role": "model", "parts": parts}}],
                    "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": candidates, "thoughtsTokenCount": 15,
                        "cachedContentTokenCount": 64, "totalTokenCount": 115 + candidates},
                    "modelVersion": "m-1", "responseId": "resp9"})
            };
            frames.extend(halves(THOUGHT).map(|text| frame(&response(json!([{"text": text, "thought": true}]), 0))));
            frames.extend(halves(TEXT).map(|text| frame(&response(json!([{"text": text}]), 9))));
            let call = json!({"functionCall": {"name": "weather", "args": {"city": "Zürich", "n": 1.0}}, "thoughtSignature": "c2ln"});
            frames.push(frame(&response(json!([call]), 20)));
            let mut last = response(json!([{"functionCall": {"name": "time", "args": {}}}]), 25);
            last["candidates"][0]["finishReason"] = json!("STOP");
            frames.push(frame(&last));
        }
    }
    frames
}

/// What a client's program would see.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    text: String,
    thought: String,
    calls: Vec<(String, Value)>,
    reason: String,
    /// Input and output, in the client's own way of counting.
    usage: (u64, u64),
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Reads a whole answer as a client would.
fn see(dialect: Dialect, body: &Value) -> Seen {
    let mut seen = Seen::default();
    let none = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&none).clone();
    match dialect {
        Dialect::Chat => {
            let message = &body["choices"][0]["message"];
            seen.text = text(&message["content"]).into();
            seen.thought = text(&message["reasoning_content"]).into();
            for call in list(&message["tool_calls"]) {
                seen.calls.push((text(&call["function"]["name"]).into(), parsed(text(&call["function"]["arguments"]))));
            }
            seen.reason = text(&body["choices"][0]["finish_reason"]).into();
            let usage = &body["usage"];
            seen.usage = (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
        }
        Dialect::Responses => {
            for item in list(&body["output"]) {
                match text(&item["type"]) {
                    "message" => seen.text += text(&item["content"][0]["text"]),
                    "reasoning" => seen.thought += text(&item["summary"][0]["text"]),
                    _ => seen.calls.push((text(&item["name"]).into(), parsed(text(&item["arguments"])))),
                }
            }
            seen.reason = text(&body["status"]).into();
            let usage = &body["usage"];
            seen.usage = (usage["input_tokens"].as_u64().unwrap(), usage["output_tokens"].as_u64().unwrap());
            assert_eq!(body["instructions"], "Be \"brief\".");
        }
        Dialect::Messages => {
            for block in list(&body["content"]) {
                match text(&block["type"]) {
                    "text" => seen.text += text(&block["text"]),
                    "thinking" => seen.thought += text(&block["thinking"]),
                    "tool_use" => seen.calls.push((text(&block["name"]).into(), block["input"].clone())),
                    _ => {}
                }
            }
            seen.reason = text(&body["stop_reason"]).into();
            let usage = &body["usage"];
            seen.usage = (usage["input_tokens"].as_u64().unwrap(), usage["output_tokens"].as_u64().unwrap());
        }
        _ => {
            for part in list(&body["candidates"][0]["content"]["parts"]) {
                match (part["thought"] == true, part.get("functionCall")) {
                    (_, Some(call)) => seen.calls.push((text(&call["name"]).into(), call["args"].clone())),
                    (true, _) => seen.thought += text(&part["text"]),
                    (false, _) => seen.text += text(&part["text"]),
                }
            }
            seen.reason = text(&body["candidates"][0]["finishReason"]).into();
            let usage = &body["usageMetadata"];
            seen.usage =
                (usage["promptTokenCount"].as_u64().unwrap_or(0), usage["candidatesTokenCount"].as_u64().unwrap_or(0));
        }
    }
    seen
}

/// The frames' names and data; a name has to be its data's type.
fn frames_of(bytes: &[u8]) -> Vec<Value> {
    let stream = std::str::from_utf8(bytes).unwrap();
    let mut found = Vec::new();
    for frame in stream.split_terminator("\n\n") {
        let (name, data) = match frame.strip_prefix("event: ") {
            Some(rest) => rest.split_once('\n').map(|(name, data)| (Some(name), data)).unwrap(),
            None => (None, frame),
        };
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{frame}"));
        assert!(!data.contains('\n'), "{frame}");
        if data != "[DONE]" {
            let value = parsed(data);
            assert_eq!(value["type"].as_str(), name, "{frame}");
            found.push(value);
        }
    }
    found
}

/// Adds a stream up to the whole answer that it tells, as the official clients do.
fn gather(dialect: Dialect, frames: &[Value]) -> Value {
    let mut whole = Value::Null;
    match dialect {
        Dialect::Chat => {
            whole = json!({"choices": [{"message": {"content": "", "reasoning_content": "", "tool_calls": []}}]});
            for chunk in frames {
                assert!(chunk.get("usage").is_some());
                if chunk["usage"].is_object() {
                    whole["usage"] = chunk["usage"].clone();
                    assert_eq!(chunk["choices"], json!([]));
                    continue;
                }
                let choice = &chunk["choices"][0];
                let message = &mut whole["choices"][0]["message"];
                for name in ["content", "reasoning_content"] {
                    message[name] = format!("{}{}", text(&message[name]), text(&choice["delta"][name])).into();
                }
                for call in choice["delta"]["tool_calls"].as_array().unwrap_or(&Vec::new()) {
                    let calls = message["tool_calls"].as_array_mut().unwrap();
                    let at = call["index"].as_u64().unwrap() as usize;
                    match calls.get_mut(at) {
                        None => calls.push(call.clone()),
                        Some(known) => {
                            let more = text(&call["function"]["arguments"]).to_owned();
                            known["function"]["arguments"] =
                                (text(&known["function"]["arguments"]).to_owned() + &more).into();
                        }
                    }
                }
                whole["choices"][0]["finish_reason"] = choice["finish_reason"].clone();
            }
        }
        Dialect::Responses => gather_responses(frames, &mut whole),
        Dialect::Messages => gather_messages(frames, &mut whole),
        _ => {
            let parts: Vec<Value> = frames
                .iter()
                .flat_map(|frame| frame["candidates"][0]["content"]["parts"].as_array().unwrap().clone())
                .collect();
            whole = frames.last().unwrap().clone();
            whole["candidates"][0]["content"]["parts"] = parts.into();
        }
    }
    whole
}

fn gather_responses(frames: &[Value], whole: &mut Value) {
    let mut items: Vec<Value> = Vec::new();
    for (number, event) in frames.iter().enumerate() {
        assert_eq!(event["sequence_number"], json!(number));
        let at = event["output_index"].as_u64().unwrap_or(0) as usize;
        let is_of_item = |items: &[Value]| assert_eq!(items[at]["id"], event["item_id"]);
        match text(&event["type"]) {
            "response.output_item.added" => {
                assert_eq!(at, items.len());
                items.push(event["item"].clone());
            }
            "response.output_text.delta" => {
                is_of_item(&items);
                let said = text(&items[at]["said"]).to_owned() + text(&event["delta"]);
                items[at]["said"] = said.into();
            }
            "response.output_text.done" => assert_eq!(items[at]["said"], event["text"]),
            "response.function_call_arguments.delta" => {
                is_of_item(&items);
                let said = text(&items[at]["arguments"]).to_owned() + text(&event["delta"]);
                items[at]["arguments"] = said.into();
            }
            "response.function_call_arguments.done" => assert_eq!(items[at]["arguments"], event["arguments"]),
            "response.output_item.done" => items[at] = event["item"].clone(),
            "response.completed" | "response.incomplete" => *whole = event["response"].clone(),
            _ => {}
        }
    }
    assert_eq!(whole["output"], json!(items));
}

fn gather_messages(frames: &[Value], whole: &mut Value) {
    for event in frames {
        let at = event["index"].as_u64().unwrap_or(0) as usize;
        match text(&event["type"]) {
            "message_start" => *whole = event["message"].clone(),
            "content_block_start" => {
                let blocks = whole["content"].as_array_mut().unwrap();
                assert_eq!(at, blocks.len());
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let block = &mut whole["content"][at];
                for (from, into) in
                    [("text", "text"), ("thinking", "thinking"), ("signature", "signature"), ("partial_json", "json")]
                {
                    if let Some(more) = event["delta"][from].as_str() {
                        block[into] = (text(&block[into]).to_owned() + more).into();
                    }
                }
            }
            "content_block_stop" => {
                let block = &mut whole["content"][at];
                if let Some(json) = block["json"].as_str() {
                    block["input"] = parsed(json);
                }
            }
            "message_delta" => {
                whole["stop_reason"] = event["delta"]["stop_reason"].clone();
                whole["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    assert_eq!(frames.last().unwrap()["type"], "message_stop");
}

fn expected(from: Dialect, to: Dialect) -> Seen {
    Seen {
        text: TEXT.into(),
        thought: THOUGHT.into(),
        calls: vec![("weather".into(), json!({"city": "Zürich", "n": 1.0})), ("time".into(), json!({}))],
        reason: match to {
            Dialect::Chat => "tool_calls",
            Dialect::Responses => "completed",
            Dialect::Messages => "tool_use",
            _ => "STOP",
        }
        .into(),
        usage: match (from, to) {
            (_, Dialect::Messages) => (36, 40),
            (Dialect::Chat, Dialect::Gemini) => (100, 25),
            _ => (100, 40),
        },
    }
}

/// Runs a stream in chunks of that many bytes; what the client got, and whether it was complete.
fn run(from: Dialect, to: Dialect, bytes: &[u8], size: usize) -> (Vec<u8>, bool) {
    let (mut stream, mut frames, mut out) = (Stream::new(from, to, ASKED), Frames::new(1 << 20), Vec::new());
    for chunk in bytes.chunks(size) {
        frames.push(chunk);
        while let Some(frame) = frames.next_frame().unwrap() {
            stream.frame(&frame, &mut out).unwrap();
        }
    }
    let complete = stream.end(&mut out);
    (out, complete)
}

#[test]
fn a_whole_answer_says_the_same_in_every_direction() {
    for (from, to) in DIRECTIONS {
        let said = answer(from, to, &whole_of(from), ASKED).unwrap();
        assert_eq!(see(to, &parsed(&said)), expected(from, to), "{from:?} to {to:?}: {said}");
    }
}

#[test]
fn a_stream_says_the_same_in_every_direction_however_it_is_cut() {
    for (from, to) in DIRECTIONS {
        let bytes = stream_of(from).concat().into_bytes();
        let (said, complete) = run(from, to, &bytes, bytes.len());
        assert!(complete, "{from:?} to {to:?}");
        let whole = gather(to, &frames_of(&said));
        assert_eq!(see(to, &whole), expected(from, to), "{from:?} to {to:?}: {whole}");
        assert_eq!(run(from, to, &bytes, 1), (said, true), "{from:?} to {to:?}");
    }
}

#[test]
fn a_stream_that_ends_before_its_terminator_is_cut() {
    for (from, to) in DIRECTIONS {
        let frames = stream_of(from);
        for length in 0..frames.len() {
            let bytes = frames[..length].concat().into_bytes();
            let (said, complete) = run(from, to, &bytes, bytes.len().max(1));
            assert!(!complete, "{from:?} to {to:?} after {length}");
            frames_of(&said);
        }
    }
}

#[test]
fn a_providers_error_ends_the_stream_as_the_clients() {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded", "code": 529}});
    for (from, to) in DIRECTIONS {
        let mut frames = stream_of(from);
        frames.insert(3, format!("data: {error}\n\n"));
        let (said, complete) = run(from, to, &frames.concat().into_bytes(), 64);
        let said = String::from_utf8(said).unwrap();
        assert!(complete && said.matches("Overloaded").count() == 1, "{from:?} to {to:?}: {said}");
        let last = said.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.contains("Overloaded"), "{last}");
    }
}

#[test]
fn what_is_no_event_or_answer_is_refused() {
    for (from, to) in DIRECTIONS {
        for bad in ["data: {\"a\":\n\n", "data: []\n\n", "data: x\n\n", "data: \u{7f}\n\n"] {
            let (mut stream, mut frames) = (Stream::new(from, to, ASKED), Frames::new(1 << 20));
            frames.push(bad.as_bytes());
            let frame = frames.next_frame().unwrap().unwrap();
            assert_eq!(stream.frame(&frame, &mut Vec::new()), Err(Malformed));
        }
        for bad in
            ["", "[]", "{}", "{\"error\":{\"message\":\"x\"}}", "{\"choices\":[],\"candidates\":[],\"content\":1}"]
        {
            assert_eq!(answer(from, to, bad, ASKED), None, "{from:?}: {bad}");
        }
    }
}

#[test]
fn signatures_survive_where_the_clients_can_give_them_back() {
    let of = |from, to| parsed(&answer(from, to, &whole_of(from), ASKED).unwrap());
    let chat = of(Dialect::Messages, Dialect::Chat);
    assert_eq!(
        chat["choices"][0]["message"]["thinking_blocks"],
        json!([{"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"}, {"type": "redacted_thinking", "data": "eHl6"}])
    );
    let responses = of(Dialect::Messages, Dialect::Responses);
    assert_eq!(responses["output"][0]["encrypted_content"], "c2ln");
    assert_eq!(responses["output"][1]["encrypted_content"], "redacted:eHl6");
    assert_eq!(
        of(Dialect::Messages, Dialect::Gemini)["candidates"][0]["content"]["parts"][0]["thoughtSignature"],
        "c2ln"
    );
    let chat = of(Dialect::Gemini, Dialect::Chat);
    let call = &chat["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["extra_content"]["google"]["thought_signature"], "c2ln");
    assert_eq!(call["id"], "call_resp9_0");
    let messages = of(Dialect::Gemini, Dialect::Messages);
    assert_eq!(messages["content"][2], json!({"type": "thinking", "thinking": "", "signature": "c2ln"}));
    assert_eq!(of(Dialect::Gemini, Dialect::Responses)["output"][2]["encrypted_content"], "c2ln");
}

#[test]
fn a_stream_keeps_signatures_too() {
    let of = |from, to| {
        let bytes = stream_of(from).concat().into_bytes();
        String::from_utf8(run(from, to, &bytes, bytes.len()).0).unwrap()
    };
    assert!(
        of(Dialect::Messages, Dialect::Chat)
            .contains(r#""thinking_blocks":[{"index":0,"type":"thinking","thinking":"","signature":"c2ln"}]"#)
    );
    assert!(of(Dialect::Messages, Dialect::Chat).contains(r#"[{"index":1,"type":"redacted_thinking","data":"eHl6"}]"#));
    assert!(of(Dialect::Gemini, Dialect::Chat).contains(r#""extra_content":{"google":{"thought_signature":"c2ln"}}"#));
    assert!(of(Dialect::Messages, Dialect::Gemini).contains(r#"{"text":"","thought":true,"thoughtSignature":"c2ln"}"#));
    assert!(of(Dialect::Gemini, Dialect::Messages).contains(r#"{"type":"signature_delta","signature":"c2ln"}"#));
}

#[test]
fn interleaved_and_unnumbered_calls_are_told_one_after_the_other() {
    let piece = |call: Value| chat_chunk(json!({"tool_calls": [call]}), Value::Null);
    let named = |index: Value, id: &str, name: &str, json: &str| {
        piece(json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": json}}))
    };
    let more = |index: Value, json: &str| piece(json!({"index": index, "function": {"arguments": json}}));
    let end = chat_chunk(json!({}), json!("stop")) + "data: [DONE]\n\n";
    let interleaved = [
        named(json!(0), "a", "x", "{\"k\":"),
        named(json!(1), "b", "y", "{\"l\""),
        more(json!(0), "1}"),
        more(json!(1), ":2}"),
    ];
    let unnumbered = [
        named(Value::Null, "a", "x", "{\"k\":"),
        more(Value::Null, "1}"),
        named(Value::Null, "b", "y", "{\"l\":"),
        more(Value::Null, "2}"),
    ];
    let all_zero = [
        named(json!(0), "a", "x", "{\"k\":"),
        more(json!(0), "1}"),
        named(json!(0), "b", "y", "{\"l\":"),
        more(json!(0), "2}"),
    ];
    for frames in [interleaved, unnumbered, all_zero] {
        let bytes = (frames.concat() + &end).into_bytes();
        let (said, complete) = run(Dialect::Chat, Dialect::Messages, &bytes, 16);
        let seen = see(Dialect::Messages, &gather(Dialect::Messages, &frames_of(&said)));
        assert!(complete);
        assert_eq!(seen.calls, [("x".into(), json!({"k": 1})), ("y".into(), json!({"l": 2}))]);
        // Called an ordinary end by the server, it is a call for tools nonetheless.
        assert_eq!(seen.reason, "tool_use");
    }
}

#[test]
fn stop_reasons_have_their_counterparts() {
    let chat = |reason: &str| json!({"choices": [{"finish_reason": reason, "message": {"content": "x"}}]}).to_string();
    let of = |to, reason| parsed(&answer(Dialect::Chat, to, &chat(reason), ASKED).unwrap());
    assert_eq!(of(Dialect::Messages, "length")["stop_reason"], "max_tokens");
    assert_eq!(of(Dialect::Messages, "content_filter")["stop_reason"], "refusal");
    assert_eq!(of(Dialect::Gemini, "length")["candidates"][0]["finishReason"], "MAX_TOKENS");
    let cut = of(Dialect::Responses, "length");
    assert_eq!(
        (text(&cut["status"]), &cut["incomplete_details"]),
        ("incomplete", &json!({"reason": "max_output_tokens"}))
    );
    let blocked = r#"{"promptFeedback":{"blockReason":"SAFETY"},"responseId":"r","modelVersion":"m"}"#;
    let refused = parsed(&answer(Dialect::Gemini, Dialect::Messages, blocked, ASKED).unwrap());
    assert_eq!((&refused["content"], text(&refused["stop_reason"])), (&json!([]), "refusal"));
    let stopped = r#"{"id":"m","content":[],"stop_reason":"stop_sequence","stop_sequence":"X","usage":{}}"#;
    let chat = parsed(&answer(Dialect::Messages, Dialect::Chat, stopped, ASKED).unwrap());
    assert_eq!(chat["choices"][0]["finish_reason"], "stop");
    let failed = r#"{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}]}"#;
    assert_eq!(answer(Dialect::Gemini, Dialect::Chat, failed, ASKED), None);
}

/// The next request of a client that got the answer and ran its tools.
fn given_back(dialect: Dialect, answer: &Value) -> Value {
    let none = Vec::new();
    match dialect {
        Dialect::Chat => {
            let message = &answer["choices"][0]["message"];
            let mut messages = vec![json!({"role": "user", "content": "x"}), message.clone()];
            for call in message["tool_calls"].as_array().unwrap() {
                messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"}));
            }
            json!({"model": "m", "messages": messages})
        }
        Dialect::Responses => {
            let mut items = vec![json!({"role": "user", "content": "x"})];
            let output = answer["output"].as_array().unwrap_or(&none);
            items.extend(output.iter().cloned());
            for call in output.iter().filter(|item| item["type"] == "function_call") {
                items.push(json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}));
            }
            json!({"model": "m", "input": items})
        }
        Dialect::Messages => {
            let blocks = answer["content"].as_array().unwrap();
            let result = |call: &Value| json!({"type": "tool_result", "tool_use_id": call["id"], "content": "ok"});
            let results: Vec<Value> = blocks.iter().filter(|block| block["type"] == "tool_use").map(result).collect();
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"},
                {"role": "assistant", "content": blocks}, {"role": "user", "content": results}]})
        }
        _ => {
            let content = &answer["candidates"][0]["content"];
            let calls = content["parts"].as_array().unwrap().iter().filter_map(|part| part.get("functionCall"));
            let result = |call: &Value| json!({"functionResponse": {"id": call["id"], "name": call["name"], "response": {"result": "ok"}}});
            let results: Vec<Value> = calls.map(result).collect();
            json!({"contents": [{"role": "user", "parts": [{"text": "x"}]}, content, {"role": "user", "parts": results}]})
        }
    }
}

#[test]
fn an_answer_given_back_loses_nothing() {
    for (from, to) in DIRECTIONS {
        let whole = parsed(&answer(from, to, &whole_of(from), ASKED).unwrap());
        let asked = given_back(to, &whole).to_string();
        let target = Target { model: "m", max_output_tokens: Some(9), stream: false };
        let back = request(to, from, &asked, &target).unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
        assert_eq!(back.lost, Vec::<String>::new(), "{from:?} to {to:?}: {asked}");
        assert!(back.body.contains("Zürich"), "{}", back.body);
        assert_eq!(back.body.contains("c2ln"), from != Dialect::Chat, "{from:?} to {to:?}: {}", back.body);
    }
}

#[test]
fn counts_of_thought_and_of_what_caches_took_in_are_kept() {
    let said = r#"{"id":"m","content":[],"stop_reason":"end_turn","usage":{"input_tokens":1,"cache_read_input_tokens":2,
"cache_creation_input_tokens":4,"output_tokens":9,"output_tokens_details":{"thinking_tokens":5}}}"#;
    let usage = |to, name| parsed(&answer(Dialect::Messages, to, said, "{}").unwrap())[name].clone();
    assert_eq!(
        usage(Dialect::Chat, "usage"),
        json!({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 5}})
    );
    assert_eq!(
        usage(Dialect::Responses, "usage"),
        json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 4},
            "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 16})
    );
    assert_eq!(
        usage(Dialect::Gemini, "usageMetadata"),
        json!({"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 16, "cachedContentTokenCount": 2,
            "thoughtsTokenCount": 5})
    );
}

#[test]
fn what_providers_count_apart_is_counted_in() {
    let choices = r#""choices":[{"message":{"content":"x"},"finish_reason":"stop"}]"#;
    for (completion, total) in [(1, 303), (291, 303)] {
        let said = format!(
            r#"{{"id":"c",{choices},"usage":{{"prompt_tokens":12,"completion_tokens":{completion},"total_tokens":{total},
"completion_tokens_details":{{"reasoning_tokens":290}}}}}}"#
        );
        let usage = &parsed(&answer(Dialect::Chat, Dialect::Responses, &said, "{}").unwrap())["usage"];
        assert_eq!((&usage["output_tokens"], &usage["total_tokens"]), (&json!(291), &json!(303)));
    }
    let said = r#"{"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}],"usageMetadata":
{"promptTokenCount":147,"toolUsePromptTokenCount":360,"candidatesTokenCount":108,"thoughtsTokenCount":168}}"#;
    let usage = &parsed(&answer(Dialect::Gemini, Dialect::Chat, said, "{}").unwrap())["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["total_tokens"]), (&json!(507), &json!(783)));
}

#[test]
fn reasoning_in_a_part_of_the_content_is_reasoning() {
    let said = r#"{"id":"c","choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"2+2"}]},
{"type":"text","text":"4"}]},"finish_reason":"stop"}]}"#;
    let content = &parsed(&answer(Dialect::Chat, Dialect::Messages, said, "{}").unwrap())["content"];
    assert_eq!((&content[0]["thinking"], &content[1]["text"]), (&json!("2+2"), &json!("4")));
}

#[test]
fn an_answer_that_a_gateway_begins_twice_keeps_its_first_name() {
    let start = |id| frame(&json!({"type": "message_start", "message": {"id": id, "model": "m-1", "content": []}}));
    let mut frames = stream_of(Dialect::Messages);
    frames.insert(3, start("msg_second"));
    for to in [Dialect::Chat, Dialect::Responses, Dialect::Gemini] {
        let said = String::from_utf8(run(Dialect::Messages, to, &frames.concat().into_bytes(), 64).0).unwrap();
        assert!(!said.contains("msg_second") && said.matches("\"role\":\"assistant\",\"content\":\"\"").count() <= 1);
    }
    frames = stream_of(Dialect::Messages).split_off(1);
    let (said, _) = run(Dialect::Messages, Dialect::Chat, &frames.concat().into_bytes(), 64);
    assert_eq!(frames_of(&said)[0]["choices"][0]["delta"]["role"], "assistant");
}

#[test]
fn usage_comes_to_chat_clients_that_asked_for_it() {
    let bytes = stream_of(Dialect::Messages).concat().into_bytes();
    let (mut stream, mut frames, mut out) =
        (Stream::new(Dialect::Messages, Dialect::Chat, "{}"), Frames::new(1 << 20), Vec::new());
    frames.push(&bytes);
    while let Some(frame) = frames.next_frame().unwrap() {
        stream.frame(&frame, &mut out).unwrap();
    }
    let said = String::from_utf8(out).unwrap();
    assert!(!said.contains("usage") && said.ends_with("data: [DONE]\n\n"));
}

proptest::proptest! {
    #[test]
    fn nothing_that_parses_is_too_odd(body in "\\{\"(choices|candidates|content|type|delta|id)\":(\\[(\\{\"(delta|message|content|text|type)\":(\\{\"(tool_calls|parts|content)\":[\\[{][\\]}]\\}|1|\"é\"|null)\\})?\\]|\"(error|content_block_start|x)\"|null)\\}") {
        for (from, to) in DIRECTIONS {
            let _ = answer(from, to, &body, &body);
            let mut frames = Frames::new(1 << 20);
            frames.push(format!("data: {body}\n\n").as_bytes());
            let _ = Stream::new(from, to, &body).frame(&frames.next_frame().unwrap().unwrap(), &mut Vec::new());
        }
    }
}
