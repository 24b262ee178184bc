//! Decides who may do what, and how much.
//!
//! Pure: every decision takes its input and `now`, and gives a value. This crate knows no HTTP, no files, no async
//! and no ambient time, so that each decision can be replayed.

pub mod experiment;
pub mod grant;
pub mod limits;
pub mod upstream;
