//! A circuit breaker: after failures in a row a target is left alone, then probed by one request at a time.
//!
//! The states are those of Nygard's «Release It!»: closed, open, half-open. What is counted is failures in a row, not
//! a rate: a target that answers now and then is better tried than rested, since attempts fall over anyway.

use crate::limits::Moment;
use parking_lot::Mutex;
use std::time::Duration;

/// The longest that a target is left alone between probes.
const LONGEST: Duration = Duration::from_secs(60);

/// When a breaker opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row; 0 = never.
    pub failures: u32,
    /// How long it stays open the first time.
    pub open: Duration,
}

/// The state of one target. A permit is asked for before an attempt, and its outcome told after it.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when it is open, and how long it was opened for.
    open: Option<(Moment, Duration)>,
    /// Whether a probe is on its way.
    probing: bool,
    /// Until when the provider asked to be left alone (`retry-after`).
    resting: Moment,
}

impl Breaker {
    /// Whether an attempt may begin at `now`. `Ok(true)` is a probe, which must end in `succeed`, `fail` or `abandon`.
    /// `Err` says how long to wait.
    pub fn permit(&self, now: Moment) -> Result<bool, Duration> {
        let mut state = self.0.lock();
        match state.open {
            None => Ok(false),
            Some((until, _)) if now < until => Err(until - now),
            Some((_, opened)) if state.probing => Err(opened),
            Some(_) => {
                state.probing = true;
                Ok(true)
            }
        }
    }

    /// Whether an attempt at `now` would be refused or come while the provider asked for rest.
    pub fn is_shunned(&self, now: Moment) -> bool {
        let state = self.0.lock();
        now < state.resting || state.open.is_some_and(|(until, _)| now < until || state.probing)
    }

    pub fn succeed(&self) {
        let mut state = self.0.lock();
        state.failures = 0;
        state.open = None;
        state.probing = false;
    }

    pub fn fail(&self, now: Moment, policy: BreakerPolicy) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let again = match state.open {
            // Failures of attempts that began before it opened prolong nothing.
            Some(_) if !state.probing => return,
            Some((_, opened)) => (opened * 2).min(LONGEST.max(policy.open)),
            None if policy.failures > 0 && state.failures >= policy.failures => policy.open,
            None => return,
        };
        state.probing = false;
        state.open = Some((now + again, again));
    }

    /// An attempt that told nothing about the target: the client left, or another attempt was quicker.
    pub fn abandon(&self, probe: bool) {
        if probe {
            self.0.lock().probing = false;
        }
    }

    /// The provider asked to be left alone for a time; for no longer than a minute it is, since some ask for years.
    pub fn rest(&self, now: Moment, wanted: Duration) {
        let mut state = self.0.lock();
        state.resting = state.resting.max(now + wanted.min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 3, open: Duration::from_secs(1) };

    fn at(milliseconds: u64) -> Moment {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn it_opens_probes_once_and_closes() {
        let breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(breaker.permit(at(0)), Ok(false));
            breaker.fail(at(0), POLICY);
        }
        assert_eq!(breaker.permit(at(400)), Err(at(600)));
        assert_eq!(breaker.permit(at(1000)), Ok(true));
        assert!(breaker.permit(at(1000)).is_err(), "one probe at a time");
        breaker.fail(at(1100), POLICY);
        assert_eq!(breaker.permit(at(1200)), Err(at(1900)), "twice as long");
        assert_eq!(breaker.permit(at(3100)), Ok(true));
        breaker.abandon(true);
        assert_eq!(breaker.permit(at(3100)), Ok(true), "an abandoned probe gives its place back");
        breaker.succeed();
        assert_eq!(breaker.permit(at(3100)), Ok(false));
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            breaker.fail(at(0), POLICY);
            breaker.fail(at(0), POLICY);
            breaker.succeed();
        }
        assert_eq!(breaker.permit(at(0)), Ok(false));
        let never = BreakerPolicy { failures: 0, ..POLICY };
        (0..10).for_each(|_| breaker.fail(at(0), never));
        assert_eq!(breaker.permit(at(0)), Ok(false));
    }

    #[test]
    fn a_provider_that_asked_for_rest_is_shunned_but_not_refused() {
        let breaker = Breaker::default();
        breaker.rest(at(0), at(500));
        assert!(breaker.is_shunned(at(499)) && !breaker.is_shunned(at(500)));
        assert_eq!(breaker.permit(at(0)), Ok(false));
    }
}
