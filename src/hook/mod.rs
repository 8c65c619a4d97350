//! The `qemu` hook, which libvirtd calls.
//!
//! stdout stays empty (libvirt would take it for domain XML); stderr holds one line, and only
//! when a start is refused; the exit status is 0 unless a start is refused.

mod emergency;
mod event;
mod refused;
mod run;
mod stdin;

pub use run::run;

/// What the hook is to do with these arguments, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn operation(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Option<crate::guard::Operation> {
    event::HookEvent::parse(arguments).map(|event| event.operation)
}
