//! The request to its provider: which target, when again, when another beside it.
//!
//! Everything here happens before a byte of content has reached the client, and inside one future that ends when the
//! client leaves: attempts, hedges and back-off with it.

use crate::answer::{Hop, Reader};
use crate::attempt::{Again, Answer, Content, Miss, Outgoing, Reply, outgoing_header, timed_out};
use crate::head::{CREDENTIALS, Notes};
use crate::live::Live;
use crate::refuse::{ErrorCode, Refusal};
use crate::relay::begin_events;
use crate::scrub::Scrubbed;
use crate::timer;
use crate::upstreams::Target;
use bytes::Bytes;
use http::Method;
use http::request::Parts;
use pingora_core::protocols::http::ServerSession;
use pingora_http::{RequestHeader, ResponseHeader};
use sluice_policies::limits::Moment;
use sluice_policies::upstream::{Candidate, backoff, order};
use sluice_wire::Dialect;
use sluice_wire::event::Usage;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the client is to get.
pub struct Upstream {
    pub scrubbed: Scrubbed,
    pub outcome: Outcome,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Whether the head of an event stream has been sent already, to keep the connection open.
    pub begun: bool,
}

pub enum Outcome {
    Answer(Box<Answer>),
    /// The provider's own error.
    Error {
        header: Box<ResponseHeader>,
        body: Bytes,
    },
}

/// How long a wait may last before the client is watched beside it. A quick answer then costs no extra system call,
/// and a departure is still noticed long before 100 ms have passed.
const WATCH_AFTER: Duration = Duration::from_millis(10);

/// The longest that a provider's `retry-after` is waited for; a client that is told can wait better.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Beyond this a rest is as good as for ever.
const MOST_REST: Duration = Duration::from_secs(3_600);

/// What ended a wait.
pub enum Watched<T> {
    Done(T),
    Departed,
    /// The time that was asked for has passed; the work goes on.
    Tick,
}

