//! Performs what outlives a request at an edge: following the published snapshots, and keeping records of what happened.
//!
//! It knows neither the request path nor any dialect. A [`Follower`] polls a snapshot location, downloads what
//! changed into a folder of the edge's own, verifies it, opens and warms it, and hands over a [`Snapshot`]. Whatever
//! goes wrong is an error that the caller reports; the snapshot in force stays. A [`Journal`] takes records without
//! waiting and ships them to the same location, and [`Sessions`] keep what a session needs again. An [`Announcer`] says
//! that something was published, for who [`listen`]s.

mod cache;
mod follower;
mod hint;
mod journal;
mod sessions;

pub use follower::{Follower, Snapshot, SyncError};
pub use hint::{Announcer, HintError, announce, listen};
pub use journal::Journal;
pub use sessions::{SessionId, Sessions, SessionsError, SessionsHandle};
