//! When requests are sent.

use crate::statistics::Random;
use std::time::Duration;

/// How a target is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Every connection sends its next request as soon as it has an answer.
    Closed { connections: usize },
    /// Requests are sent at their times; `connections` bounds how many answers may be outstanding.
    Open {
        /// Requests a second at the beginning and at the end; the rate rises or falls evenly between them.
        from: f64,
        to: f64,
        /// Gaps are exponentially distributed, as those of many independent callers are; even otherwise.
        poisson: bool,
        connections: usize,
    },
}

impl Load {
    pub fn connections(&self) -> usize {
        match self {
            Load::Closed { connections } | Load::Open { connections, .. } => *connections,
        }
    }

    /// When each of `count` requests is due, from the beginning on; nothing in a closed loop. Equal seeds give equal
    /// times.
    pub(super) fn times(&self, count: u64, seed: u64) -> Vec<Duration> {
        let Load::Open { from, to, poisson, .. } = *self else { return Vec::new() };
        let mut random = Random::of(seed);
        let mut at = 0.0;
        let mut times = Vec::with_capacity(count as usize);
        for number in 0..count {
            times.push(Duration::from_secs_f64(at));
            let rate = from + (to - from) * number as f64 / count.max(1) as f64;
            let gap = if poisson { random.exponential() } else { 1.0 };
            at += gap / rate.max(1e-6);
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_the_rate() {
        let open = |from, to, poisson| Load::Open { from, to, poisson, connections: 1 };
        let even = open(100.0, 100.0, false).times(101, 1);
        assert_eq!(even[100], Duration::from_secs(1));
        let poisson = open(100.0, 100.0, true).times(20_001, 7);
        assert!((poisson[20_000].as_secs_f64() - 200.0).abs() < 6.0, "{:?}", poisson[20_000]);
        assert_eq!(poisson, open(100.0, 100.0, true).times(20_001, 7));
        let ramp = open(10.0, 1_000.0, false).times(1_000, 1);
        assert!(ramp[100] - ramp[0] > 3 * (ramp[999] - ramp[899]));
        assert!(Load::Closed { connections: 3 }.times(5, 1).is_empty());
    }
}
