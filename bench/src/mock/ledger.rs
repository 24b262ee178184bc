//! What the mock remembers: how many answers began and how each ended, and the last requests.

use super::line::Line;
use super::realtime::Session;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Uri, Version};
use parking_lot::Mutex;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many requests are kept.
const KEPT_REQUESTS: usize = 64;
/// How many bytes of bodies are kept, so that a test of large uploads does not fill the memory.
const KEPT_BYTES: usize = 64 << 20;

/// Counts of answers; `in_flight` is derived, so the three counters cannot contradict it.
#[derive(Default)]
pub(super) struct Stats {
    started: AtomicU64,
    completed: AtomicU64,
    cancelled: AtomicU64,
    connections: AtomicU64,
}

#[derive(Serialize)]
pub(super) struct StatsView {
    started: u64,
    completed: u64,
    cancelled: u64,
    in_flight: u64,
    connections: u64,
}

impl Stats {
    /// A connection was accepted.
    pub(super) fn accept(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn view(&self) -> StatsView {
        // Ends are read before beginnings, so an answer that ends meanwhile never makes the difference negative.
        let (completed, cancelled) = (self.completed.load(Relaxed), self.cancelled.load(Relaxed));
        let started = self.started.load(Relaxed);
        StatsView {
            started,
            completed,
            cancelled,
            in_flight: started.saturating_sub(completed + cancelled),
            connections: self.connections.load(Relaxed),
        }
    }
}

/// One answer under way. hyper drops the service's future, or the body, as soon as the client closes the connection;
/// whatever is dropped before [`InFlight::finish`] was therefore cancelled.
pub(super) struct InFlight {
    line: Arc<Line>,
    /// How long the connection is kept when nothing follows; as long as the client likes when absent.
    idle_close: Option<Duration>,
    finished: bool,
}

impl InFlight {
    pub(super) fn begin(line: Arc<Line>) -> InFlight {
        line.begin();
        line.shared.stats.started.fetch_add(1, Relaxed);
        InFlight { line, idle_close: None, finished: false }
    }

    pub(super) fn close_after(&mut self, idle: Option<Duration>) {
        self.idle_close = idle;
    }

    /// The script has been carried out to its end, which may be a fault that it asked for.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Finishes by ending the connection with RST.
    pub(super) fn reset(&mut self) {
        self.finish();
        self.line.reset();
    }

    /// Hands the connection to a WebSocket as soon as the answer has been written.
    pub(super) fn upgrade(self, upgrade: OnUpgrade) {
        let line = Arc::clone(&self.line);
        line.upgrade_to(Session::new(upgrade, self));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let stats = &self.line.shared.stats;
        let end = if self.finished { &stats.completed } else { &stats.cancelled };
        end.fetch_add(1, Relaxed);
        if let (true, Some(idle)) = (self.finished, self.idle_close) {
            Arc::clone(&self.line).close_when_idle(idle);
        }
    }
}

/// The last requests, oldest first.
#[derive(Default)]
pub(super) struct Requests(Mutex<VecDeque<Received>>);

struct Received {
    method: String,
    /// As it stood in the request, with its query.
    path: String,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

impl Requests {
    pub(super) fn keep(&self, head: &Parts, body: &Bytes) {
        let mut kept = self.0.lock();
        kept.push_back(Received {
            method: head.method.to_string(),
            path: target(&head.uri).to_owned(),
            version: head.version,
            headers: head.headers.clone(),
            body: body.clone(),
        });
        let mut bytes: usize = kept.iter().map(|received| received.body.len()).sum();
        while kept.len() > KEPT_REQUESTS || (bytes > KEPT_BYTES && kept.len() > 1) {
            bytes -= kept.pop_front().map_or(0, |received| received.body.len());
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct View<'a> {
            method: &'a str,
            path: &'a str,
            version: String,
            headers: BTreeMap<&'a str, String>,
            body: Cow<'a, str>,
        }
        let kept = self.0.lock();
        let views: Vec<View> = kept
            .iter()
            .map(|received| View {
                method: &received.method,
                path: &received.path,
                version: format!("{:?}", received.version),
                headers: joined(&received.headers),
                body: String::from_utf8_lossy(&received.body),
            })
            .collect();
        serde_json::to_vec(&views)
    }
}

/// The path as it stood in the request, with its query.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", PathAndQuery::as_str)
}

/// Headers by name; values of a repeated header are joined by a comma, as HTTP reads them.
fn joined(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut by_name: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        by_name
            .entry(name.as_str())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    by_name
}
