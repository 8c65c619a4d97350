//! The guard at work: a real libvirtd, QEMU and swtpm, in namespaces of their own, start and
//! refuse real guests by the built programs. Needs root; `./dev test` and `./dev e2e` run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod born_from;
mod guest;
mod hook_contract;
mod host;
mod libvirt_alone;
mod many_keys;
mod refusals;
mod repairs;
mod secrets;
mod state_elsewhere;
mod store_trouble;
