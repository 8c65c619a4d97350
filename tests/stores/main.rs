//! The shared store of a fleet: its program with a real PostgreSQL, and programs that are broken.
//!
//! What needs a server needs root, too: each such test has a network of its own, so that servers use fixed ports of
//! loopback and nothing else hears them. `./dev stores` runs all of it, `cargo test` what needs none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured"
)]

mod broken_programs;
#[path = "../kms/built.rs"]
mod built;
mod database;
#[path = "../dump/mod.rs"]
mod dump;
mod exchange;
mod fleet;
mod look_up;
mod measured;
mod members;
mod memory;
#[path = "../kms/plugin.rs"]
#[allow(dead_code, reason = "shared with the tests of key managers")]
mod plugin;
#[path = "../programs/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod programs;
mod psql;
mod reach;
mod roles;
mod rotation;
mod schema;
#[path = "../kms/service.rs"]
#[allow(dead_code, reason = "shared with the tests of key managers")]
mod service;
mod slow_transactions;
#[path = "../traces/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod traces;
