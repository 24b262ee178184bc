//! What goes wrong, in every dialect.

use crate::client::{Answer, DIALECTS, Dialect, start};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TEXT: &str = "né wörld über alles";

#[tokio::test]
async fn a_reset_is_seen_as_a_reset_and_counts_as_completed() {
    let mock = start().await;
    for stream in [true, false] {
        for dialect in DIALECTS {
            for phase in ["before_header", "after_header", "mid_stream"] {
                let script = format!(r#"{{"fault": "reset_{phase}"}}"#);
                let (received, end) = mock.ask_raw(dialect, stream, &script, TEXT).await;
                assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "{dialect:?} {phase}");
                let received = String::from_utf8_lossy(&received);
                let (head, body) = received.split_once("\r\n\r\n").unwrap_or_default();
                assert_eq!(head.is_empty(), phase == "before_header");
                assert_eq!(body.is_empty(), phase != "mid_stream", "{dialect:?} {phase}: {body}");
                assert!(!body.ends_with("\r\n0\r\n\r\n"), "{dialect:?} {phase}: {body}");
            }
        }
    }
    mock.wait_for(|stats| stats["completed"] == 30 && stats["cancelled"] == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_has_half_of_its_text_and_no_end() {
    let mock = start().await;
    for dialect in DIALECTS {
        let (received, _) = mock.ask_raw(dialect, true, r#"{"fault": "close_mid_stream"}"#, "a b c d").await;
        let received = String::from_utf8(received).unwrap();
        assert!(received.contains(r#"" b""#) && !received.contains(r#"" c""#), "{dialect:?}: {received}");
        assert!(!dialect.is_complete(&received) && !received.ends_with("0\r\n\r\n"));
    }
}

#[tokio::test]
async fn silence_falls_where_the_fault_says() {
    let mock = start().await;
    for dialect in DIALECTS {
        let ask = async |stream, fault: &str| {
            let script = format!(r#"{{"fault": "{fault}"}}"#);
            mock.ask_until_silence(dialect, stream, &script, Duration::from_millis(150)).await
        };
        assert_eq!(ask(true, "stall_before_header").await, "");
        for (stream, fault) in
            [(true, "stall_after_header"), (false, "stall_after_header"), (false, "stall_first_token")]
        {
            let received = ask(stream, fault).await;
            assert!(received.starts_with("HTTP/1.1 200 OK") && received.ends_with("\r\n\r\n"), "{received}");
        }
        let opened = ask(true, "stall_first_token").await;
        let signs = ["chat.completion.chunk", "response.in_progress", "event: ping", "usageMetadata"];
        assert!(signs.iter().any(|sign| opened.contains(sign)), "{dialect:?}: {opened}");
        assert!(!opened.contains("\"a\""), "{dialect:?}: {opened}");
    }
}

#[tokio::test]
async fn metadata_goes_on_without_content() {
    let mock = start().await;
    for (dialect, sign) in [
        (Dialect::Chat, r#""delta":{"role":"assistant","content":""}"#),
        (Dialect::Responses, "event: keepalive\n"),
        (Dialect::Messages, "event: ping\n"),
        (Dialect::Gemini, "data: {\"usageMetadata\""),
        (Dialect::GeminiArray, ",\n{\"usageMetadata\""),
    ] {
        let script = r#"{"fault": "metadata_forever"}"#;
        let request = dialect.request(true, "a b").to_string();
        let mut socket = mock.open("POST", dialect.path(true), &format!("x-mock: {script}\r\n"), &request).await;
        let mut received = String::new();
        while received.matches(sign).count() < 3 {
            let mut buffer = [0; 4096];
            let length = socket.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "{dialect:?}: {received}");
            received.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(!received.contains("\"a\""));
    }
}

#[tokio::test]
async fn an_answer_in_odd_pieces_is_the_same_answer() {
    let mock = start().await;
    for dialect in DIALECTS {
        for fault in ["trickle", "split_utf8"] {
            let script = format!(r#"{{"fault": "{fault}"}}"#);
            let (received, _) = mock.ask_raw(dialect, true, &script, TEXT).await;
            let (chunks, body) = unchunk(&received);
            let body = String::from_utf8(body).unwrap();
            assert_eq!(dialect.texts(&body), TEXT, "{dialect:?} {fault}");
            assert!(dialect.is_complete(&body));
            match fault {
                "trickle" => assert_eq!(chunks.len(), body.len()),
                _ => assert!(chunks.iter().any(|chunk| std::str::from_utf8(chunk).is_err())),
            }
            let plain = mock.ask(dialect, false, &script, TEXT).await;
            assert_eq!(dialect.text(&plain.json()), TEXT, "{dialect:?} {fault}");
        }
    }
}

#[tokio::test]
async fn gzip_is_sent_to_a_client_that_did_not_ask() {
    let mock = start().await;
    for dialect in DIALECTS {
        for stream in [true, false] {
            let (received, _) = mock.ask_raw(dialect, stream, r#"{"fault": "gzip"}"#, TEXT).await;
            let head = String::from_utf8_lossy(&received).to_lowercase();
            assert!(head.contains("\r\ncontent-encoding: gzip\r\n"));
            let mut body = String::new();
            GzDecoder::new(&unchunk(&received).1[..]).read_to_string(&mut body).unwrap();
            let text = if stream { dialect.texts(&body) } else { dialect.text(&serde_json::from_str(&body).unwrap()) };
            assert_eq!(text, TEXT, "{dialect:?}");
        }
    }
}

#[tokio::test]
async fn invalid_utf8_is_inside_the_text_or_the_arguments() {
    let mock = start().await;
    for script in [
        r#"{"fault": "invalid_utf8"}"#,
        r#"{"fault": "invalid_utf8", "tool_call": {"name": "f", "arguments": "{\"q\": \"abc\"}"}}"#,
    ] {
        for dialect in DIALECTS {
            for stream in [true, false] {
                let (received, _) = mock.ask_raw(dialect, stream, script, TEXT).await;
                assert!(received.contains(&0xff), "{dialect:?} {script}");
                let mended: Vec<u8> = received.into_iter().filter(|byte| *byte != 0xff).collect();
                assert!(String::from_utf8(mended).is_ok());
            }
        }
    }
}

#[tokio::test]
async fn an_error_in_band_comes_first_or_after_half_and_ends_the_stream() {
    let mock = start().await;
    for dialect in DIALECTS {
        for (fault, said) in [("error_first", ""), ("error_mid_stream", "a b")] {
            let script = format!(r#"{{"fault": "{fault}"}}"#);
            let answer = mock.ask(dialect, true, &script, "a b c d").await;
            let text = answer.text();
            assert!(answer.status == 200 && answer.ended && !dialect.is_complete(&text), "{dialect:?}: {text}");
            assert_eq!(dialect.texts(&text), said, "{dialect:?} {fault}");
            let documents = dialect.documents(&text);
            let (number, last) = (documents.len() - 1, documents.last().unwrap());
            match dialect {
                Dialect::Responses => {
                    assert_eq!((&last["type"], &last["sequence_number"]), (&json!("error"), &json!(number)));
                }
                Dialect::Messages => {
                    assert!(text.contains("event: error\n"));
                    assert_eq!(last["error"]["type"], "overloaded_error");
                }
                Dialect::Chat => assert_eq!(last["error"]["type"], "server_error"),
                _ => assert_eq!(last["error"]["status"], "UNAVAILABLE"),
            }
            assert_eq!(number == 0, fault == "error_first");
            let plain = mock.ask(dialect, false, &script, "a").await;
            assert!(plain.status == 200 && plain.json()["error"]["message"].is_string());
        }
    }
}

#[tokio::test]
async fn an_end_is_missing_or_followed_by_garbage_or_all_there_is() {
    let mock = start().await;
    for dialect in DIALECTS {
        let ask =
            async |stream, fault: &str| mock.ask(dialect, stream, &format!(r#"{{"fault": "{fault}"}}"#), "a b").await;
        let endless = ask(true, "no_done").await;
        assert!(endless.ended && !dialect.is_complete(&endless.text()), "{dialect:?}: {}", endless.text());
        let garbage = ask(true, "garbage_after_done").await.text();
        let (before, _) = garbage.split_once("garbage after the end").unwrap();
        assert!(dialect.is_complete(before), "{dialect:?}: {garbage}");
        let empty = ask(true, "empty_stream").await;
        assert!(empty.status == 200 && empty.ended && empty.text().is_empty());
        assert_eq!(dialect.text(&ask(false, "no_done").await.json()), "a b");
        assert!(serde_json::from_str::<Value>(&ask(false, "garbage_after_done").await.text()).is_err());
        assert_eq!(ask(false, "empty_stream").await.text(), "");
        let malformed = ask(true, "malformed_json").await;
        assert!(malformed.ended && malformed.text().contains("b\""), "{}", malformed.text());
    }
}

#[tokio::test]
async fn pages_come_in_the_place_of_answers() {
    let mock = start().await;
    for dialect in DIALECTS {
        for (fault, status) in [("html_error", 502), ("wrong_content_type", 200)] {
            let answer = mock.ask(dialect, true, &format!(r#"{{"fault": "{fault}"}}"#), "x").await;
            assert_eq!((answer.status, answer.header("content-type")), (status, "text/html; charset=utf-8"));
        }
    }
}

#[tokio::test]
async fn a_fault_hits_as_often_as_it_is_told() {
    let mock = start().await;
    let statuses = async |headers: &str| {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(mock.request("POST", "/v1/chat/completions", headers, "{}").await.status);
        }
        statuses
    };
    mock.script(json!({"fault": "status:503", "fault_times": 2})).await;
    assert_eq!(statuses("").await, [503, 503, 200]);
    mock.script(json!({"fault": "status:503", "fault_times": 1})).await;
    assert_eq!(statuses("x-mock: {\"fault\": \"status:500\"}\r\n").await, [500, 200, 200]);
    let header = r#"x-mock: {"fault": "status:429", "fault_times": 1}"#;
    for client in ["a", "b"] {
        assert_eq!(statuses(&format!("{header}\r\nx-custom: {client}\r\n")).await, [429, 200, 200]);
    }
}

#[tokio::test]
async fn the_time_to_retry_after_is_sent_as_it_stands() {
    let mock = start().await;
    let ask = async |script: &str| -> Answer { mock.chat(script, json!({})).await };
    let dated = ask(r#"{"fault": "status:503", "retry_after": "Fri, 31 Dec 1999 23:59:59 GMT"}"#).await;
    assert_eq!(dated.header("retry-after"), "fri, 31 dec 1999 23:59:59 gmt", "the header is read in lower case");
    let fine = ask(r#"{"fault": "status:429", "retry_after_ms": "250"}"#).await;
    assert_eq!(fine.header("retry-after-ms"), "250");
    assert!(!fine.head.contains("retry-after: "));
    assert!(!ask(r#"{"fault": "status:429", "retry_after": ""}"#).await.head.contains("retry-after"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let mock = start().await;
    let mut socket = tokio::net::TcpStream::connect(mock.addr).await.unwrap();
    let request =
        b"POST /v1/x HTTP/1.1\r\nhost: m\r\nx-mock: {\"idle_close_milliseconds\": 1500}\r\ncontent-length: 0\r\n\r\n";
    let mut buffer = [0; 4096];
    let mut answered = Instant::now();
    for _ in 0..3 {
        socket.write_all(request).await.unwrap();
        let length = socket.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
        assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"));
        answered = Instant::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(socket.read(&mut buffer).await.unwrap(), 0);
    // Counted by the mock from when it had written the answer, a little before it was read here.
    assert!((1_450..10_000).contains(&answered.elapsed().as_millis()), "{:?}", answered.elapsed());
}

/// The chunks and the whole body of an answer as it came over the wire.
fn unchunk(received: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
    let mut rest = &received[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (Vec::new(), rest.to_vec());
    }
    let mut chunks = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            let body = chunks.concat();
            return (chunks, body);
        }
        chunks.push(rest[line + 2..line + 2 + size].to_vec());
        rest = &rest[line + 4 + size..];
    }
}
