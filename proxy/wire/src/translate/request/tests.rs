//! Tables of client bodies and what providers get, and what holds for every pair.

use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const PAIRS: [(Dialect, Dialect); 9] = [
    (Dialect::Chat, Dialect::Messages),
    (Dialect::Chat, Dialect::Gemini),
    (Dialect::Responses, Dialect::Chat),
    (Dialect::Responses, Dialect::Messages),
    (Dialect::Responses, Dialect::Gemini),
    (Dialect::Messages, Dialect::Chat),
    (Dialect::Messages, Dialect::Gemini),
    (Dialect::Gemini, Dialect::Chat),
    (Dialect::Gemini, Dialect::Messages),
];

const TARGET: Target<'static> = Target { model: "m", max_output_tokens: None, stream: false };

fn translated(from: Dialect, to: Dialect, body: &str, target: &Target<'_>) -> (Json, Vec<String>) {
    let translated = request(from, to, body, target).unwrap_or_else(|error| panic!("{error} in {body}"));
    let json = serde_json::from_str(&translated.body).unwrap_or_else(|error| panic!("{error}: {}", translated.body));
    (json, translated.lost)
}

/// Members of `whole` that `part` names, in depth one.
fn excerpt(whole: &Json, part: &Json) -> Json {
    let names = part.as_object().unwrap().keys();
    names.map(|name| (name.clone(), whole.get(name).cloned().unwrap_or(Json::Null))).collect()
}

/// Checks members of the provider's body; `null` stands for a member that must be absent.
#[track_caller]
fn check(from: Dialect, to: Dialect, client: Json, provider: Json, lost: &[&str]) {
    let (body, reported) = translated(from, to, &client.to_string(), &TARGET);
    assert_eq!(excerpt(&body, &provider), provider, "{from:?} to {to:?}: {body}");
    assert_eq!(reported, lost, "{from:?} to {to:?}");
}

/// A body in the dialect with further members.
fn chat(members: Json) -> Json {
    with(json!({"model": "x", "messages": [{"role": "user", "content": "Hi"}]}), members)
}

fn responses(members: Json) -> Json {
    with(json!({"model": "x", "input": "Hi"}), members)
}

fn messages(members: Json) -> Json {
    with(json!({"model": "x", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}), members)
}

fn gemini(members: Json) -> Json {
    with(json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}), members)
}

fn with(mut body: Json, members: Json) -> Json {
    let object = body.as_object_mut().unwrap();
    object.extend(members.as_object().unwrap().clone());
    body
}

fn refused(from: Dialect, to: Dialect, body: Json) -> (String, String) {
    let error = request(from, to, &body.to_string(), &TARGET).unwrap_err();
    (error.field, error.reason)
}

use Dialect::{Chat, Gemini, Messages, Responses};

const SCHEMA: &str = r#"{"type": "object", "properties": {"n": {"type": "number", "minimum": 1.0e0, "maximum": 12345678901234567890}}, "required": ["n"], "additionalProperties": false}"#;

/// The same conversation in each client's dialect: system, an image, a thought with a signature, two calls with their
/// results, a form for the answer. `SCHEMA` stands in for its name.
fn rich(dialect: Dialect) -> String {
    let body = match dialect {
        Chat => {
            r#"{
            "model": "gpt", "temperature": 0.70, "max_tokens": 1000, "stop": "END", "user": "u1", "stream": true,
            "stream_options": {"include_usage": true}, "parallel_tool_calls": false, "reasoning_effort": "low",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this? \u00e9\n"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K", "detail": "auto"}}]},
                {"role": "assistant", "content": "Looking.", "reasoning_content": "Hm.",
                 "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}],
                 "tool_calls": [
                    {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": "{\"x\": 1.0e0}"}},
                    {"id": "call_b", "type": "function", "function": {"name": "zoom", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "call_a", "content": "a cat"},
                {"role": "tool", "tool_call_id": "call_b", "content": "{\"size\": 2.50}"},
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "And now?"}],
            "tools": [
                {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},
                {"type": "function", "function": {"name": "zoom"}}],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "cat", "strict": true, "schema": SCHEMA}}}"#
        }
        Responses => {
            r#"{
            "model": "gpt", "temperature": 0.70, "max_output_tokens": 1000, "user": "u1", "stream": true, "store": false,
            "parallel_tool_calls": false, "reasoning": {"effort": "low"}, "instructions": "Be brief.",
            "include": ["reasoning.encrypted_content"],
            "input": [
                {"role": "user", "content": [
                    {"type": "input_text", "text": "What is this? \u00e9\n"},
                    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0K", "detail": "auto"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "c2ln"},
                {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
                {"type": "function_call", "id": "fc_1", "call_id": "call_a", "name": "look", "arguments": "{\"x\": 1.0e0}", "status": "completed"},
                {"type": "function_call", "id": "fc_2", "call_id": "call_b", "name": "zoom", "arguments": ""},
                {"type": "function_call_output", "call_id": "call_a", "output": "a cat"},
                {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "{\"size\": 2.50}"}]},
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "And now?"}],
            "tools": [
                {"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": false},
                {"type": "function", "name": "zoom", "parameters": null}],
            "tool_choice": {"type": "function", "name": "look"},
            "text": {"format": {"type": "json_schema", "name": "cat", "strict": true, "schema": SCHEMA}}}"#
        }
        Messages => {
            r#"{
            "model": "claude", "temperature": 0.70, "max_tokens": 1000, "stop_sequences": ["END"], "stream": true,
            "metadata": {"user_id": "u1"}, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Be kind."}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this? \u00e9\n"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Looking."},
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    {"type": "tool_use", "id": "call_a", "name": "look", "input": {"x": 1.0e0}},
                    {"type": "tool_use", "id": "call_b", "name": "zoom", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "call_b", "content": [{"type": "text", "text": "{\"size\": 2.50}"}]},
                    {"type": "text", "text": "And now?"}]}],
            "tools": [
                {"name": "look", "description": "Looks.", "input_schema": SCHEMA},
                {"name": "zoom", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
            "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true}}"#
        }
        _ => {
            r#"{
            "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "What is this? \u00e9\n"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}}]},
                {"role": "model", "parts": [
                    {"text": "Looking."}, {"text": "Hm.", "thought": true},
                    {"functionCall": {"name": "look", "args": {"x": 1.0e0}}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"name": "zoom"}}]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "look", "response": {"result": "a cat"}}},
                    {"functionResponse": {"name": "zoom", "response": {"size": 2.50}}}]},
                {"role": "user", "parts": [{"text": "And now?"}]}],
            "tools": [{"functionDeclarations": [
                {"name": "look", "description": "Looks.", "parametersJsonSchema": SCHEMA}, {"name": "zoom"}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
            "generationConfig": {"temperature": 0.70, "maxOutputTokens": 1000, "stopSequences": ["END"],
                "responseMimeType": "application/json", "responseJsonSchema": SCHEMA}}"#
        }
    };
    body.replace("SCHEMA", SCHEMA)
}

