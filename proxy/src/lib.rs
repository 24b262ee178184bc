//! Carries one request from its socket to a provider and back.
//!
//! [`exchange`](crate::exchange) reads like the journey: each step takes the type that the step before it gives, so a
//! step cannot be left out. This crate knows no storage formats, no scoring and no SQL.

// The journey, in its order.
mod server;

mod exchange;

mod identify;

mod adapt;
mod admit;

mod intake;

mod plan;

mod recall;

mod compose;

mod scrub;

mod dispatch;

mod attempt;

mod answer;

mod events;

mod relay;

mod settle;

// What it stands on.
mod call;
mod certificate;
mod cors;
mod embedders;
mod feedback;
mod head;
mod http1;
mod live;
mod metrics;
mod prompt;
mod refuse;
mod summaries;
mod timer;
mod trace;
mod transcript;
mod tunnel;
mod upstreams;
mod websocket;
mod window;

pub use call::CallError;
pub use embedders::{EmbedderError, Embedders};
pub use live::{Live, PrepareError, Prepared, Readiness};
pub use refuse::ErrorCode;
pub use server::{ServeError, serve};
pub use summaries::SummarizerError;
pub use upstreams::States;
