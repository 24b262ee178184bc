//! What happened: metrics and one log line. Called explicitly at the end of every exchange, never from `Drop`.

use crate::live::{KeyEntry, Live, RouteEntry, now_microseconds};
use crate::metrics::{KindLabels, Step, microseconds};
use crate::plan::UnitHashes;
use crate::refuse::ErrorCode;
use crate::transcript::Transcript;
use crate::upstreams::Target;
use sluice_scrub::Vault;
use sluice_segment::Run;
use sluice_wire::event::Usage;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Gathers an exchange's times and facts on the way.
pub struct Tally {
    pub request_id: String,
    /// When it began, in microseconds since the Unix epoch.
    pub at: i64,
    pub started: Instant,
    /// When the last of it was written, where it came so far.
    pub ended: Option<Instant>,
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
    /// Where it stands what of the answer was masked.
    pub vault: Option<Arc<Vault>>,
    /// Who asked, once that is known.
    pub key: Option<Arc<KeyEntry>>,
    /// Which prompt version, and of which experiment's arm.
    pub prompt: Option<PromptUsed>,
    pub units: UnitHashes,
    /// What the client named as the model.
    pub model: Option<String>,
    /// What was said, where the key's tenant keeps it.
    pub transcript: Option<Arc<Transcript>>,
}

/// The prompt of an exchange, for its record.
pub struct PromptUsed {
    pub alias: String,
    pub environment: String,
    pub version: u32,
    pub arm: Option<(String, String)>,
}

impl Tally {
    /// When the last step ended.
    pub fn mark(&self) -> Instant {
        self.mark
    }

    pub fn begin(request_id: String) -> Tally {
        let now = Instant::now();
        Tally {
            request_id,
            at: now_microseconds(),
            started: now,
            ended: None,
            mark: now,
            steps: [None; Step::ALL.len()],
            route: None,
            status: 0,
            error: None,
            target: None,
            usage: Usage::default(),
            upstream: None,
            scrubbed: Vec::new(),
            vault: None,
            key: None,
            prompt: None,
            units: UnitHashes::default(),
            model: None,
            transcript: None,
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
        let mut write = |name: &str, took: Duration, end: &str| {
            text.push_str(name);
            text.push_str(";dur=");
            push_milliseconds(took, &mut text);
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

/// Appends whole microseconds as milliseconds with three places. Some stand in every answer, and the standard library's
/// formatting took a tenth of the instructions of a request.
fn push_milliseconds(took: Duration, out: &mut String) {
    let mut digits = [b'0'; 24];
    let mut from = digits.len();
    let mut left = took.as_secs() * 1_000_000 + u64::from(took.subsec_micros());
    while left > 0 || from > digits.len() - 5 {
        if from == digits.len() - 3 {
            from -= 1;
            digits[from] = b'.';
        }
        from -= 1;
        digits[from] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.push_str(std::str::from_utf8(&digits[from..]).unwrap_or_default());
}

pub fn settle(tally: Tally, live: &Live) {
    let metrics = &live.metrics;
    let took = tally.ended.unwrap_or_else(Instant::now).saturating_duration_since(tally.started);
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
    let own = tally.own();
    metrics.own.observe(microseconds(own));
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
    for (kind, count) in tally.vault.iter().flat_map(|vault| vault.answer_counts()) {
        metrics.scrubbed_answers.get_or_create(&KindLabels { kind }).inc_by(u64::from(count));
    }
    if let Some(code) = tally.error {
        metrics.error(code);
        if code == ErrorCode::ClientDeparted && tally.upstream.is_some() {
            metrics.upstream_cancelled.inc();
        }
    }
    if let Some(key) = tally.key.as_ref().filter(|_| live.journal.is_some() || tally.transcript.is_some()) {
        let run = run(&tally, key, own, took);
        if let (Some(contents), Some(transcript)) = (&live.contents, &tally.transcript)
            && let Some(record) = transcript.record(&run, &live.record_key)
        {
            contents.append(&record);
        }
        if let Some(journal) = &live.journal {
            let mut record = Vec::with_capacity(1 << 10);
            run.write(&mut record);
            journal.append(&record);
        }
    }
    tracing::debug!(
        request_id = tally.request_id,
        route = tally.route.as_ref().map(|route| route.name.as_str()),
        provider = tally.target.as_ref().map(|target| target.provider.name.as_str()),
        status = tally.status,
        error = tally.error.map(|code| code.row().name),
        milliseconds = microseconds(took) / 1000.0,
        own_milliseconds = microseconds(own) / 1000.0,
        input_tokens = tally.usage.input,
        output_tokens = tally.usage.output,
        "exchange ended"
    );
}

/// Longest name of a model in a record, in characters.
const MAX_MODEL: usize = 128;

/// The exchange as the store gets to know it. Ids, counts and times; no text of the conversation.
fn run<'t>(tally: &'t Tally, key: &'t KeyEntry, own: Duration, took: Duration) -> Run<'t> {
    let hash = |hash: Option<[u8; 16]>| hash.map_or(Cow::Borrowed(""), |hash| Cow::Owned(hex::encode(hash)));
    let prompt = tally.prompt.as_ref();
    let arm = prompt.and_then(|prompt| prompt.arm.as_ref());
    let (session, subject) = (hash(tally.units.session), hash(tally.units.subject));
    let target = tally.target.as_ref();
    let named = target.and_then(|target| target.model.as_deref()).or(tally.model.as_deref()).unwrap_or_default();
    // What a client names may be any text, of any length.
    let model: String = named.chars().filter(|c| !c.is_control()).take(MAX_MODEL).collect();
    let count = |tokens: Option<u64>| i64::try_from(tokens.unwrap_or(0)).unwrap_or(i64::MAX);
    Run {
        id: Cow::Borrowed(&tally.request_id),
        tenant: Cow::Borrowed(&key.tenant_name),
        // When it began: what was asked before its subject was erased is to be forgotten, whenever it was answered.
        at: tally.at,
        key: Cow::Borrowed(&key.id_name),
        route: tally.route.as_ref().map_or(Cow::Borrowed(""), |route| Cow::Borrowed(route.name.as_str())),
        provider: target.map_or(Cow::Borrowed(""), |target| Cow::Borrowed(target.provider.name.as_str())),
        model: Cow::Owned(model),
        prompt: prompt.map_or(Cow::Borrowed(""), |prompt| Cow::Borrowed(prompt.alias.as_str())),
        version: prompt.map_or(0, |prompt| i64::from(prompt.version)),
        environment: prompt.map_or(Cow::Borrowed(""), |prompt| Cow::Borrowed(prompt.environment.as_str())),
        experiment: arm.map_or(Cow::Borrowed(""), |(experiment, _)| Cow::Borrowed(experiment.as_str())),
        arm: arm.map_or(Cow::Borrowed(""), |(_, arm)| Cow::Borrowed(arm.as_str())),
        session,
        subject,
        status: i64::from(tally.status),
        error: Cow::Borrowed(tally.error.map_or("", |code| code.row().name)),
        input_tokens: count(tally.usage.input),
        output_tokens: count(tally.usage.output),
        own_microseconds: own.as_micros() as i64,
        total_microseconds: took.as_micros() as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_places() {
        for (micros, text) in [
            (0, "0.000"),
            (7, "0.007"),
            (120, "0.120"),
            (1_000, "1.000"),
            (12_034, "12.034"),
            (3_600_000_001, "3600000.001"),
        ] {
            let mut out = String::from("dur=");
            push_milliseconds(Duration::from_micros(micros), &mut out);
            assert_eq!(out, format!("dur={text}"));
        }
    }
}
