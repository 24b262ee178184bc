//! The load generator against the mock: what is asked for is sent, and what goes wrong is counted by kind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use sluice_bench::load::{self, Requests};
use sluice_bench::mock::{Mock, Script};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn mock(script: &str) -> SocketAddr {
    let mock = Mock::bind(([127, 0, 0, 1], 0).into(), Script::parse(script.as_bytes()).unwrap()).await.unwrap();
    let addr = mock.local_addr();
    tokio::spawn(mock.serve());
    addr
}

fn chat(stream: bool) -> Requests {
    Arc::new(move |number| {
        let body = format!(r#"{{"stream": {stream}, "messages": [{{"role": "user", "content": "number {number}"}}]}}"#);
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: mock\r\ncontent-length: {}\r\n\r\n", body.len());
        Bytes::from(head + &body)
    })
}

#[tokio::test]
async fn a_closed_loop_sends_each_number_once() {
    let addr = mock("{}").await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let (log, make) = (Arc::clone(&sent), chat(false));
    let requests: Requests = Arc::new(move |number| {
        log.lock().unwrap().push(number);
        make(number)
    });
    let report = load::closed(addr, 4, 100..400, requests).await;
    assert_eq!((report.requests, report.errors(), report.latencies.len()), (300, 0, 300));
    let mut sent = sent.lock().unwrap().clone();
    sent.sort_unstable();
    assert!(sent.into_iter().eq(100..400));
}

#[tokio::test]
async fn streams_are_read_to_their_end() {
    let addr = mock("{}").await;
    let report = load::closed(addr, 2, 0..20, chat(true)).await;
    assert_eq!((report.requests, report.errors()), (20, 0));
}

#[tokio::test]
async fn errors_are_counted_by_kind_and_leave_no_latency() {
    let refused = load::closed(mock(r#"{"fault": "status:503"}"#).await, 2, 0..10, chat(false)).await;
    assert_eq!((refused.status_errors, refused.io_errors, refused.latencies.len()), (10, 0, 0));
    let cut = load::closed(mock(r#"{"fault": "close_mid_stream"}"#).await, 2, 0..10, chat(true)).await;
    assert_eq!((cut.status_errors, cut.io_errors, cut.latencies.len()), (0, 10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_keeps_its_rate_and_counts_from_the_scheduled_time() {
    let addr = mock(r#"{"latency_milliseconds": 50}"#).await;
    let run =
        |connections| tokio::task::spawn_blocking(move || load::open(addr, connections, 100.0, 0..20, &chat(false)));
    let enough = run(16).await.unwrap();
    assert_eq!((enough.requests, enough.errors()), (20, 0));
    assert!(enough.elapsed >= Duration::from_millis(190), "{:?}", enough.elapsed);
    // One connection can send only each 50 ms where each 10 ms was asked for: the waiting counts.
    let starved = run(1).await.unwrap();
    assert!(starved.percentile_us(100.0) > 19 * 40_000, "{}", starved.percentile_us(100.0));
}
