//! In which order a route's targets are asked.
//!
//! Without a session: power of two choices (Mitzenmacher 2001) over an exponentially weighted moving average of the
//! time to first token, times the requests in flight, so that one slow target does not draw a herd to the other.
//! With a session: rendezvous hashing, so that a conversation stays with the provider whose prompt cache is warm, and
//! moves only when that target is shunned.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How fast the average forgets: a sample that is this old counts for 1/e.
const MEMORY: Duration = Duration::from_secs(10);

/// What is known of a target's speed. Kept beside configurations, so that a reload forgets nothing.
#[derive(Debug, Default)]
pub struct Latency {
    average: Mutex<Average>,
    in_flight: AtomicU32,
}

#[derive(Debug, Default)]
struct Average {
    seconds: f64,
    updated: Duration,
}

impl Latency {
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes in a time to first token. A peak counts at once, recovery is believed slowly (Finagle's peak EWMA).
    pub fn observe(&self, took: Duration, now: Duration) {
        let mut average = self.average.lock();
        let took = took.as_secs_f64();
        if took > average.seconds {
            average.seconds = took;
        } else {
            let keep = average.kept(now);
            average.seconds = average.seconds * keep + took * (1.0 - keep);
        }
        average.updated = now;
    }

    /// What another request would have to wait for, in seconds times requests. A target that has never answered costs
    /// nothing, so that it is tried; one that has not answered for long costs ever less, so that it is tried again.
    pub fn cost(&self, now: Duration) -> f64 {
        let average = self.average.lock();
        average.seconds * average.kept(now) * f64::from(self.in_flight.load(Ordering::Relaxed) + 1)
    }
}

impl Average {
    /// How much of the average still counts.
    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.updated).as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

/// A target as a choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub weight: u32,
    pub cost: f64,
    /// Whether it is to be asked only when no other is left.
    pub shunned: bool,
    /// Names the target in hashes, whatever its place in the list.
    pub identity: u64,
}

/// The order in which targets are asked, as indexes into `candidates`; all of them occur. `seed` is random, `session`
/// a hash of what the request belongs to.
pub fn order(candidates: &[Candidate], session: Option<u64>, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    if candidates.len() < 2 {
        return order;
    }
    // Weighted rendezvous (Schindelhauer and Schomaker 2005): the greatest weight / -ln(hash) is first. With a random
    // seed in place of the session it is a weighted random permutation.
    let score = |index: usize| {
        let candidate = &candidates[index];
        let unit = (mix(candidate.identity ^ mix(session.unwrap_or(seed))) >> 11) as f64 / (1u64 << 53) as f64;
        -f64::from(candidate.weight.max(1)) / unit.max(f64::MIN_POSITIVE).ln()
    };
    order.sort_by(|&left, &right| score(right).total_cmp(&score(left)));
    if session.is_none() && candidates[order[1]].cost < candidates[order[0]].cost {
        order.swap(0, 1);
    }
    order.sort_by_key(|&index| candidates[index].shunned);
    order
}

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(weight: u32, cost: f64, identity: u64) -> Candidate {
        Candidate { weight, cost, shunned: false, identity }
    }

    fn first_counts(candidates: &[Candidate]) -> Vec<usize> {
        let mut counts = vec![0; candidates.len()];
        (0..20_000).for_each(|seed| counts[order(candidates, None, seed)[0]] += 1);
        counts
    }

    #[test]
    fn weights_are_shares() {
        let counts = first_counts(&[candidate(3, 0.0, 1), candidate(1, 0.0, 2)]);
        assert!((14_500..15_500).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn of_two_choices_the_quicker_is_first() {
        let counts = first_counts(&[candidate(1, 1.0, 1), candidate(1, 0.1, 2), candidate(1, 0.5, 3)]);
        assert_eq!(counts[0], 0, "the slowest is never the better of two");
        assert!(counts[1] > counts[2]);
    }

    #[test]
    fn a_session_stays_until_its_target_is_shunned_and_others_stay_where_they_are() {
        let mut candidates = [candidate(1, 9.0, 1), candidate(1, 0.1, 2), candidate(1, 0.5, 3)];
        let homes: Vec<usize> = (0..300).map(|session| order(&candidates, Some(session), session)[0]).collect();
        assert!((0..300).all(|session| order(&candidates, Some(session), 99)[0] == homes[session as usize]));
        assert!([0, 1, 2].iter().all(|target| homes.contains(target)));
        candidates[0].shunned = true;
        for (session, home) in homes.iter().enumerate() {
            let now = order(&candidates, Some(session as u64), 5)[0];
            assert!(now != 0 && (*home == 0 || now == *home));
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(100), Duration::from_secs(1));
        latency.observe(Duration::from_secs(5), Duration::from_secs(2));
        let cost = |second| latency.cost(Duration::from_secs(second));
        assert_eq!(cost(2), 5.0);
        latency.observe(Duration::from_millis(100), Duration::from_secs(3));
        assert!((4.0..5.0).contains(&cost(3)));
        assert!(cost(33) < 0.3, "a target that is not asked is forgiven");
        latency.observe(Duration::from_millis(100), Duration::from_secs(103));
        assert!(cost(103) < 0.11);
        latency.begin();
        assert!((0.2..0.22).contains(&cost(103)));
    }
}
