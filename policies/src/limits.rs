//! Requests per minute and key.
//!
//! The arithmetic is governor's GCRA. What is ours is where the state lives: one cell per key, apart from the limiter
//! that reads it, so that a snapshot swap keeps it and an edited limit goes on from what was already used. The clock
//! is a value that the caller passes in, counted from one origin for all keys.

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use parking_lot::RwLock;
use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time since the process's origin, as the caller measured it.
pub type Moment = Duration;

/// The moment from which every limiter counts.
const ORIGIN: Moment = Duration::ZERO;

/// A clock that shows what it was set to: a limiter reads its clock once when it is made (its zero) and once for each
/// check, and the two must differ.
struct Hands(Cell<Moment>);

impl Clock for &Hands {
    type Instant = Moment;
    fn now(&self) -> Moment {
        self.0.get()
    }
}

/// One key's theoretical arrival time, in nanoseconds since the origin; 0 = never used.
#[derive(Debug, Default)]
struct Arrival(AtomicU64);

struct ArrivalRef<'c>(&'c Arrival);

impl StateStore for ArrivalRef<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = self.0.0.load(Ordering::Acquire);
        loop {
            let known = (before != 0).then(|| Nanos::from(before));
            let (outcome, after) = decide(known)?;
            match self.0.0.compare_exchange_weak(before, after.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(outcome),
                Err(now) => before = now,
            }
        }
    }
}

/// How one request stands to its key's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub limit: u32,
    pub remaining: u32,
    /// Until the whole limit is available again.
    pub reset: Duration,
}

/// A request that came too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    pub standing: Standing,
    pub retry_after: Duration,
}

/// The limits of all keys. Shared by every snapshot of a process.
#[derive(Debug, Default)]
pub struct RateLimits {
    cells: RwLock<HashMap<[u8; 16], Arc<Arrival>>>,
}

impl RateLimits {
    /// Counts a request of `key` at `now` against `requests_per_minute` (at least 1), with a burst of the same size.
    pub fn check(&self, key: [u8; 16], requests_per_minute: u32, now: Moment) -> Result<Standing, TooMany> {
        let cell = self.cell(key);
        let limit = NonZeroU32::new(requests_per_minute).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(limit);
        let interval = quota.replenish_interval();
        let hands = Hands(Cell::new(ORIGIN));
        let limiter: RateLimiter<_, _, _, StateInformationMiddleware> =
            RateLimiter::new(quota, ArrivalRef(&cell), &hands);
        hands.0.set(now);
        match limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Ok(Standing { limit: limit.get(), remaining, reset: interval * (limit.get() - remaining) })
            }
            Err(until) => {
                let standing = Standing { limit: limit.get(), remaining: 0, reset: interval * limit.get() };
                Err(TooMany { standing, retry_after: until.wait_time_from(now) })
            }
        }
    }

    fn cell(&self, key: [u8; 16]) -> Arc<Arrival> {
        if let Some(cell) = self.cells.read().get(&key) {
            return Arc::clone(cell);
        }
        Arc::clone(self.cells.write().entry(key).or_default())
    }

    /// Forgets keys that are not in `known`, so that memory follows the snapshot.
    pub fn retain(&self, known: impl Fn(&[u8; 16]) -> bool) {
        self.cells.write().retain(|key, _| known(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    #[test]
    fn a_key_gets_its_burst_and_then_one_request_per_interval() {
        let limits = RateLimits::default();
        let start = Duration::from_secs(1000);
        for left in (0..3).rev() {
            assert_eq!(limits.check(KEY, 3, start).unwrap().remaining, left);
        }
        let refused = limits.check(KEY, 3, start).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(20));
        assert!(limits.check([8; 16], 3, start).is_ok(), "another key is not touched");
        assert!(limits.check(KEY, 3, start + Duration::from_secs(19)).is_err());
        assert_eq!(limits.check(KEY, 3, start + Duration::from_secs(20)).unwrap().remaining, 0);
    }

    #[test]
    fn an_edited_limit_goes_on_from_what_was_used() {
        let limits = RateLimits::default();
        let start = Duration::from_secs(5);
        for _ in 0..60 {
            limits.check(KEY, 60, start).unwrap();
        }
        // All of the minute is used, whatever the minute is divided into.
        assert!(limits.check(KEY, 60_000, start).is_err());
        assert_eq!(limits.check(KEY, 600, start + Duration::from_secs(30)).unwrap().remaining, 299);
    }

    #[test]
    fn time_that_stands_still_or_runs_back_never_gives_more() {
        let limits = RateLimits::default();
        let late = Duration::from_secs(100);
        assert!(limits.check(KEY, 1, late).is_ok());
        assert!(limits.check(KEY, 1, late - Duration::from_secs(50)).is_err());
    }

    #[test]
    fn forgotten_keys_start_anew() {
        let limits = RateLimits::default();
        limits.check(KEY, 1, Duration::from_secs(1)).unwrap();
        limits.retain(|_| false);
        assert!(limits.check(KEY, 1, Duration::from_secs(1)).is_ok());
    }
}
