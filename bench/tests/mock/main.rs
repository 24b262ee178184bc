//! The mock provider, spoken to over raw sockets, as a proxy or an SDK would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod dialects;
mod faults;
mod openai;
mod transport;
