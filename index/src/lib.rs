//! Answers a [`Query`] with ranked [`Hit`]s from one immutable snapshot, and assembles them to a token budget.
//!
//! It knows nothing of HTTP, limits or providers. A query can only be built from a [`Scope`], and a scope holds one
//! tenant: there is no call that searches without one.

mod adapt;
mod assemble;
mod bits;
mod build;
mod filter;
mod history;
mod library;
mod payload;
mod search;
mod segment;
mod top;

pub use adapt::{Pool, Rendered, When, render};
pub use assemble::{Assembled, Used, assemble};
pub use build::{BuildError, SegmentFiles, SegmentWriter, expansion};
pub use filter::Filter;
pub use history::{Fold, HALF_LIFE, Spoken, Strategy, fold, keep};
pub use library::{Collection, Library, PRIVATE, Scope, SubjectMark};
pub use search::{Boost, Decay, Fusion, Hit, Hits, Query, Ranking};
pub use segment::{OpenError, Segment};