/// The rich conversation as a provider gets it, without what differs from client to client.
fn rich_provided(dialect: Dialect) -> Json {
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    match dialect {
        Chat => json!({
            "model": "m", "temperature": 0.7, "max_completion_tokens": 1000,
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        }),
        Messages => json!({
            "model": "m", "max_tokens": 1000, "temperature": 0.7, "system": "Be brief.\n\nBe kind.",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this? é\n"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "call_a", "name": "look", "input": {"x": 1.0}},
                    {"type": "tool_use", "id": "call_b", "name": "zoom", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "call_b", "content": "{\"size\": 2.50}"},
                    {"type": "text", "text": "And now?"}]}],
            "tools": [
                {"name": "look", "description": "Looks.", "input_schema": schema},
                {"name": "zoom", "input_schema": {"type": "object", "properties": {}}}],
        }),
        _ => json!({
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nBe kind."}]},
            "contents": [
                {"role": "user", "parts": [
                    {"text": "What is this? é\n"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}}]},
                {"role": "model", "parts": [
                    {"text": "Hm.", "thought": true},
                    {"text": "Looking.", "thoughtSignature": "c2ln"},
                    {"functionCall": {"id": "call_a", "name": "look", "args": {"x": 1.0}}},
                    {"functionCall": {"id": "call_b", "name": "zoom", "args": {}}}]},
                {"role": "user", "parts": [
                    {"functionResponse": {"id": "call_a", "name": "look", "response": {"result": "a cat"}}},
                    {"functionResponse": {"id": "call_b", "name": "zoom", "response": {"size": 2.5}}}]},
                {"role": "user", "parts": [{"text": "And now?"}]}],
            "tools": [{"functionDeclarations": [
                {"name": "look", "description": "Looks.", "parametersJsonSchema": schema}, {"name": "zoom"}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        }),
    }
}

#[track_caller]
fn check_rich(from: Dialect, to: Dialect, own: Json, lost: &[&str]) {
    let expected = with(rich_provided(to), own);
    let expected: serde_json::Map<_, _> =
        expected.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
    let target = Target { stream: from != Gemini, ..TARGET };
    let (body, reported) = translated(from, to, &rich(from), &target);
    assert_eq!(body, Json::Object(expected), "{from:?} to {to:?}");
    assert_eq!(reported, lost, "{from:?} to {to:?}");
}

fn schema() -> Json {
    serde_json::from_str(SCHEMA).unwrap()
}

/// The turns of the rich conversation in Chat; `kind` is where the second of the system's texts stands.
fn rich_chat_messages(kind: bool) -> Json {
    let first = if kind { "Be brief." } else { "Be brief.\n\nBe kind." };
    let mut messages = vec![
        json!({"role": "system", "content": first}),
        json!({"role": "user", "content": [
            {"type": "text", "text": "What is this? é\n"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]}),
        json!({"role": "assistant", "content": "Looking.", "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": "{\"x\": 1.0e0}"}},
            {"id": "call_b", "type": "function", "function": {"name": "zoom", "arguments": ""}}]}),
        json!({"role": "tool", "tool_call_id": "call_a", "content": "a cat"}),
        json!({"role": "tool", "tool_call_id": "call_b", "content": "{\"size\": 2.50}"}),
        json!({"role": "user", "content": "And now?"}),
    ];
    if kind {
        messages.insert(5, json!({"role": "system", "content": "Be kind."}));
    } else {
        messages[2]["tool_calls"][1]["function"]["arguments"] = json!("{}");
    }
    Json::Array(messages)
}

#[test]
fn a_rich_conversation_goes_from_chat_to_messages() {
    let own = json!({
        "stop_sequences": ["END"], "metadata": {"user_id": "u1"}, "stream": true,
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema()}},
    });
    check_rich(Chat, Messages, own, &[]);
}

#[test]
fn a_rich_conversation_goes_from_chat_to_gemini() {
    let own = json!({"generationConfig": {
        "temperature": 0.7, "maxOutputTokens": 1000, "stopSequences": ["END"], "responseMimeType": "application/json",
        "responseJsonSchema": schema(), "thinkingConfig": {"thinkingBudget": 1024}}});
    check_rich(Chat, Gemini, own, &["parallel_tool_calls"]);
}

#[test]
fn a_rich_conversation_goes_from_responses_to_chat() {
    let own = json!({
        "messages": rich_chat_messages(true), "user": "u1", "reasoning_effort": "low", "parallel_tool_calls": false,
        "stream": true, "stream_options": {"include_usage": true},
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema()}},
            {"type": "function", "function": {"name": "zoom"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "cat", "strict": true, "schema": schema()}},
    });
    check_rich(Responses, Chat, own, &[]);
}

#[test]
fn a_rich_conversation_goes_from_responses_to_messages() {
    let own = json!({
        "metadata": {"user_id": "u1"}, "stream": true,
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema()}},
    });
    check_rich(Responses, Messages, own, &[]);
}

#[test]
fn a_rich_conversation_goes_from_responses_to_gemini() {
    let own = json!({"generationConfig": {
        "temperature": 0.7, "maxOutputTokens": 1000, "responseMimeType": "application/json",
        "responseJsonSchema": schema(), "thinkingConfig": {"thinkingBudget": 1024}}});
    check_rich(Responses, Gemini, own, &["parallel_tool_calls"]);
}

