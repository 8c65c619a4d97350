//! Exchanges between model hosts, each with a real store of its own, through a shared store in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;
mod model;
pub(crate) mod shared;
mod stories;
