//! libvirt, asked through a helper process, or over its socket.
//!
//! A program that is linked with libvirt needs ten milliseconds more to start, for fifty libraries.
//! So only the helper, `vtpm-guard-libvirt`, is linked with it. The command starts the helper when it has
//! a question, and talks to it over two pipes. The hook, which asks about secrets alone, speaks libvirt's
//! own protocol ([`wire`]), and starts the helper only where that does not do.

mod attempt;
mod call_error;
mod client;
mod conversation;
mod daemon;
mod daemons;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod fake;
pub mod files;
mod guests;
#[cfg(feature = "libvirt")]
pub mod helper;
mod metadata;
#[cfg_attr(
    not(feature = "libvirt"),
    allow(dead_code, reason = "half of it is the helper's")
)]
mod protocol;
#[cfg_attr(
    not(feature = "libvirt"),
    allow(dead_code, unused_imports, reason = "half of it is the helper's")
)]
pub mod secret;
mod secret_driver;
mod secrets;
mod silence;
mod starting;
mod wire;

pub use attempt::calling_attempt;
pub use client::LibvirtClient;
#[cfg(feature = "internals")]
pub use daemon::process_says;
pub use daemon::{Process, a_daemon_runs, called_by_starting_daemon, calling_daemon, daemon_runs};
pub use daemons::Daemons;
pub use guests::{Guest, Libvirt, SavedRuns};
#[cfg(any(test, feature = "internals"))]
pub use metadata::Element;
pub use metadata::{Metadata, MetadataChange};
pub use silence::Silence;
pub use starting::StartingLibvirtd;
#[cfg(test)]
pub(crate) use wire::daemon::FakeDaemon;
#[cfg(feature = "internals")]
pub use wire::{names_mode, value_from};

/// Whether these are the bytes of a request, and of a response, of the helper's protocol, for
/// fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_message(frame: &[u8]) -> (bool, bool) {
    let is_request = protocol::Request::parse(frame).is_some();
    (is_request, protocol::Response::parse(frame).is_ok())
}