#[test]
fn a_rich_conversation_goes_from_messages_to_chat() {
    let own = json!({
        "messages": rich_chat_messages(false), "user": "u1", "reasoning_effort": "low", "parallel_tool_calls": false,
        "stop": ["END"], "stream": true, "stream_options": {"include_usage": true},
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema()}},
            {"type": "function", "function": {"name": "zoom", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "response", "strict": true, "schema": schema()}},
    });
    check_rich(Messages, Chat, own, &[]);
}

/// The model's turn where the signature stands directly before the call.
fn signed_call() -> Json {
    json!([
        {"text": "Looking."}, {"text": "Hm.", "thought": true},
        {"functionCall": {"id": "call_a", "name": "look", "args": {"x": 1.0}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"id": "call_b", "name": "zoom", "args": {}}}])
}

#[test]
fn a_rich_conversation_goes_from_messages_to_gemini() {
    let mut contents = rich_provided(Gemini)["contents"].clone();
    contents[1]["parts"] = signed_call();
    let mut tools = rich_provided(Gemini)["tools"].clone();
    tools[0]["functionDeclarations"][1]["parametersJsonSchema"] = json!({"type": "object"});
    let own = json!({"contents": contents, "tools": tools, "generationConfig": {
        "temperature": 0.7, "maxOutputTokens": 1000, "stopSequences": ["END"], "responseMimeType": "application/json",
        "responseJsonSchema": schema(), "thinkingConfig": {"thinkingBudget": 1024}}});
    check_rich(Messages, Gemini, own, &["tool_choice.disable_parallel_tool_use"]);
}

#[test]
fn a_rich_conversation_goes_from_gemini_to_chat() {
    let text = rich_chat_messages(false).to_string().replace("call_a", "call_1").replace("call_b", "call_2");
    let messages: Json = serde_json::from_str(&text).unwrap();
    let own = json!({
        "messages": messages, "stop": ["END"],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema()}},
            {"type": "function", "function": {"name": "zoom"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "response", "strict": true, "schema": schema()}},
    });
    check_rich(Gemini, Chat, own, &[]);
}

#[test]
fn a_rich_conversation_goes_from_gemini_to_messages() {
    let text = rich_provided(Messages)["messages"].to_string().replace("call_a", "call_1").replace("call_b", "call_2");
    let mut messages: Json = serde_json::from_str(&text).unwrap();
    messages[1]["content"].as_array_mut().unwrap().swap(0, 1);
    let own = json!({
        "messages": messages, "stop_sequences": ["END"], "tool_choice": {"type": "tool", "name": "look"},
        "output_config": {"format": {"type": "json_schema", "schema": schema()}},
    });
    check_rich(Gemini, Messages, own, &[]);
}

