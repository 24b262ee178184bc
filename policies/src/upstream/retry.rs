//! When to try again.

use crate::limits::Moment;
use parking_lot::Mutex;
use std::time::Duration;

/// Retries that are free each second, so that a quiet provider can be retried at all.
const FLOOR_PER_SECOND: f64 = 3.0;
/// How many seconds' worth of them can be saved up.
const SAVED_SECONDS: f64 = 10.0;
/// The first back-off; it doubles each time.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(4);

/// How many retries one provider may get: a share of its requests, so that retries cannot multiply an outage
/// (Finagle's retry budget).
#[derive(Debug, Default)]
pub struct Budget(Mutex<Balance>);

#[derive(Debug)]
struct Balance {
    tokens: f64,
    updated: Moment,
}

impl Default for Balance {
    fn default() -> Balance {
        Balance { tokens: FLOOR_PER_SECOND * SAVED_SECONDS, updated: Moment::ZERO }
    }
}

impl Budget {
    /// Counts a request, which pays for `percent` of a retry.
    pub fn deposit(&self, percent: u32, now: Moment) {
        let mut balance = self.0.lock();
        let passed = now.saturating_sub(balance.updated).as_secs_f64();
        let most = FLOOR_PER_SECOND * SAVED_SECONDS + f64::from(percent) * SAVED_SECONDS;
        balance.tokens = (balance.tokens + passed * FLOOR_PER_SECOND + f64::from(percent) / 100.0).min(most);
        balance.updated = now;
    }

    /// Takes a retry out, if there is one.
    pub fn withdraw(&self) -> bool {
        let mut balance = self.0.lock();
        let enough = balance.tokens >= 1.0;
        if enough {
            balance.tokens -= 1.0;
        }
        enough
    }
}

/// How long to wait before the `attempt`-th retry (from 1): full jitter between half and all of a doubling time, with
/// `random` in 0..1 (AWS Architecture Blog, «Exponential Backoff And Jitter»).
pub fn backoff(attempt: u32, random: f64) -> Duration {
    let ceiling = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
    ceiling.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// What a provider's `retry-after-ms` and `retry-after` ask for, in that order of precedence, as OpenAI's SDKs read
/// them: milliseconds; seconds, which may be fractions; or an HTTP date (RFC 9110 section 5.6.7). `now` is seconds
/// since the Unix epoch.
pub fn retry_after(milliseconds: Option<&str>, seconds: Option<&str>, now: i64) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(milliseconds) = milliseconds.and_then(number) {
        return Some(seconds_of(milliseconds / 1000.0));
    }
    let text = seconds?;
    match number(text) {
        Some(seconds) => Some(seconds_of(seconds)),
        None => http_date(text.trim()).map(|at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0))),
    }
}

/// More seconds than a duration can hold are as many as it can.
fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// An IMF-fixdate, such as `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since the Unix epoch.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month_name = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month_name)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) {
        return None;
    }
    // Days from the civil calendar (Howard Hinnant, «chrono-compatible low-level date algorithms»).
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_retry_after_is_read() {
        let read = |milliseconds, seconds| retry_after(milliseconds, seconds, 784_111_770);
        assert_eq!(read(Some("1500"), Some("9")), Some(Duration::from_millis(1500)));
        assert_eq!(read(None, Some("2")), Some(Duration::from_secs(2)));
        assert_eq!(read(None, Some("0.25")), Some(Duration::from_millis(250)));
        assert_eq!(read(None, Some("Sun, 06 Nov 1994 08:49:37 GMT")), Some(Duration::from_secs(7)));
        assert_eq!(read(None, Some("Sun, 06 Nov 1994 08:49:00 GMT")), Some(Duration::ZERO), "a date that has passed");
        assert_eq!(read(None, Some("99999999999999999999")), Some(Duration::MAX));
        for nonsense in ["", "soon", "-1", "nan", "1e999", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov"] {
            assert_eq!(read(None, Some(nonsense)), None, "{nonsense}");
        }
    }

    #[test]
    fn back_off_doubles_within_its_jitter() {
        assert_eq!(backoff(1, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(100));
        assert_eq!(backoff(3, 1.0), Duration::from_millis(400));
        assert_eq!(backoff(60, 1.0), LONGEST);
    }

    #[test]
    fn a_budget_allows_a_share_of_the_requests_beside_a_floor() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 30, "what was saved up");
        (0..100).for_each(|_| budget.deposit(20, Moment::ZERO));
        assert!((19..=20).contains(&(0..100).filter(|_| budget.withdraw()).count()));
        budget.deposit(0, Duration::from_secs(2));
        assert!((5..=6).contains(&(0..100).filter(|_| budget.withdraw()).count()), "three a second");
    }
}
