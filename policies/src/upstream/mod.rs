//! Which provider is asked, when it is asked again, and when it is left alone.
//!
//! Arithmetic only: the caller brings the time and every random number, so a decision can be replayed.

mod breaker;
mod choice;
mod retry;

pub use breaker::{Breaker, BreakerPolicy};
pub use choice::{Candidate, Latency, order};
pub use retry::{Budget, backoff, retry_after};