#[test]
fn numbers_schemas_and_arguments_keep_their_spelling() {
    for (from, to) in PAIRS {
        let body = request(from, to, &rich(from), &TARGET).unwrap().body;
        assert_eq!(body.matches(SCHEMA).count(), 2, "{from:?} to {to:?}: {body}");
        assert!(body.contains("\":0.70"), "{from:?} to {to:?}: {body}");
        assert!(body.contains(r#"{"x": 1.0e0}"#) || body.contains(r#"{\"x\": 1.0e0}"#), "{from:?} to {to:?}: {body}");
        assert!(body.contains(r"\u00e9\n"), "{from:?} to {to:?}: {body}");
        assert!(body.contains("2.50"), "{from:?} to {to:?}: {body}");
    }
}

/// Every member of an object below `value`, as its JSON pointer. What is copied whole is not entered.
fn pointers(value: &Json, at: &str, found: &mut Vec<String>) {
    const OPAQUE: [&str; 9] = [
        "parameters",
        "schema",
        "input_schema",
        "parametersJsonSchema",
        "responseJsonSchema",
        "args",
        "response",
        "cache_control",
        "arguments",
    ];
    let children: Vec<(String, &Json)> = match value {
        Json::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Json::Array(array) => array.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => return,
    };
    for (key, child) in children {
        let here = format!("{at}/{key}");
        if value.is_object() {
            found.push(here.clone());
        }
        let is_input = key == "input" && !child.is_array();
        if !OPAQUE.contains(&&*key) && !is_input {
            pointers(child, &here, found);
        }
    }
}

#[test]
fn a_member_that_nobody_knows_is_reported_wherever_it_stands() {
    for (from, to) in PAIRS {
        let body: Json = serde_json::from_str(&rich(from)).unwrap();
        let (_, usual) = translated(from, to, &body.to_string(), &TARGET);
        let mut objects = Vec::new();
        pointers(&body, "", &mut objects);
        objects.retain(|pointer| body.pointer(pointer).unwrap().is_object());
        // Elements of arrays are objects too.
        let mut elements = Vec::new();
        pointers(&body, "", &mut elements);
        objects.extend(elements.iter().filter_map(|pointer| pointer.rsplit_once('/').map(|(parent, _)| parent.into())));
        objects.sort();
        objects.dedup();
        let opaque = [
            "parameters",
            "schema",
            "input_schema",
            "parametersJsonSchema",
            "responseJsonSchema",
            "args",
            "response",
            "cache_control",
            "input",
        ];
        for pointer in
            objects.iter().filter(|pointer| !opaque.iter().any(|name| pointer.ends_with(&format!("/{name}"))))
        {
            let mut strange = body.clone();
            strange.pointer_mut(pointer).unwrap()["x_unknown"] = json!({"y": 1});
            let (_, lost) = translated(from, to, &strange.to_string(), &TARGET);
            let path = format!("{pointer}/x_unknown")[1..].replace('/', ".");
            assert!(lost.contains(&path), "{from:?} to {to:?}: {path} is not in {lost:?}");
            assert_eq!(lost.len(), usual.len() + 1, "{from:?} to {to:?}: {lost:?}");
        }
    }
}

/// Members of the rich conversation that can be left out without any target's body or losses changing, each for a
/// reason that its decoder states.
const SILENT: [(Dialect, &[&str]); 4] = [
    (
        Chat,
        &[
            "messages.content.image_url.detail",
            "messages.reasoning_content",
            "messages.tool_calls.function.arguments",
            "messages.tool_calls.type",
            "model",
            "response_format.json_schema.name",
            "response_format.json_schema.strict",
            "stream",
            "stream_options",
            "stream_options.include_usage",
        ],
    ),
    (
        Responses,
        &[
            "include",
            "input.content.annotations",
            "input.content.detail",
            "input.id",
            "input.status",
            "input.summary.type",
            "input.type",
            "model",
            "store",
            "stream",
            "tools.parameters",
            "tools.strict",
        ],
    ),
    (Messages, &["model", "stream", "system.cache_control", "tools.cache_control"]),
    (Gemini, &["contents.role", "generationConfig.responseMimeType"]),
];

/// And those that only some targets have no use for.
const SILENT_FOR_SOME: [(Dialect, Dialect, &[&str]); 7] = [
    (Chat, Gemini, &["user"]),
    // Thoughts go back to nobody but who signed them.
    (Responses, Chat, &["input.encrypted_content", "input.summary"]),
    (Responses, Messages, &["text.format.name", "text.format.strict"]),
    (Responses, Gemini, &["text.format.name", "text.format.strict", "user"]),
    (Messages, Chat, &["messages.content.signature"]),
    (Messages, Gemini, &["metadata", "metadata.user_id"]),
    (Gemini, Chat, &["contents.parts.text", "contents.parts.thoughtSignature"]),
];

#[test]
fn members_that_make_no_difference_are_the_known_ones() {
    for (from, to) in PAIRS {
        let body: Json = serde_json::from_str(&rich(from)).unwrap();
        let usual = translated(from, to, &body.to_string(), &TARGET);
        let mut silent = std::collections::BTreeSet::new();
        let mut members = Vec::new();
        pointers(&body, "", &mut members);
        for pointer in members {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let mut without = body.clone();
            without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            let Ok(translated) = request(from, to, &without.to_string(), &TARGET) else { continue };
            let body: Json = serde_json::from_str(&translated.body).unwrap();
            if (body, translated.lost) == usual {
                let names = pointer[1..].split('/').filter(|step| step.parse::<usize>().is_err());
                silent.insert(names.collect::<Vec<_>>().join("."));
            }
        }
        let known = SILENT.iter().filter(|(client, _)| *client == from).flat_map(|(_, paths)| paths.iter());
        let some = SILENT_FOR_SOME.iter().filter(|(client, target, _)| (*client, *target) == (from, to));
        let known: std::collections::BTreeSet<_> =
            known.chain(some.flat_map(|(.., paths)| paths.iter())).map(|path| path.to_string()).collect();
        assert_eq!(silent, known, "{from:?} to {to:?}");
    }
}

#[test]
fn sampling_goes_where_it_is_known_and_is_reported_where_it_is_not() {
    let all = json!({"temperature": 1.5, "top_p": 0.9, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0,
        "n": 2, "logprobs": true, "top_logprobs": 3, "logit_bias": {"1": 2}, "stop": ["a", " "]});
    check(
        Chat,
        Messages,
        chat(all.clone()),
        json!({"temperature": null, "top_p": 0.9, "stop_sequences": ["a"], "max_tokens": 4096}),
        &["logit_bias", "logprobs", "n", "presence_penalty", "seed", "stop.1", "temperature", "top_logprobs"],
    );
    check(
        Chat,
        Gemini,
        chat(all),
        json!({"generationConfig": {"temperature": 1.5, "topP": 0.9, "seed": 7, "presencePenalty": 0.5,
            "frequencyPenalty": 0, "stopSequences": ["a", " "]}}),
        &["logit_bias", "logprobs", "n", "top_logprobs"],
    );
    check(
        Chat,
        Messages,
        chat(json!({"n": 1, "logprobs": false, "top_p": 1, "seed": null})),
        json!({"top_p": null}),
        &[],
    );
    check(Messages, Chat, messages(json!({"top_k": 5})), json!({"max_completion_tokens": 100}), &["top_k"]);
    check(
        Gemini,
        Messages,
        gemini(json!({"generationConfig": {"topK": 5, "candidateCount": 2}})),
        json!({"top_k": 5}),
        &["generationConfig.candidateCount"],
    );
}

#[test]
fn the_answers_limit_is_the_lesser_of_what_is_asked_and_what_the_model_can() {
    let limited = Target { max_output_tokens: Some(50), ..TARGET };
    for (asked, limit) in [(json!({"max_tokens": 40}), 40), (json!({"max_completion_tokens": 60}), 50), (json!({}), 50)]
    {
        let (body, lost) = translated(Chat, Messages, &chat(asked).to_string(), &limited);
        assert_eq!((body["max_tokens"].as_u64(), lost.len()), (Some(limit), 0));
    }
    let (body, _) = translated(Messages, Gemini, &messages(json!({})).to_string(), &limited);
    assert_eq!(body["generationConfig"]["maxOutputTokens"], 50);
    check(
        Chat,
        Messages,
        chat(json!({"max_tokens": 10, "max_completion_tokens": 20})),
        json!({"max_tokens": 20}),
        &["max_tokens"],
    );
}

#[test]
fn effort_and_thinking_budgets_are_one_scale() {
    for (effort, budget, anthropic) in [
        ("minimal", 1024, "low"),
        ("low", 1024, "low"),
        ("medium", 8192, "medium"),
        ("high", 24576, "high"),
        ("xhigh", 24576, "xhigh"),
        ("max", 24576, "max"),
    ] {
        let asked = chat(json!({"reasoning_effort": effort}));
        check(
            Chat,
            Gemini,
            asked.clone(),
            json!({"generationConfig": {"thinkingConfig": {"thinkingBudget": budget}}}),
            &[],
        );
        check(Chat, Messages, asked, json!({"output_config": {"effort": anthropic}, "thinking": null}), &[]);
    }
    for (budget, effort) in [(1024, "low"), (2048, "low"), (4000, "medium"), (8192, "medium"), (9000, "high")] {
        let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": budget}});
        check(Messages, Chat, messages(thinking.clone()), json!({"reasoning_effort": effort}), &[]);
        check(
            Messages,
            Gemini,
            messages(thinking),
            json!({"generationConfig": {"maxOutputTokens": 100, "thinkingConfig": {"thinkingBudget": budget, "includeThoughts": true}}}),
            &[],
        );
    }
    let config = |config: Json| gemini(json!({"generationConfig": {"thinkingConfig": config}}));
    check(Gemini, Chat, config(json!({"thinkingBudget": 0})), json!({"reasoning_effort": "none"}), &[]);
    check(Gemini, Chat, config(json!({"thinkingBudget": -1})), json!({"reasoning_effort": null}), &[]);
    check(Gemini, Chat, config(json!({"thinkingLevel": "HIGH"})), json!({"reasoning_effort": "high"}), &[]);
    check(Gemini, Messages, config(json!({"thinkingBudget": 0})), json!({"thinking": {"type": "disabled"}}), &[]);
    check(
        Gemini,
        Messages,
        config(json!({"thinkingBudget": 500})),
        json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 5120}),
        &[],
    );
    check(Chat, Messages, chat(json!({"reasoning_effort": "none"})), json!({"thinking": {"type": "disabled"}}), &[]);
    check(
        Chat,
        Gemini,
        chat(json!({"reasoning_effort": "huge"})),
        json!({"generationConfig": null}),
        &["reasoning_effort"],
    );
    let adaptive = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}});
    check(Messages, Chat, messages(adaptive.clone()), json!({"reasoning_effort": "high"}), &[]);
    check(
        Messages,
        Gemini,
        messages(adaptive),
        json!({"generationConfig": {"maxOutputTokens": 100, "thinkingConfig": {"thinkingBudget": 24576, "includeThoughts": true}}}),
        &[],
    );
    check(
        Responses,
        Gemini,
        responses(json!({"reasoning": {"effort": "low", "summary": "auto", "mode": "pro"}})),
        json!({"generationConfig": {"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": true}}}),
        &["reasoning.mode"],
    );
}