/// Runs `work` until it ends, the client leaves, or `tick` has passed.
pub async fn watch<T>(
    session: &mut ServerSession,
    mut work: Pin<&mut impl Future<Output = T>>,
    tick: Option<Duration>,
) -> Watched<T> {
    tokio::select! {
        biased;
        done = &mut work => return Watched::Done(done),
        () = timer::sleep(WATCH_AFTER) => {}
    }
    let tick = async {
        match tick {
            Some(tick) => timer::sleep(tick).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = &mut work => Watched::Done(done),
        // With pipelining on, bytes of a next request are kept and this goes on waiting; it ends when the client
        // closes its connection or resets its stream.
        _ = session.read_body_or_idle(true) => Watched::Departed,
        () = tick => Watched::Tick,
    }
}

/// Runs `work` until it ends or the client leaves, which ends it.
pub async fn unless_departed<T>(session: &mut ServerSession, work: impl Future<Output = T>) -> Option<T> {
    let work = std::pin::pin!(work);
    match watch(session, work, None).await {
        Watched::Done(done) => Some(done),
        Watched::Departed | Watched::Tick => None,
    }
}

/// Finds a target that answers.
pub async fn dispatch(
    scrubbed: Scrubbed,
    session: &mut ServerSession,
    live: &Live,
    traceparent: &str,
    notes: &Notes,
    now: Instant,
) -> Result<Upstream, Refusal> {
    let plan = &scrubbed.composed.recalled.plan;
    let streams = scrubbed.is_unread();
    let header = outgoing_header(session.req_header(), traceparent, streams).map_err(|error| {
        Refusal::new(ErrorCode::InvalidRequest, format!("The request cannot be sent on: {}", error.etype().as_str()))
    })?;
    let credential = match plan.route.route.pass_credentials {
        true => Some(own_credential(session.req_header())?),
        false => None,
    };
    let keepalive = plan.route.route.keepalive_comment.filter(|_| plan.stream);
    let attempts = AtomicU32::new(0);
    let mut begun = false;
    let outcome = {
        let outgoing = Outgoing { scrubbed: &scrubbed, live, header, credential };
        let now = live.moment_at(now);
        let race = Race { outgoing: &outgoing, targets: line(&outgoing, now), attempts: &attempts, begun: now };
        if streams {
            Box::pin(race.stream(session)).await?
        } else {
            let mut run = std::pin::pin!(race.run());
            loop {
                match watch(session, run.as_mut(), keepalive).await {
                    Watched::Done(done) => break done,
                    Watched::Departed => return Err(left()),
                    Watched::Tick => {
                        if !begin_events(session, notes, begun).await {
                            return Err(left());
                        }
                        begun = true;
                    }
                }
            }
        }
    };
    let attempts = attempts.into_inner();
    match outcome.map_err(|miss| miss.reply) {
        Ok(answer) => Ok(Upstream { scrubbed, outcome: Outcome::Answer(answer), attempts, begun }),
        Err(Reply::Error { header, body }) => {
            Ok(Upstream { scrubbed, outcome: Outcome::Error { header, body }, attempts, begun })
        }
        Err(Reply::Refusal(refusal)) => Err(refusal.in_band(begun)),
    }
}

pub fn left() -> Refusal {
    Refusal::new(ErrorCode::ClientDeparted, "The client left.")
}

/// The caller's provider credential, which stands where its Sluice key would; that one is in `x-sluice-key`.
fn own_credential(head: &RequestHeader) -> Result<String, Refusal> {
    let missing = || {
        Refusal::new(
            ErrorCode::InvalidRequest,
            "This route passes on the caller's own provider key: send it as `Authorization: Bearer …`, and the Sluice key as `x-sluice-key`.",
        )
    };
    if !head.headers.contains_key("x-sluice-key") {
        return Err(missing());
    }
    let found = CREDENTIALS.iter().skip(1).find_map(|name| head.headers.get(*name)?.to_str().ok());
    let found = found.map(|value| value.strip_prefix("Bearer ").unwrap_or(value).trim());
    found.filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(missing)
}

/// The route's targets in the order in which they are asked, then its fallbacks.
fn line(outgoing: &Outgoing<'_>, now: Moment) -> Vec<Arc<Target>> {
    let plan = &outgoing.scrubbed.composed.recalled.plan;
    let route = &plan.route;
    if let ([only], []) = (route.targets.as_slice(), route.fallbacks.as_slice()) {
        return vec![Arc::clone(only)];
    }
    let candidates: Vec<Candidate> = route
        .targets
        .iter()
        .map(|target| Candidate {
            weight: target.weight,
            cost: target.state.latency.cost(now),
            shunned: target.state.breaker.is_shunned(now),
            identity: target.identity,
        })
        .collect();
    let chosen = order(&candidates, plan.session, random()).into_iter().map(|index| &route.targets[index]);
    // One that is to be left alone comes after the fallbacks that are well.
    let (mut first, last): (Vec<_>, Vec<_>) =
        chosen.chain(&route.fallbacks).cloned().partition(|target| !target.state.breaker.is_shunned(now));
    first.extend(last);
    first
}

/// A random number: of no use to an attacker, so a failure of the source does no harm.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// The attempts for one request.
struct Race<'a> {
    outgoing: &'a Outgoing<'a>,
    targets: Vec<Arc<Target>>,
    attempts: &'a AtomicU32,
    /// When it began.
    begun: Moment,
}

/// What is known of one place in the line.
#[derive(Clone, Copy, Default)]
struct Place {
    tried: bool,
    /// No attempt there makes sense.
    out: bool,
    /// When the provider wants to be asked again.
    rested: Option<Instant>,
}

