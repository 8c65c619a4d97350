//! libvirt, at arm's length.
//!
//! A program that is linked with libvirt pays ten milliseconds at each start for its fifty
//! libraries. So only the helper, `vtpm-guard-libvirt`, is; the hook and the command start it
//! when they have a question, and talk with it over two pipes.

mod attempt;
mod client;
mod conversation;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod fake;
pub mod files;
mod guests;
#[cfg(feature = "libvirt")]
pub mod helper;
mod program;
#[cfg_attr(
    not(feature = "libvirt"),
    allow(dead_code, reason = "the helper's half of it")
)]
mod protocol;
pub mod secret;
mod starting;

pub use attempt::calling_attempt;
pub use client::LibvirtClient;
pub use guests::{Guest, Libvirt, SavedRuns};
pub use program::find as helper_program;
pub use starting::{
    Process, StartingLibvirtd, a_daemon_runs, called_by_starting_libvirtd, calling_daemon,
};
