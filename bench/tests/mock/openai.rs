//! OpenAI's dialect, the scripts and the faults that every dialect shares.

use crate::client::{read_all, read_some, start, start_with, streamed, turns};
use serde_json::{Value, json};
use sluice_bench::mock::Script;
use std::time::{Duration, Instant};

// -------------------------------------------------------------- plain answers ---

#[tokio::test]
async fn a_plain_chat_answers_the_last_user_text_in_the_openai_form() {
    let mock = start().await;
    let answer = mock.chat("{}", json!({"model": "gpt-4o-mini", "messages": turns()})).await;
    let mut body = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(body["usage"]["completion_tokens"], 4);
    let total = body["usage"]["prompt_tokens"].as_u64().unwrap() + 4;
    assert_eq!(body["usage"]["total_tokens"], total);
    body["id"] = Value::Null;
    body["created"] = Value::Null;
    body["usage"] = Value::Null;
    assert_eq!(
        body,
        json!({
            "id": null, "object": "chat.completion", "created": null, "model": "gpt-4o-mini",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "what is new\ntoday?", "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": null,
        })
    );
}

#[tokio::test]
async fn the_reply_is_what_the_script_chooses() {
    let mock = start().await;
    let request = json!({"messages": turns()});
    let content = async |script: &str| mock.chat(script, request.clone()).await.content();
    assert_eq!(content(r#"{"reply": "last"}"#).await, "what is new\ntoday?");
    assert_eq!(content(r#"{"reply": "echo"}"#).await, "be brief\nhello\nwhat is new\ntoday?");
    assert_eq!(content(r#"{"reply": "json"}"#).await, request.to_string());
    assert_eq!(content(r#"{"reply": {"text": "fixed"}}"#).await, "fixed");
}

#[tokio::test]
async fn tokens_bound_the_reply_and_the_finish_reason_says_so() {
    let mock = start().await;
    let answer = mock.chat(r#"{"tokens": 2}"#, json!({"messages": turns()})).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "what is");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn a_plain_tool_call_has_its_whole_arguments() {
    let mock = start().await;
    let script = r#"{"tool_call": {"name": "find", "arguments": "echo"}}"#;
    let answer = mock.chat(script, json!({"messages": turns()})).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"], json!({"name": "find", "arguments": r#"{"text":"what is new\ntoday?"}"#}));
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let mock = start().await;
    let text = "word ".repeat(100_000);
    let answer = mock.chat(r#"{"reply": "json"}"#, json!({"messages": [{"role": "user", "content": text}]})).await;
    assert!(answer.content().contains(&text));
    mock.wait_for(|stats| stats["completed"] == 1).await;
}

// -------------------------------------------------------------------- streams ---

#[tokio::test]
async fn a_stream_opens_with_the_role_and_ends_with_finish_usage_and_done() {
    let mock = start().await;
    let request = json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "one two"}],
    });
    let answer = mock.chat("{}", request).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    let events = answer.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let mut chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    for chunk in &mut chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "m");
        assert!(chunk["id"].as_str().unwrap().starts_with("chatcmpl-"));
    }
    let choice = |delta, finish| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let choices: Vec<Value> = chunks.iter().map(|chunk| chunk["choices"].clone()).collect();
    assert_eq!(
        choices,
        [
            choice(json!({"role": "assistant", "content": ""}), Value::Null),
            choice(json!({"content": "one"}), Value::Null),
            choice(json!({"content": " two"}), Value::Null),
            choice(json!({}), json!("stop")),
            json!([]),
        ]
    );
    assert_eq!(chunks[4]["usage"]["completion_tokens"], 2);
    assert_eq!(chunks[1].get("usage"), Some(&Value::Null));
}

#[tokio::test]
async fn a_stream_has_no_usage_unless_it_was_asked_for() {
    let mock = start().await;
    let answer = mock.chat("{}", streamed("one two")).await;
    assert!(!answer.text().contains("usage"));
    assert_eq!(answer.events().len(), 5);
}

#[tokio::test]
async fn each_event_is_an_http_chunk_of_its_own() {
    let mock = start().await;
    let answer = mock.chat("{}", streamed("one two three")).await;
    assert_eq!(answer.chunks.len(), 6);
    assert!(answer.chunks.iter().all(|chunk| chunk.starts_with("data: ") && chunk.ends_with("\n\n")));
}

#[tokio::test]
async fn split_cuts_the_reply_byte_by_byte_on_character_boundaries() {
    let mock = start().await;
    let answer = mock.chat(r#"{"split": 1}"#, streamed("né 日本")).await;
    assert_eq!(answer.deltas("content"), ["n", "é", " ", "日", "本"]);
}

#[tokio::test]
async fn a_streamed_tool_call_is_named_first_and_then_fed_its_arguments() {
    let mock = start().await;
    let script = r#"{"split": 4, "tool_call": {"name": "find", "arguments": "{\"q\": 1}"}}"#;
    let answer = mock.chat(script, streamed("x")).await;
    let calls: Vec<Value> = answer.deltas_of("tool_calls");
    assert_eq!(calls[0][0]["function"], json!({"name": "find", "arguments": ""}));
    assert_eq!(calls[0][0]["type"], "function");
    assert!(calls[0][0]["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(calls[1][0], json!({"index": 0, "function": {"arguments": "{\"q\""}}));
    assert_eq!(calls[2][0], json!({"index": 0, "function": {"arguments": ": 1}"}}));
    assert!(answer.text().contains(r#""finish_reason":"tool_calls""#));
    assert!(answer.text().contains(r#"{"role":"assistant","content":null}"#));
}

#[tokio::test]
async fn pace_first_token_and_latency_are_kept() {
    let mock = start().await;
    let script = r#"{"latency_milliseconds": 60, "first_token_milliseconds": 500, "token_milliseconds": 20}"#;
    let begun = Instant::now();
    let mut stream = mock.send(script, &streamed("1 2 3 4 5 6")).await;
    let head = read_some(&mut stream).await;
    let to_the_head = begun.elapsed();
    assert!(head.ends_with("\r\n\r\n"), "the header comes alone: {head}");
    let first = read_some(&mut stream).await;
    let to_the_first_token = begun.elapsed();
    assert!(first.contains(r#""role":"assistant""#), "{first}");
    read_all(&mut stream).await;
    let whole = begun.elapsed();
    let found = format!("{to_the_head:?} {to_the_first_token:?} {whole:?}");
    assert!(to_the_head.as_millis() >= 60, "{found}");
    assert!(to_the_first_token.as_millis() >= 560, "{found}");
    // Six tokens, 20 ms between them.
    assert!((660..10_000).contains(&whole.as_millis()), "{found}");
}

// ------------------------------------------------------- the other endpoints ---

#[tokio::test]
async fn legacy_completions_speak_plain_and_streamed() {
    let mock = start().await;
    let plain = mock.post("/v1/completions", "{}", json!({"model": "m", "prompt": ["a", "b c"]})).await.json();
    assert_eq!(plain["object"], "text_completion");
    assert_eq!(plain["choices"], json!([{"index": 0, "text": "b c", "logprobs": null, "finish_reason": "stop"}]));
    assert_eq!(plain["usage"]["completion_tokens"], 2);
    let streamed = mock.post("/v1/completions", "{}", json!({"prompt": "b c", "stream": true})).await;
    let texts: String =
        streamed.json_events().iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, "b c");
    assert_eq!(streamed.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn embeddings_are_deterministic_and_come_as_numbers_or_base64() {
    use base64::Engine;
    let mock = start().await;
    let embed = async |request: Value| mock.post("/v1/embeddings", "{}", request).await.json();
    let list = embed(json!({"model": "e", "input": ["one", "two", "one"], "dimensions": 16})).await;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][1]["index"], 1);
    assert_eq!(list["data"][0]["embedding"].as_array().unwrap().len(), 16);
    assert_eq!(list["data"][0]["embedding"], list["data"][2]["embedding"]);
    assert_ne!(list["data"][0]["embedding"], list["data"][1]["embedding"]);
    let numbers = embed(json!({"input": "one"})).await;
    let encoded = embed(json!({"input": "one", "encoding_format": "base64"})).await;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(encoded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let numbers: Vec<f32> = serde_json::from_value(numbers["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(decoded, numbers);
    assert_eq!(numbers.len(), 8);
}

#[tokio::test]
async fn models_are_listed_and_other_paths_say_what_arrived() {
    let mock = start().await;
    let models = mock.request("GET", "/v1/models", "", "").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["object"], "model");
    let other = mock.request("PUT", "/v1/files/7?a=b", "", "12345").await;
    assert_eq!(
        other.json(),
        json!({
            "object": "mock", "method": "PUT", "path": "/v1/files/7?a=b", "bytes": 5,
            "body_sha256": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5",
            "usage": {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2},
        })
    );
    assert_eq!(mock.request("GET", "/elsewhere", "", "").await.status, 404);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_as_openai_does() {
    let mock = start().await;
    let answer = mock.request("POST", "/v1/chat/completions", "", "{").await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
}

// -------------------------------------------------------------------- scripts ---

#[tokio::test]
async fn a_header_overrides_the_posted_script_which_overrides_the_flags() {
    let flags = Script::parse(br#"{"reply": {"text": "flags here now"}, "tokens": 2}"#).unwrap();
    let mock = start_with(flags).await;
    let request = json!({"messages": []});
    assert_eq!(mock.chat("{}", request.clone()).await.content(), "flags here");
    mock.script(json!({"reply": {"text": "posted here now"}})).await;
    assert_eq!(mock.chat("{}", request.clone()).await.content(), "posted here");
    assert_eq!(mock.chat(r#"{"tokens": 1}"#, request.clone()).await.content(), "posted");
    mock.script(json!({})).await;
    assert_eq!(mock.chat("{}", request).await.content(), "flags here");
}

#[tokio::test]
async fn a_bad_script_is_answered_400_and_names_the_field() {
    let mock = start().await;
    let posted = mock.request("POST", "/mock/script", "", r#"{"split": "x"}"#).await;
    assert_eq!(posted.status, 400);
    assert!(posted.text().contains("`split`"), "{}", posted.text());
    let header = mock.chat(r#"{"fualt": "no_done"}"#, json!({"messages": []})).await;
    assert_eq!(header.status, 400);
    assert!(header.text().contains("`fualt`"), "{}", header.text());
}

#[tokio::test]
async fn requests_are_kept_as_they_arrived_until_cleared() {
    let mock = start().await;
    for number in 0..70 {
        mock.request("POST", &format!("/v1/other/{number}"), "x-twice: a\r\nX-Twice: b\r\n", "hé").await;
    }
    let kept = mock.request("GET", "/mock/requests", "", "").await.json();
    let kept = kept.as_array().unwrap();
    assert_eq!(kept.len(), 64);
    assert_eq!(kept[0]["path"], "/v1/other/6");
    assert_eq!(kept[63]["method"], "POST");
    assert_eq!(kept[63]["body"], "hé");
    assert_eq!(kept[63]["headers"]["x-twice"], "a, b");
    mock.request("DELETE", "/mock/requests", "", "").await;
    assert_eq!(mock.request("GET", "/mock/requests", "", "").await.json(), json!([]));
}

#[tokio::test]
async fn nothing_is_kept_when_recording_is_off() {
    let mock = start_with(Script { record: Some(false), ..Script::default() }).await;
    mock.chat("{}", json!({"messages": []})).await;
    assert_eq!(mock.request("GET", "/mock/requests", "", "").await.json(), json!([]));
}

// --------------------------------------------------------------------- faults ---

#[tokio::test]
async fn a_status_fault_answers_an_openai_error() {
    let mock = start().await;
    let failed = mock.chat(r#"{"fault": "status:503"}"#, streamed("x")).await;
    assert_eq!(failed.status, 503);
    assert_eq!(failed.json()["error"]["type"], "server_error");
    let limited = mock.chat(r#"{"fault": "status:429"}"#, streamed("x")).await;
    assert_eq!(limited.status, 429);
    assert_eq!(limited.header("retry-after"), "1");
}

#[tokio::test]
async fn close_before_header_sends_nothing() {
    let mock = start().await;
    for request in [streamed("x"), json!({"messages": []})] {
        let mut stream = mock.send(r#"{"fault": "close_before_header"}"#, &request).await;
        assert_eq!(read_all(&mut stream).await, "");
    }
    mock.wait_for(|stats| stats["completed"] == 2 && stats["cancelled"] == 0).await;
}

#[tokio::test]
async fn close_after_header_sends_the_header_alone() {
    let mock = start().await;
    for request in [streamed("x"), json!({"messages": turns()})] {
        let mut stream = mock.send(r#"{"fault": "close_after_header"}"#, &request).await;
        let received = read_all(&mut stream).await;
        assert!(received.starts_with("HTTP/1.1 200 OK\r\n") && received.ends_with("\r\n\r\n"), "{received}");
    }
}

#[tokio::test]
async fn close_mid_stream_sends_half_of_the_deltas_and_no_end() {
    let mock = start().await;
    let mut stream = mock.send(r#"{"fault": "close_mid_stream"}"#, &streamed("a b c d")).await;
    let received = read_all(&mut stream).await;
    assert_eq!(received.matches("data: ").count(), 3, "{received}");
    assert!(received.contains(r#""content":" b""#) && !received.contains(r#""content":" c""#));
    assert!(!received.contains("[DONE]") && !received.ends_with("0\r\n\r\n"));

    let mut plain = mock.send(r#"{"fault": "close_mid_stream"}"#, &json!({"messages": turns()})).await;
    let received = read_all(&mut plain).await;
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    let declared: usize = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert_eq!(body.len(), declared / 2);
}

#[tokio::test]
async fn malformed_json_breaks_one_delta_or_the_plain_answer() {
    let mock = start().await;
    let answer = mock.chat(r#"{"fault": "malformed_json"}"#, streamed("a b c d")).await;
    let events = answer.events();
    let bad: Vec<_> = events.iter().filter(|data| serde_json::from_str::<Value>(data).is_err()).collect();
    assert_eq!(bad.len(), 2, "the cut delta and [DONE]: {bad:?}");
    assert_eq!(events.last().unwrap(), "[DONE]");
    let plain = mock.chat(r#"{"fault": "malformed_json"}"#, json!({"messages": turns()})).await;
    assert!(plain.text().starts_with(r#"{"id":"#) && serde_json::from_str::<Value>(&plain.text()).is_err());
}

#[tokio::test]
async fn no_done_ends_cleanly_without_done() {
    let mock = start().await;
    let answer = mock.chat(r#"{"fault": "no_done"}"#, streamed("a b")).await;
    assert!(answer.ended && !answer.text().contains("[DONE]"));
    assert!(answer.text().contains(r#""finish_reason":"stop""#));
}

// --------------------------------------------------------------- cancellation ---

#[tokio::test]
async fn a_complete_answer_is_counted_as_completed() {
    let mock = start().await;
    mock.chat("{}", json!({"messages": turns()})).await;
    mock.chat("{}", streamed("a b c")).await;
    let stats = mock.wait_for(|stats| stats["completed"] == 2).await;
    let connections = stats["connections"].as_u64().unwrap();
    assert!(connections >= 3, "two exchanges and this question: {connections}");
    let ends = json!({"started": 2, "completed": 2, "cancelled": 0, "in_flight": 0, "connections": connections});
    assert_eq!(stats, ends);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_within_ten_milliseconds() {
    let scripts = [
        r#"{"fault": "stall_before_header"}"#,
        r#"{"fault": "stall_mid_stream"}"#,
        r#"{"latency_milliseconds": 60000}"#,
        r#"{"first_token_milliseconds": 60000}"#,
        r#"{"token_milliseconds": 60000}"#,
    ];
    for script in scripts {
        // The best of some tries: what else runs on the machine may hold up any one of them.
        let mut took = Vec::new();
        while took.iter().all(|took| *took >= Duration::from_millis(40)) {
            assert!(took.len() < 10, "{script}: {took:?}");
            let mock = start().await;
            let stream = mock.send(script, &streamed("a b c d")).await;
            mock.wait_for(|stats| stats["in_flight"] == 1).await;
            // Long enough for the mock to have reached the stall itself.
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(mock.stats().await["cancelled"], 0);
            let left = Instant::now();
            drop(stream);
            let stats = mock.wait_for(|stats| stats["cancelled"] == 1).await;
            took.push(left.elapsed());
            assert_eq!((&stats["completed"], &stats["in_flight"]), (&json!(0), &json!(0)));
        }
    }
}

#[tokio::test]
async fn a_stall_sends_what_came_before_it() {
    let mock = start().await;
    let mut stream = mock.send(r#"{"fault": "stall_mid_stream"}"#, &streamed("a b c d")).await;
    let mut received = String::new();
    while received.matches("data: ").count() < 3 {
        received += &read_some(&mut stream).await;
    }
    let more = tokio::time::timeout(Duration::from_millis(50), read_some(&mut stream)).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn dropping_the_server_closes_its_connections() {
    let mock = start().await;
    let mut stream = mock.send(r#"{"fault": "stall_before_header"}"#, &streamed("x")).await;
    mock.wait_for(|stats| stats["in_flight"] == 1).await;
    mock.server.abort();
    assert_eq!(read_all(&mut stream).await, "");
}
