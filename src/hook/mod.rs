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
