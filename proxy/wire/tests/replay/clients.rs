//! What the official SDK of each dialect takes for granted of a stream.

use crate::told::{Event, events};
use serde_json::Value;
use sluice_wire::Dialect;
use std::collections::BTreeSet;

/// How a client's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the dialect's terminator.
    Whole,
    Error,
    /// Nothing says that it is over.
    Cut,
}

/// Reads a client's stream as its SDK would, fails where that would, and tells how it ends.
pub fn read(dialect: Dialect, stream: &[u8]) -> Ending {
    assert!(stream.is_empty() || stream.ends_with(b"\n\n"), "only whole frames are written");
    let events = events(stream);
    let ending = match dialect {
        Dialect::Chat => chat(&events),
        Dialect::Responses => responses(&events),
        Dialect::Messages => messages(&events),
        _ => gemini(&events),
    };
    for event in &events {
        assert!(event.data == "[DONE]" || event.json().is_object(), "{event:?}");
    }
    ending
}

/// Every event but the last, which alone may be an error.
fn without_error(events: &[Event], is_error: impl Fn(&Value) -> bool) -> (&[Event], bool) {
    let (last, before) = match events.split_last() {
        Some((last, before)) if is_error(&last.json()) => (true, before),
        _ => (false, events),
    };
    assert!(before.iter().all(|event| !is_error(&event.json())), "an error ends a stream");
    (before, last)
}

fn ending(over: bool, failed: bool) -> Ending {
    match (over, failed) {
        (true, failed) => {
            assert!(!failed, "over and failed");
            Ending::Whole
        }
        (false, true) => Ending::Error,
        (false, false) => Ending::Cut,
    }
}

fn chat(events: &[Event]) -> Ending {
    assert!(events.iter().all(|event| event.name.is_none()));
    let (events, failed) = without_error(events, |event| !event["error"].is_null());
    let over = events.iter().position(|event| event.data == "[DONE]");
    let chunks = &events[..over.unwrap_or(events.len())];
    assert!(over.is_none_or(|place| place + 1 == events.len()), "[DONE] is the last");
    let (mut calls, mut thoughts, mut finished, mut counted) = (0, 0, false, false);
    for (number, chunk) in chunks.iter().enumerate() {
        let chunk = chunk.json();
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk["id"].is_string() && chunk["model"].is_string() && chunk["created"].is_u64());
        assert!(!counted, "usage is the last chunk");
        let choices = chunk["choices"].as_array().unwrap();
        if choices.is_empty() {
            assert!(finished && chunk["usage"]["total_tokens"].is_u64());
            counted = true;
            continue;
        }
        assert!(choices.len() == 1 && choices[0]["index"] == 0 && !finished);
        finished = choices[0]["finish_reason"].is_string();
        let delta = &choices[0]["delta"];
        assert!(number > 0 || delta["role"] == "assistant");
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap();
            if call["id"].is_string() {
                assert!(call["type"] == "function" && call["function"]["name"].is_string());
                assert_eq!(index, calls);
                calls += 1;
            }
            assert_eq!(index + 1, calls, "one call after the other");
            assert!(call["function"]["arguments"].is_string());
        }
        for thought in delta["thinking_blocks"].as_array().into_iter().flatten() {
            assert_eq!(thought["index"], thoughts);
            thoughts += 1;
        }
    }
    assert_eq!(over.is_some(), finished, "a reason to stop comes with the end");
    assert!(over.is_none() || counted, "usage was asked for");
    ending(over.is_some(), failed)
}

