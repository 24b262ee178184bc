//! What each dialect says when nothing goes wrong, and how it words a refusal.

use crate::client::{DIALECTS, Dialect, start, start_with};
use serde_json::{Value, json};
use sluice_bench::mock::Script;

const CALLS: &str = r#"{"reasoning": "let me think", "tool_calls": [{"name": "find", "arguments": "{\"q\": 1}"}, {"name": "get", "arguments": "echo"}]}"#;

#[tokio::test]
async fn every_dialect_answers_the_last_user_text_plain_and_streamed() {
    let mock = start().await;
    for dialect in DIALECTS {
        let plain = mock.ask(dialect, false, "{}", "né wörld\nagain").await;
        assert_eq!(dialect.text(&plain.json()), "né wörld\nagain", "{dialect:?}");
        let streamed = mock.ask(dialect, true, r#"{"split": 1}"#, "né wörld\nagain").await;
        assert!(streamed.ended && dialect.is_complete(&streamed.text()), "{dialect:?}: {}", streamed.text());
        assert_eq!(dialect.texts(&streamed.text()), "né wörld\nagain", "{dialect:?}");
    }
}

#[tokio::test]
async fn a_message_of_anthropic_has_its_stop_reason_and_usage() {
    let mock = start().await;
    let answer = mock.ask(Dialect::Messages, false, r#"{"tokens": 2}"#, "one two three").await;
    assert!(answer.header("request-id").starts_with("req_"));
    let mut body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(body["usage"]["output_tokens"], 2);
    body["id"] = Value::Null;
    body["usage"] = Value::Null;
    assert_eq!(
        body,
        json!({
            "id": null, "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": "one two"}],
            "stop_reason": "max_tokens", "stop_sequence": null, "usage": null,
        })
    );
    let count = mock.post("/v1/messages/count_tokens", "{}", json!({"messages": []})).await;
    assert_eq!(count.json(), json!({"input_tokens": 1}));
}