impl Race<'_> {
    async fn attempt(&self, place: usize) -> Result<Box<Answer>, Miss> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.outgoing.attempt(&self.targets[place]).await
    }

    /// Whether the call may be made twice without doing anything twice.
    fn is_repeatable(&self) -> bool {
        let plan = &self.outgoing.scrubbed.composed.recalled.plan;
        plan.dialect() != Dialect::Other || matches!(self.outgoing.header.method, Method::GET | Method::HEAD)
    }

    async fn run(&self) -> Result<Box<Answer>, Miss> {
        let plan = &self.outgoing.scrubbed.composed.recalled.plan;
        let mut left = plan.route.route.retries;
        let mut places = vec![Place::default(); self.targets.len()];
        let mut place = self.first_that_fits();
        let mut retries = 0;
        // What the client is told: the first real answer of a provider, not that others were closed.
        let mut told: Option<Miss> = None;
        loop {
            let target = &self.targets[place];
            let provider = &target.provider;
            if retries == 0 {
                provider.state.budget.deposit(provider.config.retry_budget_percent, self.begun);
            }
            let hedge = plan.route.route.hedge_after.filter(|_| retries == 0 && self.is_repeatable());
            places[place].tried = true;
            let outcome = match (hedge, self.next_untried(&places)) {
                (Some(delay), Some(other)) => Box::pin(self.hedged(place, other, delay, &mut places)).await,
                _ => self.attempt(place).await,
            };
            let miss = match outcome {
                Ok(answer) => return Ok(answer),
                Err(miss) => miss,
            };
            match miss.again {
                Again::Nowhere => return Err(miss),
                Again::Elsewhere => places[place].out = true,
                Again::Larger => self.leave_smaller(place, &mut places),
                Again::Anywhere(rest) => places[place].rested = rest.map(|rest| Instant::now() + rest.min(MOST_REST)),
            }
            let may_repeat = self.is_repeatable() || miss.is_unsent;
            let was_closed = miss.is_closed();
            if told.is_none() || !was_closed {
                told = Some(miss);
            }
            retries += u32::from(!was_closed);
            let next = self.next(&places, retries);
            match (next, told) {
                (Some((next, wait)), Some(miss)) if may_repeat && (left > 0 || was_closed) => {
                    left -= u32::from(!was_closed).min(left);
                    // Falling over to another target is no retry of that one, and must work when all requests do it.
                    let again = places[next].tried && !was_closed;
                    if again && !self.targets[next].provider.state.budget.withdraw() {
                        return Err(miss);
                    }
                    if !wait.is_zero() {
                        timer::sleep(wait).await;
                    }
                    told = Some(miss);
                    place = next;
                }
                (_, Some(miss)) => return Err(miss),
                (_, None) => return Err(timed_out("answering", Duration::ZERO)),
            }
        }
    }

    /// The first place whose context window may hold the request, counted only where a target states one.
    fn first_that_fits(&self) -> usize {
        let states_window = self.targets.iter().any(|target| target.context_window.is_some());
        let plan = &self.outgoing.scrubbed.composed.recalled.plan;
        if !states_window || self.targets.len() < 2 || !plan.dialect().is_conversation() {
            return 0;
        }
        let tokens = sluice_text::about_tokens(plan.asked());
        let fits = |target: &Arc<Target>| target.context_window.is_none_or(|window| tokens <= window as usize);
        self.targets.iter().position(fits).unwrap_or(0)
    }

    fn next_untried(&self, places: &[Place]) -> Option<usize> {
        places.iter().position(|place| !place.tried && !place.out)
    }

    /// The next place to try, and how long to wait before it.
    fn next(&self, places: &[Place], retries: u32) -> Option<(usize, Duration)> {
        if let Some(untried) = self.next_untried(places) {
            return Some((untried, Duration::ZERO));
        }
        let now = Instant::now();
        let random = (random() >> 11) as f64 / (1u64 << 53) as f64;
        let wait = |place: &Place| match place.rested {
            Some(at) => at.saturating_duration_since(now),
            None => backoff(retries, random),
        };
        let open = places.iter().enumerate().filter(|(_, place)| !place.out);
        let (place, wait) = open.map(|(index, place)| (index, wait(place))).min_by_key(|(_, wait)| *wait)?;
        (wait <= LONGEST_REST).then_some((place, wait))
    }

    /// Leaves out what cannot hold more than the target at `place` could.
    fn leave_smaller(&self, place: usize, places: &mut [Place]) {
        places[place].out = true;
        let Some(window) = self.targets[place].context_window else { return };
        for (target, other) in self.targets.iter().zip(places.iter_mut()) {
            other.out |= target.context_window.is_some_and(|its| its <= window);
        }
    }

    /// An attempt at `first`, and one at `other` when the first has not answered after `delay`. The one that answers
    /// second is dropped, which ends its call.
    async fn hedged(
        &self,
        first: usize,
        other: usize,
        delay: Duration,
        places: &mut [Place],
    ) -> Result<Box<Answer>, Miss> {
        let mut one = std::pin::pin!(self.attempt(first));
        tokio::select! {
            biased;
            done = &mut one => return done,
            () = timer::sleep(delay) => {}
        }
        places[other].tried = true;
        let mut two = std::pin::pin!(self.attempt(other));
        let lost = |place: usize| {
            self.outgoing.live.metrics.attempt_failed(&self.targets[place].provider.name, "hedge_lost");
        };
        tokio::select! {
            biased;
            done = &mut one => match done {
                Ok(answer) => {
                    lost(other);
                    Ok(answer)
                }
                Err(_) => two.await,
            },
            done = &mut two => match done {
                Ok(answer) => {
                    lost(first);
                    Ok(answer)
                }
                Err(_) => one.await,
            },
        }
    }

    /// Streams a body that Sluice does not read. It can be sent once, so only connecting is tried again.
    async fn stream(&self, session: &mut ServerSession) -> Result<Result<Box<Answer>, Miss>, Refusal> {
        let mut told = None;
        for target in &self.targets {
            let encoded = self.outgoing.scrubbed.encode(target).map_err(Refusal::with_unread_body)?;
            self.attempts.fetch_add(1, Ordering::Relaxed);
            // The client cannot be watched while its body waits to be read; connecting has a limit of its own.
            match self.outgoing.open_stream(target, &encoded).await {
                Ok((mut reader, header)) => {
                    let patience = target.provider.config.header_timeout;
                    pump(&mut reader.hop, header, &encoded.path, session, patience).await?;
                    return match unless_departed(session, reader.hop.read_head()).await {
                        None => Err(left()),
                        Some(answered) => Ok(self.streamed(answered, reader, encoded)),
                    };
                }
                Err(miss) => {
                    told.get_or_insert(miss);
                }
            }
        }
        match told {
            Some(Miss { reply: Reply::Refusal(refusal), .. }) => Err(refusal.with_unread_body()),
            _ => Err(Refusal::new(ErrorCode::UpstreamConnectFailed, "The route has no target.").with_unread_body()),
        }
    }

    fn streamed(
        &self,
        answered: Result<ResponseHeader, Box<pingora_core::Error>>,
        mut reader: Reader,
        encoded: crate::scrub::Encoded,
    ) -> Result<Box<Answer>, Miss> {
        let now = self.outgoing.live.moment();
        match answered {
            Ok(header) => {
                reader.permit.succeed(Duration::ZERO, now);
                let (content, usage) = (Content::Verbatim, Usage::default());
                Ok(Box::new(Answer { reader, header, content, encoded, usage, transcript: None }))
            }
            Err(_) => {
                reader.permit.fail(now);
                Err(timed_out(
                    "or closed the connection waiting for the answer's header",
                    reader.target.provider.config.header_timeout,
                ))
            }
        }
    }
}

/// Streams a body that Sluice does not read.
async fn pump(
    upstream: &mut Hop,
    head: Parts,
    path: &str,
    session: &mut ServerSession,
    patience: Duration,
) -> Result<(), Refusal> {
    let lost = |_| {
        Refusal::new(ErrorCode::UpstreamProtocolError, "The provider stopped reading the request.").with_unread_body()
    };
    upstream.send_head(head, path).await.map_err(lost)?;
    loop {
        match tokio::time::timeout(patience, session.read_request_body()).await {
            Ok(Ok(Some(chunk))) => upstream.send_piece(chunk).await.map_err(lost)?,
            Ok(Ok(None)) => return upstream.finish().await.map_err(lost),
            Ok(Err(_)) => return Err(left().with_unread_body()),
            Err(_) => return Err(Refusal::new(ErrorCode::BodyTimeout, "The request body stalled.").with_unread_body()),
        }
    }
}
