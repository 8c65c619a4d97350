//! Key managers: the conformance suite, which every kind passes with its real plugin and a real server, and
//! plugins that are broken.
//!
//! What needs a server needs root, too: each such test has a network of its own, so that servers use fixed
//! ports of loopback and nothing else hears them. `./dev kms` runs all of it, `cargo test` what needs none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what was left out"
)]

mod broken_plugins;
mod built;
mod confined;
#[path = "../dump/mod.rs"]
mod dump;
mod dumps;
mod exec;
mod kmip;
mod memory;
mod page;
mod pkcs11;
mod plugin;
#[path = "../privileges/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod privileges;
#[path = "../programs/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod programs;
mod proxy;
mod service;
mod settings_page;
mod spoken;
mod suite;
mod tang;
#[path = "../traces/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod traces;
mod traces_are_found;
mod transit;
mod worked_example;