#[test]
fn what_anthropic_does_not_combine_with_thinking_is_reported() {
    let config = json!({"thinkingConfig": {"thinkingBudget": 2000}, "temperature": 0.5, "topK": 3, "topP": 0.5,
        "maxOutputTokens": 1500});
    check(
        Gemini,
        Messages,
        gemini(json!({"generationConfig": config})),
        json!({"thinking": {"type": "enabled", "budget_tokens": 1499}, "max_tokens": 1500, "temperature": null, "top_k": null}),
        &["generationConfig.temperature", "generationConfig.topK", "generationConfig.topP"],
    );
    check(
        Gemini,
        Messages,
        gemini(json!({"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}, "maxOutputTokens": 1000}})),
        json!({"thinking": null}),
        &["generationConfig.thinkingConfig.thinkingBudget"],
    );
    check(
        Gemini,
        Messages,
        gemini(json!({"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}},
            "tools": [{"functionDeclarations": [{"name": "f"}]}], "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}})),
        json!({"thinking": null, "tool_choice": {"type": "any"}}),
        &["generationConfig.thinkingConfig.thinkingBudget"],
    );
}

#[test]
fn tool_choices_have_a_word_in_each_dialect() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let declared = json!([{"functionDeclarations": [{"name": "f"}]}]);
    for (chat_choice, messages_choice, gemini_choice) in [
        (json!("auto"), json!({"type": "auto"}), json!({"mode": "AUTO"})),
        (json!("none"), json!({"type": "none"}), json!({"mode": "NONE"})),
        (json!("required"), json!({"type": "any"}), json!({"mode": "ANY"})),
        (
            json!({"type": "function", "function": {"name": "f"}}),
            json!({"type": "tool", "name": "f"}),
            json!({"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ),
    ] {
        let asked = chat(json!({"tools": tools, "tool_choice": chat_choice}));
        check(Chat, Messages, asked.clone(), json!({"tool_choice": messages_choice}), &[]);
        check(Chat, Gemini, asked, json!({"toolConfig": {"functionCallingConfig": gemini_choice}}), &[]);
        let asked = messages(json!({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": messages_choice}));
        check(Messages, Chat, asked, json!({"tool_choice": chat_choice}), &[]);
        let asked = gemini(json!({"tools": declared, "toolConfig": {"functionCallingConfig": gemini_choice}}));
        check(Gemini, Chat, asked, json!({"tool_choice": chat_choice}), &[]);
    }
    check(
        Chat,
        Messages,
        chat(json!({"tools": tools, "parallel_tool_calls": false})),
        json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}}),
        &[],
    );
    check(
        Gemini,
        Chat,
        gemini(
            json!({"tools": declared, "tool_config": {"function_calling_config": {"mode": "VALIDATED", "allowed_function_names": ["f", "g"]}}}),
        ),
        json!({"tool_choice": "auto"}),
        &["tool_config.function_calling_config.allowed_function_names", "tool_config.function_calling_config.mode"],
    );
    check(Chat, Messages, chat(json!({"tool_choice": "required"})), json!({"tool_choice": null}), &["tool_choice"]);
}

#[test]
fn tools_of_providers_own_are_reported() {
    let tools = json!([{"type": "custom", "custom": {"name": "c"}}, {"type": "function", "function": {"name": "f", "strict": true}}]);
    check(
        Chat,
        Gemini,
        chat(json!({"tools": tools, "functions": [{"name": "g"}], "web_search_options": {}})),
        json!({"tools": [{"functionDeclarations": [{"name": "f"}]}]}),
        &["functions", "tools.0", "tools.1.function.strict", "web_search_options"],
    );
    check(
        Chat,
        Messages,
        chat(json!({"tools": tools})),
        json!({"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "strict": true}]}),
        &["tools.0"],
    );
    check(
        Messages,
        Chat,
        messages(
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"},
            "container": "c", "context_management": {"edits": []}, "speed": "fast"}),
        ),
        json!({"tools": null, "tool_choice": null, "parallel_tool_calls": null}),
        &["container", "context_management", "speed", "tool_choice", "tools.0"],
    );
    check(
        Responses,
        Messages,
        responses(
            json!({"tools": [{"type": "web_search"}], "max_tool_calls": 3, "truncation": "auto", "background": true,
            "include": ["message.output_text.logprobs"], "service_tier": "flex", "text": {"verbosity": "low"}, "store": true}),
        ),
        json!({"tools": null}),
        &[
            "background",
            "include.0",
            "max_tool_calls",
            "service_tier",
            "store",
            "text.verbosity",
            "tools.0",
            "truncation",
        ],
    );
    check(
        Gemini,
        Chat,
        gemini(json!({"tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f", "response": {}}]}],
            "safetySettings": [], "generationConfig": {"speechConfig": {}, "responseModalities": ["TEXT"]}})),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
        &[
            "generationConfig.speechConfig",
            "safetySettings",
            "tools.0.googleSearch",
            "tools.1.functionDeclarations.0.response",
        ],
    );
}

#[test]
fn forms_of_the_answer_are_translated() {
    check(
        Chat,
        Gemini,
        chat(json!({"response_format": {"type": "json_object"}})),
        json!({"generationConfig": {"responseMimeType": "application/json"}}),
        &[],
    );
    check(
        Chat,
        Messages,
        chat(json!({"response_format": {"type": "json_object"}})),
        json!({"output_config": null}),
        &["response_format"],
    );
    check(Chat, Messages, chat(json!({"response_format": {"type": "text"}})), json!({"output_config": null}), &[]);
    let described =
        json!({"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}}});
    check(
        Chat,
        Messages,
        chat(json!({"response_format": described})),
        json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
        &[],
    );
    check(
        Gemini,
        Chat,
        gemini(json!({"generationConfig": {"response_mime_type": "application/json",
            "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "propertyOrdering": ["a"]}}})),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "response",
            "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
        &[],
    );
    check(
        Gemini,
        Chat,
        gemini(json!({"generationConfig": {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING"}}})),
        json!({"response_format": null}),
        &["generationConfig.responseMimeType", "generationConfig.responseSchema"],
    );
    check(
        Messages,
        Chat,
        messages(json!({"output_format": {"type": "json_schema", "schema": {"type": "object"}}})),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}}}),
        &[],
    );
}

fn chat_part(part: Json) -> Json {
    chat(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}, part]}]}))
}

fn messages_block(block: Json) -> Json {
    messages(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}, block]}]}))
}