#[tokio::test]
async fn a_stream_of_anthropic_has_balanced_blocks_of_dense_indexes() {
    let mock = start().await;
    let text = mock.ask(Dialect::Messages, true, CALLS, "x").await.text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let documents = Dialect::Messages.documents(&text);
    let all = |kind: &str| documents.iter().filter(|json| json["type"] == kind).collect::<Vec<_>>();
    let kinds: Vec<&Value> = all("content_block_start").iter().map(|json| &json["content_block"]["type"]).collect();
    assert_eq!(kinds, ["thinking", "tool_use", "tool_use"]);
    let stopped: Vec<u64> = all("content_block_stop").iter().map(|json| json["index"].as_u64().unwrap()).collect();
    assert_eq!(stopped, [0, 1, 2]);
    assert!(text.contains(r#""delta":{"type":"signature_delta","signature":"sig-mock"}"#));
    let arguments = |index: u64| -> String {
        let deltas = all("content_block_delta").into_iter().filter(|json| json["index"] == index);
        deltas.map(|json| json["delta"]["partial_json"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((arguments(1).as_str(), arguments(2).as_str()), (r#"{"q": 1}"#, r#"{"text":"x"}"#));
    assert_eq!(all("message_delta")[0]["delta"]["stop_reason"], "tool_use");
}

#[tokio::test]
async fn thoughts_and_parallel_calls_have_their_place_in_every_plain_answer() {
    let mock = start().await;
    let ask = async |dialect| mock.ask(dialect, false, CALLS, "x").await.json();
    let chat = ask(Dialect::Chat).await;
    let message = &chat["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "let me think");
    assert_eq!(message["tool_calls"][1]["function"], json!({"name": "get", "arguments": r#"{"text":"x"}"#}));
    assert_ne!(message["tool_calls"][0]["id"], message["tool_calls"][1]["id"]);
    assert_eq!(chat["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);

    let messages = ask(Dialect::Messages).await;
    assert_eq!(
        messages["content"][0],
        json!({"type": "thinking", "thinking": "let me think", "signature": "sig-mock"})
    );
    assert_eq!(messages["content"][2]["input"], json!({"text": "x"}));

    let gemini = ask(Dialect::Gemini).await;
    assert_eq!(
        gemini["candidates"][0]["content"]["parts"],
        json!([
            {"text": "let me think", "thought": true},
            {"functionCall": {"name": "find", "args": {"q": 1}}, "thoughtSignature": "sig-mock"},
            {"functionCall": {"name": "get", "args": {"text": "x"}}},
        ])
    );
    assert_eq!(gemini["usageMetadata"]["thoughtsTokenCount"], 3);

    let responses = ask(Dialect::Responses).await;
    let kinds: Vec<&Value> = responses["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "function_call", "function_call"]);
    assert_eq!(responses["output"][0]["summary"][0]["text"], "let me think");
    assert_eq!(responses["output"][0]["encrypted_content"], Value::Null);
    assert_eq!(responses["output"][2]["arguments"], r#"{"text":"x"}"#);
}

#[tokio::test]
async fn a_chat_streams_its_thoughts_before_its_calls_and_numbers_the_calls() {
    let mock = start().await;
    let answer = mock.ask(Dialect::Chat, true, CALLS, "x").await;
    assert_eq!(answer.deltas("reasoning_content"), ["let", " me", " think"]);
    let calls = answer.deltas_of("tool_calls");
    let indexes: Vec<u64> = calls.iter().map(|call| call[0]["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 0, 0, 1, 1]);
}

#[tokio::test]
async fn the_events_of_a_response_are_numbered_and_end_with_the_whole_response() {
    let mock = start().await;
    for script in ["{}", CALLS, r#"{"tokens": 1}"#] {
        let text = mock.ask(Dialect::Responses, true, script, "one two").await.text();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        let documents = Dialect::Responses.documents(&text);
        for (number, (name, json)) in names.iter().zip(&documents).enumerate() {
            assert_eq!((&json["type"], &json["sequence_number"]), (&json!(name), &json!(number)));
        }
        let mut plain = mock.ask(Dialect::Responses, false, script, "one two").await.json();
        let mut last = documents.last().unwrap()["response"].clone();
        let done: Vec<Value> = documents
            .iter()
            .filter(|json| json["type"] == "response.output_item.done")
            .map(|json| json["item"].clone())
            .collect();
        assert_eq!(last["output"], json!(done));
        assert_eq!(last["status"] == "incomplete", names.last() == Some(&"response.incomplete"));
        for response in [&mut plain, &mut last] {
            response["id"] = Value::Null;
            response["created_at"] = Value::Null;
            response["output"] = Value::Null;
        }
        assert_eq!(plain, last);
    }
}

#[tokio::test]
async fn gemini_counts_and_lists_and_streams_without_a_signature_nobody_earned() {
    let mock = start().await;
    let models = mock.request("GET", "/v1beta/models", "", "").await.json();
    assert!(models["models"][0]["name"].as_str().unwrap().starts_with("models/"));
    let count = mock.post("/v1beta/models/g:countTokens", "{}", Dialect::Gemini.request(false, "abcd")).await.json();
    assert_eq!(count["totalTokens"], count["promptTokensDetails"][0]["tokenCount"]);
    let streamed = mock.ask(Dialect::GeminiArray, true, r#"{"reasoning": "hm"}"#, "one two").await;
    assert_eq!(streamed.header("content-type"), "application/json");
    let documents = Dialect::GeminiArray.documents(&streamed.text());
    let part = |index: usize| &documents[index]["candidates"][0]["content"]["parts"][0];
    assert_eq!(documents.len(), 4);
    assert_eq!(part(0), &json!({"text": "hm", "thought": true}));
    assert_eq!(part(3), &json!({"text": "", "thoughtSignature": "sig-mock"}));
    assert_eq!(documents[3]["usageMetadata"]["candidatesTokenCount"], 2);
    assert_eq!(documents[3]["modelVersion"], "gemini-2.5-pro");
    assert!(!mock.ask(Dialect::Gemini, true, "{}", "x").await.text().contains("thoughtSignature"));
}

#[tokio::test]
async fn azure_names_the_model_in_the_path_and_asks_for_a_version() {
    let mock = start().await;
    let request = json!({"messages": [{"role": "user", "content": "hi"}]});
    let path = "/openai/deployments/dep-1/chat/completions";
    let answer = mock.post(&format!("{path}?api-version=2024-10-21"), "{}", request.clone()).await;
    assert_eq!(answer.content(), "hi");
    assert_eq!(answer.json()["model"], "dep-1");
    assert_eq!(mock.post(path, "{}", request).await.status, 404);
    let embed = "/openai/deployments/e/embeddings?api-version=1";
    assert_eq!(mock.post(embed, "{}", json!({"input": "a"})).await.json()["model"], "e");
}

#[tokio::test]
async fn an_echo_holds_instructions_and_tool_results_and_the_last_text_is_not_a_result() {
    let mock = start().await;
    let messages = json!({
        "system": [{"type": "text", "text": "S"}],
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "RES"}]},
            ]},
        ],
    });
    let responses = json!({
        "instructions": "S",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "RES"},
        ],
    });
    let gemini = json!({
        "systemInstruction": {"parts": [{"text": "S"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "u"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"result": "RES"}}}]},
        ],
    });
    let cases = [
        (Dialect::Messages, messages, "S\nu\nRES"),
        (Dialect::Responses, responses, "S\nu\nRES"),
        (Dialect::Gemini, gemini, "S\nu\n{\"result\":\"RES\"}"),
    ];
    for (dialect, request, echo) in cases {
        let ask = async |script: &str| mock.post(dialect.path(false), script, request.clone()).await.json();
        assert_eq!(dialect.text(&ask(r#"{"reply": "echo"}"#).await), echo, "{dialect:?}");
        assert_eq!(dialect.text(&ask("{}").await), "u", "{dialect:?}");
    }
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_its_dialect() {
    let mock = start_with(Script { expected_authorization: Some("right".to_owned()), ..Script::default() }).await;
    let ask = async |dialect: Dialect, script: &str, credential: &str| {
        let headers = format!("x-mock: {script}\r\n{credential}\r\n");
        let request = dialect.request(true, "x").to_string();
        let answer = mock.request("POST", dialect.path(true), &headers, &request).await;
        (answer.status, answer.json()["error"].clone())
    };
    for dialect in DIALECTS {
        let (status, error) = ask(dialect, "{}", "authorization: Bearer wrong").await;
        assert_eq!(status, 401, "{dialect:?}");
        let name = match dialect {
            Dialect::Gemini | Dialect::GeminiArray => (&error["status"], "UNAUTHENTICATED"),
            _ => (&error["type"], "authentication_error"),
        };
        assert_eq!(name.0, name.1);
        let (status, error) = ask(dialect, r#"{"fault": "context_length"}"#, "x-goog-api-key: right").await;
        assert_eq!(status, 400);
        let message = error["message"].as_str().unwrap();
        match dialect {
            Dialect::Messages => assert_eq!(message, "prompt is too long: 250000 tokens > 200000 maximum"),
            Dialect::Gemini | Dialect::GeminiArray => assert_eq!(error["status"], "INVALID_ARGUMENT"),
            _ => assert_eq!(error["code"], "context_length_exceeded"),
        }
        let (status, _) = ask(dialect, r#"{"fault": "status:529"}"#, "authorization: Bearer right").await;
        assert_eq!(status, 529);
    }
    let (_, error) = ask(Dialect::Messages, r#"{"fault": "status:529"}"#, "x-api-key: right").await;
    assert_eq!(error["type"], "overloaded_error");
}
