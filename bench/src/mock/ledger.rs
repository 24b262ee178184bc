//! What the mock remembers: how many answers began and how each ended, and the last requests.

use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use parking_lot::Mutex;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

#[derive(Serialize)]
pub(super) struct StatsView {
    started: u64,
    completed: u64,
    cancelled: u64,
    in_flight: u64,
}

impl Stats {
    pub(super) fn begin(self: &Arc<Stats>) -> InFlight {
        self.started.fetch_add(1, Relaxed);
        InFlight { stats: Arc::clone(self), finished: false }
    }

    pub(super) fn view(&self) -> StatsView {
        // Ends are read before beginnings, so an answer that ends meanwhile never makes the difference negative.
        let (completed, cancelled) = (self.completed.load(Relaxed), self.cancelled.load(Relaxed));
        let started = self.started.load(Relaxed);
        StatsView { started, completed, cancelled, in_flight: started.saturating_sub(completed + cancelled) }
    }
}

/// One answer under way. hyper drops the service's future, or the body, as soon as the client closes the connection;
/// whatever is dropped before [`InFlight::finish`] was therefore cancelled.
pub(super) struct InFlight {
    stats: Arc<Stats>,
    finished: bool,
}

impl InFlight {
    /// The script has been carried out to its end, which may be a fault that it asked for.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let end = if self.finished { &self.stats.completed } else { &self.stats.cancelled };
        end.fetch_add(1, Relaxed);
    }
}

/// The last requests, oldest first.
#[derive(Default)]
pub(super) struct Requests(Mutex<VecDeque<Received>>);

struct Received {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Requests {
    pub(super) fn keep(&self, head: &Parts, body: &Bytes) {
        let mut kept = self.0.lock();
        kept.push_back(Received {
            method: head.method.to_string(),
            path: head.uri.to_string(),
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
            headers: BTreeMap<&'a str, String>,
            body: Cow<'a, str>,
        }
        let kept = self.0.lock();
        let views: Vec<View> = kept
            .iter()
            .map(|received| View {
                method: &received.method,
                path: &received.path,
                headers: joined(&received.headers),
                body: String::from_utf8_lossy(&received.body),
            })
            .collect();
        serde_json::to_vec(&views)
    }
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
