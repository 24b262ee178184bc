//! How long the mock takes: a fixed time, or one drawn from a distribution.

use crate::statistics::Random;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::str::FromStr;
use std::time::Duration;

/// A wait, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// `20`: always this long.
    Fixed(f64),
    /// `10..50`: anything between the two, equally often.
    Uniform(f64, f64),
    /// `exponential:20`: the gaps of independent events, by their mean.
    Exponential(f64),
    /// `lognormal:20,90`: what latencies of services look like, by the median and the 99th percentile.
    LogNormal { median: f64, p99: f64 },
}

/// A day, the longest that is ever waited.
const LONGEST: f64 = 86_400_000.0;

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874;

impl Wait {
    /// A wait that is drawn; nothing where none is to be.
    pub(super) fn draw(self, random: &mut Random) -> Option<Duration> {
        let time = match self {
            Wait::Fixed(time) => time,
            Wait::Uniform(from, to) => from + (to - from) * random.unit(),
            Wait::Exponential(mean) => mean * random.exponential(),
            Wait::LogNormal { median, p99 } => median * ((p99 / median).ln() / NORMAL_P99 * normal(random)).exp(),
        };
        (time > 0.0).then(|| Duration::from_secs_f64(time.min(LONGEST) / 1e3))
    }
}

/// The standard normal distribution (G. E. P. Box, M. E. Muller, "A Note on the Generation of Random Normal Deviates",
/// 1958).
fn normal(random: &mut Random) -> f64 {
    (2.0 * random.exponential()).sqrt() * (std::f64::consts::TAU * random.unit()).cos()
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Wait, String> {
        const FORMS: &str = "milliseconds are written as 20, 10..50, exponential:MEAN or lognormal:MEDIAN,P99";
        let time = |text: &str| match text.trim().parse::<f64>() {
            Ok(time) if (0.0..=LONGEST).contains(&time) => Ok(time),
            Ok(time) => Err(format!("{time} is no wait: it is from 0 to {LONGEST} milliseconds")),
            Err(_) => Err(format!(r#""{text}" is no wait; {FORMS}"#)),
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (time(from)?, time(to)?);
            return if from <= to { Ok(Wait::Uniform(from, to)) } else { Err(format!("{from}..{to} goes backwards")) };
        }
        match text.split_once(':') {
            None => time(text).map(Wait::Fixed),
            Some(("exponential", mean)) => time(mean).map(Wait::Exponential),
            Some(("lognormal", both)) => {
                let (median, p99) = both.split_once(',').ok_or_else(|| format!(r#""{text}" is no wait; {FORMS}"#))?;
                let (median, p99) = (time(median)?, time(p99)?);
                let is_one = 0.0 < median && median <= p99;
                let message = || format!("{text}: the median is more than 0, and the 99th percentile no less");
                is_one.then_some(Wait::LogNormal { median, p99 }).ok_or_else(message)
            }
            Some(_) => Err(format!(r#""{text}" is no wait; {FORMS}"#)),
        }
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wait, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(wait: &str) -> [f64; 3] {
        let wait: Wait = wait.parse().expect("a wait");
        let mut random = Random::of(7);
        let mut drawn: Vec<f64> =
            (0..100_000).map(|_| wait.draw(&mut random).unwrap_or_default().as_secs_f64() * 1e3).collect();
        drawn.sort_by(f64::total_cmp);
        [0.01, 0.5, 0.99].map(|share| crate::statistics::at(&drawn, share))
    }

    fn assert_near(found: [f64; 3], expected: [f64; 3]) {
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() <= 0.03 * expected, "{found} instead of {expected}");
        }
    }

    #[test]
    fn what_is_drawn_has_the_percentiles_of_its_distribution() {
        assert_near(percentiles("20"), [20.0, 20.0, 20.0]);
        assert_near(percentiles("10..50"), [10.4, 30.0, 49.6]);
        // Quantiles of the exponential distribution: −mean · ln(1 − p).
        assert_near(percentiles("exponential:20"), [0.201, 13.863, 92.1]);
        // The logarithm is as far below the median at 1 % as it is above it at 99 %.
        assert_near(percentiles("lognormal:20,90"), [20.0 * 20.0 / 90.0, 20.0, 90.0]);
        assert_eq!(Wait::Fixed(0.0).draw(&mut Random::of(1)), None);
    }

    #[test]
    fn what_cannot_be_waited_is_refused() {
        for (text, message) in [
            ("soon", r#""soon" is no wait; milliseconds are written as"#),
            ("-1", "-1 is no wait: it is from 0"),
            ("NaN", "NaN is no wait"),
            ("50..10", "50..10 goes backwards"),
            ("lognormal:20", "is no wait"),
            ("lognormal:0,5", "the median is more than 0"),
            ("lognormal:20,5", "no less"),
            ("normal:20,5", "exponential:MEAN or lognormal:MEDIAN,P99"),
        ] {
            let error = text.parse::<Wait>().expect_err(text);
            assert!(error.contains(message), "{error}");
        }
    }
}
