//! What happened: metrics and one log line. Called explicitly at the end of every exchange, never from `Drop`.

use crate::live::{Live, RouteEntry};
use crate::metrics::{KindLabels, Step, microseconds};
use crate::refuse::ErrorCode;
use crate::upstreams::Target;
use sluice_wire::event::Usage;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Gathers an exchange's times and facts on the way.
pub struct Tally {
    pub request_id: String,
    pub started: Instant,
    mark: Instant,
    steps: [Option<Duration>; Step::ALL.len()],
    pub route: Option<Arc<RouteEntry>>,
    pub status: u16,
    pub error: Option<ErrorCode>,
    /// Who answered.
    pub target: Option<Arc<Target>>,
    pub usage: Usage,
    pub upstream: Option<Duration>,
    pub scrubbed: Vec<(String, u32)>,
}

impl Tally {
    pub fn begin(request_id: String) -> Tally {
        let now = Instant::now();
        Tally {
            request_id,
            started: now,
            mark: now,
            steps: [None; Step::ALL.len()],
            route: None,
            status: 0,
            error: None,
            target: None,
            usage: Usage::default(),
            upstream: None,
            scrubbed: Vec::new(),
        }
    }

    /// The step that just ended began when the one before it ended.
    pub fn done(&mut self, step: Step) {
        let now = Instant::now();
        self.steps[step as usize] = Some(now - self.mark);
        self.mark = now;
    }

    /// Sluice's own time so far: the steps that wait for nobody.
    fn own(&self) -> Duration {
        Step::ALL.into_iter().filter(|step| !step.waits()).filter_map(|step| self.steps[step as usize]).sum()
    }

    /// `server-timing` (W3C): each step in milliseconds.
    pub fn server_timing(&self) -> String {
        let mut text = String::with_capacity(224);
        // Whole microseconds as milliseconds with three places. Twelve of them stand in every answer, and the standard
        // library's formatting took a tenth of the instructions of a request.
        let mut write = |name: &str, took: Duration, end: &str| {
            let micros = took.as_micros() as u64;
            text.push_str(name);
            text.push_str(";dur=");
            push_digits(micros / 1000, 1, &mut text);
            text.push('.');
            push_digits(micros % 1000, 3, &mut text);
            text.push_str(end);
        };
        for step in Step::ALL {
            if let Some(took) = self.steps[step as usize] {
                write(step.name(), took, ", ");
            }
        }
        write("own", self.own(), "");
        text
    }

    /// The steps in microseconds, for `/v1/explain`.
    pub fn microseconds(&self) -> serde_json::Map<String, serde_json::Value> {
        let known = Step::ALL.into_iter().filter_map(|step| Some((step.name().to_owned(), self.steps[step as usize]?)));
        known.map(|(name, took)| (name, microseconds(took).into())).collect()
    }
}

/// Appends `number` with at least `places` digits.
fn push_digits(mut number: u64, places: usize, out: &mut String) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    while number > 0 || digits.len() - from < places {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    digits[from..].iter().for_each(|digit| out.push(char::from(*digit)));
}

pub fn settle(tally: Tally, live: &Live) {
    let metrics = &live.metrics;
    let meters = match &tally.route {
        Some(route) => route.meters(metrics),
        None => &metrics.unrouted,
    };
    meters.requests(tally.status).inc();
    for step in Step::ALL {
        if let Some(took) = tally.steps[step as usize] {
            metrics.step(step, took);
        }
    }
    metrics.own.observe(microseconds(tally.own()));
    if let Some(target) = &tally.target {
        let meters = target.meters(metrics);
        meters.answered.inc();
        meters.upstream.observe(tally.upstream.map_or(0.0, microseconds));
    }
    meters.input_tokens.inc_by(tally.usage.input.unwrap_or(0));
    meters.output_tokens.inc_by(tally.usage.output.unwrap_or(0));
    for (kind, count) in &tally.scrubbed {
        metrics.scrubbed.get_or_create(&KindLabels { kind: kind.clone() }).inc_by(u64::from(*count));
    }
    if let Some(code) = tally.error {
        metrics.error(code);
        if code == ErrorCode::ClientDeparted && tally.upstream.is_some() {
            metrics.upstream_cancelled.inc();
        }
    }
    tracing::debug!(
        request_id = tally.request_id,
        route = tally.route.as_ref().map(|route| route.name.as_str()),
        provider = tally.target.as_ref().map(|target| target.provider.name.as_str()),
        status = tally.status,
        error = tally.error.map(|code| code.row().name),
        milliseconds = microseconds(tally.started.elapsed()) / 1000.0,
        own_milliseconds = microseconds(tally.own()) / 1000.0,
        input_tokens = tally.usage.input,
        output_tokens = tally.usage.output,
        "exchange ended"
    );
}
