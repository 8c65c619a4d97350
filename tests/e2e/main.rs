//! The guard at work: a real libvirtd, QEMU and swtpm, in namespaces of their own, start and
//! refuse real guests by the built programs. Needs root; `./dev test` and `./dev e2e` run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stderr, reason = "a test says what it has measured")]

mod adopting;
mod another_name;
mod arriving;
mod born_from;
#[path = "../kms/built.rs"]
mod built;
mod clusters;
#[path = "../commands/mod.rs"]
mod commands;
mod daemon_start;
mod daemons;
mod doctor;
#[path = "../dump/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod dump;
mod failed_starts;
mod first_day;
mod fleet;
mod fresh_keys;
mod guest;
mod hints;
mod hook_contract;
mod hook_input;
mod host;
mod journal;
mod kept_states;
mod key_managers;
mod libvirt_alone;
mod libvirt_encrypts;
mod lifetimes;
mod limits;
mod log_rotation;
mod looks;
mod many_keys;
mod memory;
mod migrated;
mod migration;
mod modular;
mod monitored;
mod moves;
mod names;
mod page;
mod pair;
mod post_copy;
#[path = "../privileges/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod privileges;
mod protected;
mod pruning;
mod recovery_page;
mod recrypting;
mod refusals;
mod repairs;
mod rotating;
mod saved;
mod secrets;
mod seen;
mod shared_secret;
mod shared_storage;
mod slow_tpm;
mod state_elsewhere;
mod state_in_a_file;
mod state_trouble;
mod status;
mod store_trouble;
mod tpm;
#[path = "../traces/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod traces;
mod transient;
mod travelling;
mod units;
mod virtinst;
mod wire;
