//! What an operator can count.
//!
//! Every name is registered here once, with how to read it. Handles for closed sets are made ahead, so that counting
//! is an atomic addition.

use crate::refuse::ErrorCode;
use crate::summaries::Counters;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// The steps that are timed, in the order of the journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Identify,
    Admit,
    Intake,
    Plan,
    Recall,
    Compose,
    Scrub,
    Dispatch,
}

impl Step {
    pub const ALL: [Step; 8] = [
        Step::Identify,
        Step::Admit,
        Step::Intake,
        Step::Plan,
        Step::Recall,
        Step::Compose,
        Step::Scrub,
        Step::Dispatch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Step::Identify => "identify",
            Step::Admit => "admit",
            Step::Intake => "intake",
            Step::Plan => "plan",
            Step::Recall => "recall",
            Step::Compose => "compose",
            Step::Scrub => "scrub",
            Step::Dispatch => "dispatch",
        }
    }

    /// Whether the step's time is spent waiting for a client or a provider.
    pub fn waits(self) -> bool {
        matches!(self, Step::Intake | Step::Dispatch)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status_class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    cause: &'static str,
    fault: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderLabels {
    provider: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    route: String,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabels {
    pub kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Counters of one route, found once and then only added to.
pub struct RouteMeters {
    /// By the first digit of the status; 0 for an exchange that had none.
    requests: [Counter; 6],
    pub input_tokens: Counter,
    pub output_tokens: Counter,
}

/// Counters of one target, found once.
pub struct TargetMeters {
    pub answered: Counter,
    pub upstream: Histogram,
}

impl RouteMeters {
    pub fn requests(&self, status: u16) -> &Counter {
        &self.requests[usize::from(status / 100).min(5)]
    }
}

/// All metrics of an edge.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// For exchanges that end before they have a route.
    pub unrouted: RouteMeters,
    errors: Vec<Counter>,
    steps: Vec<Histogram>,
    pub own: Histogram,
    upstream: Family<ProviderLabels, Histogram, fn() -> Histogram>,
    attempts: Family<AttemptLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    pub scrubbed: Family<KindLabels, Counter>,
    pub scrubbed_answers: Family<KindLabels, Counter>,
    recall_hit: Counter,
    recall_miss: Counter,
    pub upstream_cancelled: Counter,
    websocket: [Counter; 2],
    pub epoch: Gauge,
    pub journal_dropped: Counter,
    pub contents_dropped: Counter,
    pub sessions_dropped: Counter,
    pub sync_failures: Counter,
    pub announcements: Counter,
    /// Summaries that a model made, or failed to make.
    pub summaries: Counters,
    /// Conversations that left with a summary of what did not, or without one that was wanted.
    pub summaries_used: Counter,
    pub summaries_missing: Counter,
}

/// From a microsecond to 16 milliseconds: our own work.
fn own_buckets() -> Histogram {
    Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 16_000.0])
}

