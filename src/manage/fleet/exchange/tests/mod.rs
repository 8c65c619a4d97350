//! Exchanges between model hosts, each with a real store of its own, through a shared store in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod healing;
mod host;
mod lies;
mod model;
mod pair;
pub(crate) mod shared;
mod stories;