fn gemini_part(part: Json) -> Json {
    gemini(json!({"contents": [{"role": "user", "parts": [{"text": "t"}, part]}]}))
}

#[test]
fn images_files_and_sounds_are_translated() {
    let text = json!({"type": "text", "text": "t"});
    let to_messages = |block: Json| json!({"messages": [{"role": "user", "content": [text, block]}]});
    let to_chat = to_messages;
    let to_gemini = |part: Json| json!({"contents": [{"role": "user", "parts": [{"text": "t"}, part]}]});
    let linked = json!({"type": "image_url", "image_url": {"url": "https://a/b.png?x=1"}});
    let linked_block = json!({"type": "image", "source": {"type": "url", "url": "https://a/b.png?x=1"}});
    let linked_part = json!({"fileData": {"mimeType": "image/png", "fileUri": "https://a/b.png?x=1"}});
    check(Chat, Messages, chat_part(linked.clone()), to_messages(linked_block.clone()), &[]);
    check(Chat, Gemini, chat_part(linked.clone()), to_gemini(linked_part.clone()), &[]);
    check(Messages, Chat, messages_block(linked_block), to_chat(linked.clone()), &[]);
    check(Gemini, Chat, gemini_part(linked_part), to_chat(linked), &[]);

    let file = json!({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}});
    let document = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}, "title": "a.pdf"});
    check(Chat, Messages, chat_part(file.clone()), to_messages(document.clone()), &[]);
    check(Messages, Chat, messages_block(document), to_chat(file.clone()), &[]);
    check(
        Chat,
        Gemini,
        chat_part(file),
        to_gemini(json!({"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}})),
        &[],
    );

    let sound = json!({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}});
    let sound_part = json!({"inlineData": {"mimeType": "audio/wav", "data": "UklG"}});
    check(Chat, Gemini, chat_part(sound.clone()), to_gemini(sound_part.clone()), &[]);
    check(Gemini, Chat, gemini_part(sound_part), to_chat(sound.clone()), &[]);
    check(
        Chat,
        Messages,
        chat_part(sound),
        json!({"messages": [{"role": "user", "content": [text]}]}),
        &["messages.0.content.1.input_audio"],
    );

    let detailed = json!({"type": "image_url", "image_url": {"url": "https://a/b", "detail": "high"}});
    check(
        Chat,
        Gemini,
        chat_part(detailed),
        to_gemini(json!({"fileData": {"fileUri": "https://a/b"}})),
        &["messages.0.content.1.image_url.detail"],
    );
    check(
        Responses,
        Chat,
        responses(json!({"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "https://a/b", "detail": "low"}]}]})),
        to_chat(json!({"type": "image_url", "image_url": {"url": "https://a/b", "detail": "low"}})),
        &[],
    );
}

#[test]
fn content_that_only_its_provider_can_read_is_reported() {
    let alone = json!({"messages": [{"role": "user", "content": "t"}]});
    check(
        Chat,
        Messages,
        chat_part(json!({"type": "file", "file": {"file_id": "file-1"}})),
        alone.clone(),
        &["messages.0.content.1.file.file_id"],
    );
    check(
        Messages,
        Chat,
        messages_block(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
        alone.clone(),
        &["messages.0.content.1.source"],
    );
    check(
        Gemini,
        Messages,
        gemini_part(json!({"fileData": {"fileUri": "gs://a/b.png", "mimeType": "image/png"}})),
        alone.clone(),
        &["contents.0.parts.1.fileData"],
    );
    check(Chat, Messages, chat_part(json!({"type": "hologram"})), alone.clone(), &["messages.0.content.1"]);
    check(
        Messages,
        Gemini,
        messages_block(json!({"type": "document", "title": "T", "citations": {"enabled": true},
            "source": {"type": "text", "media_type": "text/plain", "data": "plain"}})),
        json!({"contents": [{"role": "user", "parts": [{"text": "t"}, {"text": "plain"}]}]}),
        &["messages.0.content.1.citations", "messages.0.content.1.title"],
    );
}

#[test]
fn what_a_tool_shows_beside_text_follows_in_the_users_turn() {
    let body = messages(json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
            {"type": "text", "text": "seen"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}]}]}]}));
    check(
        Messages,
        Chat,
        body.clone(),
        json!({"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "seen"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}),
        &["messages.2.content.0.is_error"],
    );
    check(
        Messages,
        Gemini,
        body,
        json!({"contents": [
            {"role": "user", "parts": [{"text": "go"}]},
            {"role": "model", "parts": [{"functionCall": {"id": "t1", "name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "t1", "name": "f", "response": {"error": "seen"}}}]},
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA"}}]}]}),
        &[],
    );
}

fn called(call: Json) -> Json {
    let id = call["id"].clone();
    chat(json!({"messages": [
        {"role": "user", "content": "go"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}))
}

#[test]
fn an_id_that_the_target_does_not_take_is_numbered() {
    let call = json!({"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": " "}});
    check(
        Chat,
        Messages,
        called(call),
        json!({"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}]}),
        &[],
    );
}

#[test]
fn googles_signature_of_a_call_comes_back_to_google_and_goes_nowhere_else() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "c2ln"}}});
    let (body, lost) = translated(Chat, Gemini, &called(call.clone()).to_string(), &TARGET);
    assert_eq!(body["contents"][1]["parts"][0]["thoughtSignature"], "c2ln");
    assert!(lost.is_empty());
    let (body, lost) = translated(Chat, Messages, &called(call).to_string(), &TARGET);
    assert!(!body.to_string().contains("c2ln") && lost.is_empty());
    let google = Target { model: "google/gemini-3-pro", ..TARGET };
    let (body, _) = translated(Gemini, Chat, &rich(Gemini), &google);
    assert_eq!(body["messages"][2]["tool_calls"][0]["extra_content"], json!({"google": {"thought_signature": "c2ln"}}));
    let claude = Target { model: "anthropic/claude-x", ..TARGET };
    let (body, _) = translated(Messages, Chat, &rich(Messages), &claude);
    assert_eq!(
        body["messages"][2]["thinking_blocks"],
        json!([{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}])
    );
}

#[test]
fn a_foreign_call_is_excused_to_models_that_demand_a_signature() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    for (model, signature) in [
        ("gemini-3-pro-preview", json!("skip_thought_signature_validator")),
        ("models/gemini-3.8-flash", json!("skip_thought_signature_validator")),
        ("gemini-2.5-pro", Json::Null),
        ("gemini-flash-latest", Json::Null),
    ] {
        let (body, _) = translated(Chat, Gemini, &called(call.clone()).to_string(), &Target { model, ..TARGET });
        assert_eq!(body["contents"][1]["parts"][0]["thoughtSignature"], signature, "{model}");
    }
}

#[test]
fn sealed_reasoning_goes_back_to_who_sealed_it() {
    let item = |sealed: &str| {
        responses(json!({"input": [
            {"role": "user", "content": "go"}, {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": sealed},
            {"role": "assistant", "content": "ok"}]}))
    };
    let thought = |block: Json| json!({"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": [block, {"type": "text", "text": "ok"}]}]});
    check(Responses, Messages, item("redacted:abc"), thought(json!({"type": "redacted_thinking", "data": "abc"})), &[]);
    check(
        Responses,
        Messages,
        item("c2ln"),
        thought(json!({"type": "thinking", "thinking": "", "signature": "c2ln"})),
        &[],
    );
    check(
        Responses,
        Messages,
        item("gAAAAABo"),
        json!({"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "ok"}]}),
        &[],
    );
}

#[test]
fn advice_on_caching_passes_between_chat_and_messages() {
    let cache = json!({"type": "ephemeral", "ttl": "1h"});
    check(
        Chat,
        Messages,
        json!({"messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": cache}]},
            {"role": "user", "content": "u", "cache_control": cache}],
            "tools": [{"type": "function", "function": {"name": "f"}, "cache_control": cache}]}),
        json!({
            "system": [{"type": "text", "text": "s", "cache_control": cache}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "u", "cache_control": cache}]}],
            "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "cache_control": cache}]}),
        &[],
    );
}

#[test]
fn texts_that_say_nothing_are_not_sent_to_anthropic() {
    check(
        Chat,
        Messages,
        chat(json!({"messages": [
            {"role": "system", "content": " "}, {"role": "user", "content": "u"}, {"role": "assistant", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "\n"}, {"type": "text", "text": "v"}]}]})),
        json!({"system": null, "messages": [
            {"role": "user", "content": "u"}, {"role": "user", "content": [{"type": "text", "text": "v"}]}]}),
        &[],
    );
}

