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
//! | outside things | `store` (SQLite), `keyring` (sealed provider keys), `kms` (key managers, through plugins), `fleet` (facts, and the shared store through a program), `recovery` (the recovery file), `libvirt`, `swtpm` (its state file), `tpm_copies` (saved copies of it), `config` |
//! | the machine | `host`: paths, trusted files, atomic writes, processes |
//! | the core, pure | `vtpm-guard-core`: `verdict` (facts in, verdict out), and its words `domain`, `key`, `ids`, `clock` |

mod capture;
mod cli;
mod config;
mod fleet;
mod guard;
mod hook;
mod host;
mod keyring;
mod kms;
mod libvirt;
mod log;
mod manage;
mod messages;
mod recovery;
mod staging;
mod store;
mod swtpm;
mod tpm_copies;

use vtpm_guard_core::{clock, domain, ids, key, verdict};

pub use cli::run as vtpm_guard;
pub use fleet::program as store_program;
pub use hook::run as vtpm_guard_hook;
pub use kms::plugin;
#[cfg(feature = "libvirt")]
pub use libvirt::helper::run as vtpm_guard_libvirt;

/// The rooms, for the tests in tests/ and for fuzzing: no program has this feature.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use vtpm_guard_core::{clock, domain, ids, key, verdict};

    macro_rules! rooms {
        ($($room:ident),*) => {
            $(
                pub mod $room {
                    pub use crate::$room::*;
                }
            )*
        };
    }

    rooms!(
        capture, cli, config, fleet, guard, hook, host, keyring, kms, libvirt, log, messages,
        recovery, staging, store, swtpm, tpm_copies
    );

    pub mod manage {
        pub use crate::manage::checks::directory_in;
    }
}

/// So that rules which tests/ shares with unit tests name the library as tests/ does.
#[cfg(test)]
extern crate self as vtpm_guard;

#[cfg(all(test, target_arch = "x86_64"))]
#[path = "../tests/faults/mod.rs"]
mod faults;

#[cfg(test)]
#[path = "../tests/life_of_a_key/mod.rs"]
mod life_of_a_key;
