//! What Sluice is measured with: a scripted mock provider, a load generator, a bare reference proxy and the
//! journey benchmark that puts them together.
//!
//! It drives the built binary from outside and knows none of Sluice's private items; a measurement that reaches
//! inside would not say what a user sees.

pub mod chat;
pub mod journey;
pub mod load;
pub mod measure;
pub mod mock;
pub mod statistics;