#[test]
fn googles_calls_without_ids_are_matched_by_name_and_order() {
    let call = |name: &str| json!({"function_call": {"name": name}});
    let result = |name: &str, n: u8| json!({"function_response": {"name": name, "response": {"output": n}}});
    let body = json!({"contents": [
        {"parts": [{"text": "go"}]}, {"role": "model", "parts": [call("f"), call("g"), call("f")]},
        {"role": "function", "parts": [result("f", 1), result("f", 2), result("g", 3)]},
        {"role": "model", "parts": [{"functionCall": {"id": "call_1", "name": "f"}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "call_1", "name": "f", "response": {"error": "e"}}}]}]});
    let (body, lost) = translated(Gemini, Messages, &body.to_string(), &TARGET);
    assert!(lost.is_empty());
    let ids = |content: &Json, member: &str| -> Vec<String> {
        content["content"].as_array().unwrap().iter().map(|block| block[member].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&body["messages"][1], "id"), ["call_2", "call_3", "call_4"]);
    assert_eq!(ids(&body["messages"][2], "tool_use_id"), ["call_2", "call_4", "call_3"]);
    assert_eq!(body["messages"][2]["content"][1]["content"], "2");
    let failed =
        json!({"type": "tool_result", "tool_use_id": "call_1", "content": "{\"error\":\"e\"}", "is_error": true});
    assert_eq!(body["messages"][4]["content"][0], failed);
}