/// From 100 microseconds to ten minutes: a provider's.
fn upstream_buckets() -> Histogram {
    Histogram::new([100.0, 500.0, 1e3, 5e3, 1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 3e7, 6e7, 6e8])
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("sluice");
        let requests = Family::default();
        registry.register(
            "requests",
            "Exchanges that ended, by route and class of the status that the client saw",
            requests.clone(),
        );
        let errors = Family::<ErrorLabels, Counter>::default();
        registry.register("errors", "Exchanges that ended in an error of Sluice's, by cause and whose fault it was; a provider's own error status is not counted here", errors.clone());
        let steps = Family::<StepLabels, Histogram, fn() -> Histogram>::new_with_constructor(own_buckets);
        registry.register(
            "step_microseconds",
            "Time of each step; intake and dispatch include waiting for the client and the provider",
            steps.clone(),
        );
        let own = own_buckets();
        registry.register(
            "own_microseconds",
            "Sluice's own time before the request was sent on; proves nothing about time lost to a busy machine",
            own.clone(),
        );
        let upstream = Family::<ProviderLabels, Histogram, fn() -> Histogram>::new_with_constructor(upstream_buckets);
        registry.register(
            "upstream_microseconds",
            "From the first attempt to the last byte of the answer, by the provider that answered",
            upstream.clone(),
        );
        let attempts = Family::default();
        registry.register(
            "attempts",
            "Attempts at providers by outcome: `answered`, `hedge_lost`, a code of ours, or `status_N` of theirs; retries and hedges count apart, so the sum is what providers may bill",
            attempts.clone(),
        );
        let tokens = Family::default();
        registry.register(
            "tokens",
            "Tokens as the provider stated them; answers without usage are not in it",
            tokens.clone(),
        );
        let scrubbed = Family::default();
        let scrubbed_answers = Family::default();
        registry.register(
            "scrubbed_answers",
            "Findings of personal data and secrets that providers said by themselves, by kind",
            scrubbed_answers.clone(),
        );
        registry.register("scrubbed", "Findings of personal data and secrets, by kind", scrubbed.clone());
        let recall = Family::<ResultLabels, Counter>::default();
        registry.register("recall_cache", "Look-ups of retrieved context by result", recall.clone());
        let upstream_cancelled = Counter::default();
        registry.register(
            "upstream_cancelled",
            "Provider calls that were ended because the client had left",
            upstream_cancelled.clone(),
        );
        let websocket = Family::<DirectionLabels, Counter>::default();
        registry.register("websocket_bytes", "Bytes of realtime sessions by direction, as framed", websocket.clone());
        let websocket =
            ["input", "output"].map(|direction| websocket.get_or_create_owned(&DirectionLabels { direction }));
        let contents_dropped = Counter::default();
        registry.register("contents_dropped", "Contents of runs for which there was no room", contents_dropped.clone());
        let journal_dropped = Counter::default();
        registry.register("journal_dropped", "Records for which the journal had no room", journal_dropped.clone());
        let sessions_dropped = Counter::default();
        registry.register(
            "sessions_dropped",
            "Sessions whose originals could not be kept, for want of room or of a disk",
            sessions_dropped.clone(),
        );
        let epoch = Gauge::default();
        registry.register("snapshot_epoch", "Epoch of the snapshot in force; 0 before the first", epoch.clone());
        let sync_failures = Counter::default();
        registry.register(
            "snapshot_failures",
            "Polls whose snapshot was refused or could not be read; the old one serves on",
            sync_failures.clone(),
        );
        let announcements = Counter::default();
        registry.register(
            "snapshot_announcements",
            "Announcements of `snapshot.notify` that were heard, and new connections to it",
            announcements.clone(),
        );
        let summaries = Family::<ResultLabels, Counter>::default();
        registry.register(
            "summaries",
            "Summaries of histories: made or failed by a model, used by a request or missing in it",
            summaries.clone(),
        );
        let [made, failed, summaries_used, summaries_missing] =
            ["made", "failed", "used", "missing"].map(|result| summaries.get_or_create_owned(&ResultLabels { result }));
        let errors = ErrorCode::ALL.iter().map(|code| {
            let row = code.row();
            errors.get_or_create_owned(&ErrorLabels { cause: row.name, fault: row.fault.name() })
        });
        // A family hands out guards of a lock: two in one expression would wait for each other.
        let recall_hit = recall.get_or_create_owned(&ResultLabels { result: "hit" });
        let recall_miss = recall.get_or_create_owned(&ResultLabels { result: "miss" });
        let unrouted = route_meters(&requests, &tokens, "none");
        Metrics {
            unrouted,
            errors: errors.collect(),
            steps: Step::ALL.iter().map(|step| steps.get_or_create_owned(&StepLabels { step: step.name() })).collect(),
            recall_hit,
            recall_miss,
            registry,
            requests,
            own,
            upstream,
            attempts,
            tokens,
            scrubbed,
            scrubbed_answers,
            upstream_cancelled,
            websocket,
            epoch,
            journal_dropped,
            contents_dropped,
            sessions_dropped,
            sync_failures,
            announcements,
            summaries: Counters { made, failed },
            summaries_used,
            summaries_missing,
        }
    }

    /// The counters of a route.
    pub fn route(&self, route: &str) -> RouteMeters {
        route_meters(&self.requests, &self.tokens, route)
    }

    /// The counters of a provider's targets.
    pub fn target(&self, provider: &str) -> TargetMeters {
        let labels = AttemptLabels { provider: provider.to_owned(), outcome: "answered" };
        TargetMeters {
            answered: self.attempts.get_or_create_owned(&labels),
            upstream: self.upstream.get_or_create_owned(&ProviderLabels { provider: provider.to_owned() }),
        }
    }

    /// Counts an attempt that did not give the answer.
    pub fn attempt_failed(&self, provider: &str, outcome: &'static str) {
        self.attempts.get_or_create_owned(&AttemptLabels { provider: provider.to_owned(), outcome }).inc();
    }

    pub fn error(&self, code: ErrorCode) {
        if let Some(counter) = self.errors.get(code as usize) {
            counter.inc();
        }
    }

    pub fn step(&self, step: Step, took: Duration) {
        if let Some(histogram) = self.steps.get(step as usize) {
            histogram.observe(microseconds(took));
        }
    }

    pub fn websocket_bytes(&self, from_client: bool, bytes: usize) {
        let [input, output] = &self.websocket;
        if from_client { input } else { output }.inc_by(bytes as u64);
    }

    pub fn recall(&self, hit: bool) {
        if hit { &self.recall_hit } else { &self.recall_miss }.inc();
    }

    /// In the text format of OpenMetrics.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn route_meters(
    requests: &Family<RequestLabels, Counter>,
    tokens: &Family<TokenLabels, Counter>,
    route: &str,
) -> RouteMeters {
    let class = |status_class| requests.get_or_create_owned(&RequestLabels { route: route.to_owned(), status_class });
    let direction = |direction| tokens.get_or_create_owned(&TokenLabels { route: route.to_owned(), direction });
    RouteMeters {
        requests: ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
        input_tokens: direction("input"),
        output_tokens: direction("output"),
    }
}

pub fn microseconds(duration: Duration) -> f64 {
    duration.as_secs() as f64 * 1e6 + f64::from(duration.subsec_nanos()) / 1000.0
}
