//! vtpm-guard: guards the start of KVM guests with encrypted vTPMs.
//!
//! The map. Imports point down only:
//!
//! | layer | modules |
//! | --- | --- |
//! | doors | `src/bin/*`: argument vector in, exit status out |
//! | what is asked for | `hook` (libvirtd asks), `cli` (a person asks); neither knows the other |
//! | what is done | `guard`: one guarded start; `staging`: keys on tmpfs for guests that start with libvirtd |
//! | what is said | `messages`: refusals, findings, hints; `log`; `capture`: refused XML |
//! | outside things | `store` (SQLite), `keyring` (sealed provider keys), `recovery` (the recovery file), `libvirt`, `swtpm` (its state file), `tpm_copies` (saved copies of it), `config` |
//! | the machine | `host`: paths, trusted files, atomic writes, processes |
//! | the core, pure | `vtpm-guard-core`: `verdict` (facts in, verdict out), and its words `domain`, `key`, `ids`, `clock` |

pub mod capture;
pub mod cli;
pub mod config;
pub mod guard;
pub mod hook;
pub mod host;
pub mod keyring;
pub mod libvirt;
pub mod log;
mod manage;
pub mod messages;
pub mod recovery;
pub mod staging;
pub mod store;
pub mod swtpm;
pub mod tpm_copies;

pub use vtpm_guard_core::{clock, domain, ids, key, verdict};

/// So that rules which tests/ shares with unit tests name the library as tests/ does.
#[cfg(test)]
extern crate self as vtpm_guard;

#[cfg(test)]
#[path = "../tests/life_of_a_key/mod.rs"]
mod life_of_a_key;