#[test]
fn what_the_model_said_in_several_items_is_one_turn_and_another_message_is_another() {
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "r"});
    let said = |text: &str| json!({"role": "assistant", "content": text});
    let calling = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    check(
        Responses,
        Chat,
        responses(json!({"input": [{"role": "user", "content": "go"}, said("A"), said("B"), call("1"), call("2"),
            result("2"), result("1"), {"role": "user", "content": "on"}]})),
        json!({"messages": [
            {"role": "user", "content": "go"}, {"role": "assistant", "content": "A"},
            {"role": "assistant", "content": "B", "tool_calls": [calling("1"), calling("2")]},
            {"role": "tool", "tool_call_id": "2", "content": "r"}, {"role": "tool", "tool_call_id": "1", "content": "r"},
            {"role": "user", "content": "on"}]}),
        &[],
    );
}

#[test]
fn results_come_before_what_the_user_says_with_them() {
    let block = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {}});
    let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "r"});
    let text = json!({"type": "text", "text": "t"});
    let body = messages(json!({"messages": [
        {"role": "user", "content": "go"}, {"role": "assistant", "content": [block("a"), block("b")]},
        {"role": "user", "content": [text, result("a")]}, {"role": "user", "content": [result("b")]}]}));
    let (body, _) = translated(Messages, Chat, &body.to_string(), &TARGET);
    let roles: Vec<_> = body["messages"].as_array().unwrap().iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
}

#[test]
fn what_cannot_be_sent_at_all_is_refused_with_its_place() {
    let field = |from, to, body| refused(from, to, body).0;
    assert_eq!(field(Chat, Messages, json!({"model": "x"})), "messages");
    assert_eq!(field(Chat, Messages, chat(json!({"messages": {}}))), "messages");
    assert_eq!(field(Chat, Messages, chat(json!({"messages": [1]}))), "messages");
    assert_eq!(field(Chat, Messages, chat(json!({"messages": [{"role": "system", "content": "s"}]}))), "messages");
    assert_eq!(field(Chat, Gemini, chat(json!({"messages": [{"role": "user", "content": " "}]}))), "messages");
    assert_eq!(field(Chat, Gemini, chat(json!({"messages": [{"role": "king", "content": "s"}]}))), "messages.0.role");
    assert_eq!(field(Chat, Gemini, chat(json!({"temperature": "hot"}))), "temperature");
    assert_eq!(
        field(Chat, Gemini, chat(json!({"tools": [{"type": "function", "function": {}}]}))),
        "tools.0.function.name"
    );
    let orphan = chat(json!({"messages": [{"role": "tool", "tool_call_id": "c", "content": "r"}]}));
    assert_eq!(field(Chat, Gemini, orphan), "messages.0");
    let broken = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":"}});
    assert_eq!(field(Chat, Messages, called(broken)), "messages.1.tool_calls.0");
    assert_eq!(field(Responses, Chat, responses(json!({"previous_response_id": "r"}))), "previous_response_id");
    assert_eq!(field(Responses, Chat, responses(json!({"input": [{"type": "item_reference", "id": "i"}]}))), "input.0");
    assert_eq!(field(Gemini, Chat, gemini(json!({"cachedContent": "c"}))), "cachedContent");
    assert_eq!(field(Messages, Gemini, messages(json!({"thinking": {"type": "enabled"}}))), "thinking.budget_tokens");
    assert_eq!(refused(Chat, Messages, chat(json!({"n": "x", "stop": 1}))).1, "is not an array");
    assert!(request(Chat, Messages, "{", &TARGET).is_err());
    assert!(request(Dialect::Embeddings, Chat, "{}", &TARGET).is_err());
    assert!(request(Chat, Responses, "{\"messages\":[]}", &TARGET).is_err());
}

/// Names and words that decoders look for, so that made bodies get past their first checks.
const WORDS: [&str; 40] = [
    "messages",
    "role",
    "content",
    "type",
    "text",
    "user",
    "assistant",
    "tool",
    "tool_calls",
    "function",
    "name",
    "id",
    "arguments",
    "input",
    "parts",
    "contents",
    "model",
    "thinking",
    "signature",
    "tool_use",
    "tool_result",
    "source",
    "image",
    "image_url",
    "url",
    "data",
    "functionCall",
    "functionResponse",
    "response",
    "tools",
    "output",
    "call_id",
    "function_call",
    "reasoning",
    "summary",
    "encrypted_content",
    "system",
    "{}",
    "data:image/png;base64,AA",
    "\"\\\n",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(&WORDS[..]).prop_map(str::to_owned), "\\PC{0,8}"]
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word().prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::vec((word(), inner), 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// What holds for every body: a translation is one JSON object, and what is lost has a name.
fn check_any(from: Dialect, to: Dialect, body: &str) -> Result<(), TestCaseError> {
    if let Ok(translated) = request(from, to, body, &Target { model: "gemini-3 \"claude\"", ..TARGET }) {
        let json: Json =
            serde_json::from_str(&translated.body).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(json.is_object());
        prop_assert!(translated.lost.is_sorted_by(|a, b| a != b));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_body_makes_a_translation_panic(body in any_json(), pair in 0..PAIRS.len()) {
        let (from, to) = PAIRS[pair];
        check_any(from, to, &body.to_string())?;
    }

    #[test]
    fn no_change_to_a_good_body_makes_a_translation_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any_json(), any::<bool>()), 1..4),
        pair in 0..PAIRS.len(),
    ) {
        let (from, to) = PAIRS[pair];
        let mut body: Json = serde_json::from_str(&rich(from)).unwrap();
        for (place, value, removes) in changes {
            let mut members = Vec::new();
            pointers(&body, "", &mut members);
            if members.is_empty() {
                break;
            }
            let (parent, key) = place.get(&members).rsplit_once('/').unwrap();
            let Some(object) = body.pointer_mut(parent).and_then(Json::as_object_mut) else { continue };
            match removes {
                true => drop(object.remove(key)),
                false => drop(object.insert(key.to_owned(), value)),
            }
        }
        check_any(from, to, &body.to_string())?;
    }

    #[test]
    fn no_text_makes_a_translation_panic(text in "\\PC{0,64}", at in 0..2000usize, pair in 0..PAIRS.len()) {
        let (from, to) = PAIRS[pair];
        let mut body = rich(from);
        let at = (0..=at.min(body.len())).rev().find(|at| body.is_char_boundary(*at)).unwrap_or(0);
        body.insert_str(at, &text);
        check_any(from, to, &body)?;
        body.truncate(at);
        check_any(from, to, &body)?;
    }
}