fn messages(events: &[Event]) -> Ending {
    assert!(events.iter().all(|event| event.name.as_deref() == event.json()["type"].as_str()));
    let (events, failed) = without_error(events, |event| event["type"] == "error");
    let (mut open, mut blocks, mut stopped, mut over) = (None, 0, false, false);
    for (number, event) in events.iter().enumerate() {
        let event = event.json();
        let kind = event["type"].as_str().unwrap();
        assert!(!over, "{kind} after the end");
        assert_eq!(number == 0, kind == "message_start");
        match kind {
            "message_start" => {
                assert!(event["message"]["id"].is_string() && event["message"]["usage"]["input_tokens"].is_u64());
            }
            "content_block_start" => {
                assert!(open.is_none() && !stopped && event["index"] == blocks);
                open = Some(event["content_block"]["type"].as_str().unwrap().to_owned());
                blocks += 1;
            }
            "content_block_delta" => {
                assert_eq!(event["index"], blocks - 1);
                let fits = match event["delta"]["type"].as_str().unwrap() {
                    "text_delta" => "text",
                    "thinking_delta" | "signature_delta" => "thinking",
                    "input_json_delta" => "tool_use",
                    other => panic!("{other}"),
                };
                assert_eq!(open.as_deref(), Some(fits));
            }
            "content_block_stop" => {
                assert!(open.take().is_some() && event["index"] == blocks - 1);
            }
            "message_delta" => {
                assert!(open.is_none() && !stopped);
                assert!(event["delta"]["stop_reason"].is_string() && event["usage"]["output_tokens"].is_u64());
                stopped = true;
            }
            "message_stop" => {
                assert!(stopped);
                over = true;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(stopped, over);
    ending(over, failed)
}

/// An output item that is being told.
struct Item {
    id: Value,
    kind: String,
    text: String,
    part: bool,
}

fn responses(events: &[Event]) -> Ending {
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event.name.as_deref(), event.json()["type"].as_str());
        assert_eq!(event.json()["sequence_number"], number);
    }
    let (events, failed) = without_error(events, |event| event["type"] == "error");
    let mut open: Option<Item> = None;
    let (mut done, mut ids, mut over) = (Vec::new(), BTreeSet::new(), false);
    for (number, event) in events.iter().enumerate() {
        let event = event.json();
        let kind = event["type"].as_str().unwrap();
        assert!(!over, "{kind} after the end");
        assert_eq!(number == 0, kind == "response.created");
        assert_eq!(number == 1, kind == "response.in_progress");
        if let Some(index) = event.get("output_index") {
            assert_eq!(index, done.len());
        }
        if let (Some(id), Some(item)) = (event.get("item_id"), &open) {
            assert_eq!(*id, item.id);
        }
        match kind {
            "response.created" | "response.in_progress" => {
                assert_eq!(event["response"]["status"], "in_progress");
            }
            "response.output_item.added" => {
                assert!(open.is_none());
                let kind = event["item"]["type"].as_str().unwrap().to_owned();
                open = Some(Item { id: event["item"]["id"].clone(), kind, text: String::new(), part: false });
                assert!(ids.insert(event["item"]["id"].to_string()), "an item's id is its own");
            }
            "response.output_item.done" => {
                let item = open.take().unwrap();
                assert!(!item.part && event["item"]["id"] == item.id && event["item"]["type"] == *item.kind);
                done.push(event["item"].clone());
            }
            "response.content_part.added" | "response.reasoning_summary_part.added" => {
                assert!(!std::mem::replace(&mut open.as_mut().unwrap().part, true));
            }
            "response.content_part.done" | "response.reasoning_summary_part.done" => {
                let item = open.as_mut().unwrap();
                assert!(std::mem::replace(&mut item.part, false) && event["part"]["text"] == *item.text);
            }
            "response.output_text.delta"
            | "response.reasoning_summary_text.delta"
            | "response.function_call_arguments.delta" => {
                let item = open.as_mut().unwrap();
                assert_eq!(item.part, item.kind != "function_call");
                item.text += event["delta"].as_str().unwrap();
            }
            "response.output_text.done" | "response.reasoning_summary_text.done" => {
                assert_eq!(event["text"], open.as_ref().unwrap().text);
            }
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], open.as_ref().unwrap().text);
            }
            "response.completed" | "response.incomplete" => {
                assert!(open.is_none());
                assert_eq!(kind.strip_prefix("response.").unwrap(), event["response"]["status"]);
                assert_eq!(*event["response"]["output"].as_array().unwrap(), done, "the items again");
                over = true;
            }
            other => panic!("{other}"),
        }
    }
    ending(over, failed)
}

fn gemini(events: &[Event]) -> Ending {
    assert!(events.iter().all(|event| event.name.is_none()));
    let (events, failed) = without_error(events, |event| !event["error"].is_null());
    let mut over = false;
    for event in events {
        let event = event.json();
        assert!(!over, "a reason to stop comes last");
        let candidate = &event["candidates"][0];
        assert!(candidate["content"]["role"] == "model" && candidate["index"] == 0);
        assert!(!candidate["content"]["parts"].as_array().unwrap().is_empty());
        assert!(event["responseId"].is_string() && event["modelVersion"].is_string());
        over = candidate["finishReason"].is_string();
    }
    ending(over, failed)
}
