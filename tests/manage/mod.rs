//! The procedures of `manage`, against a libvirt of the tests' own: without root, without a
//! daemon. Each is tried to its end, into each of its errors, and killed between any two steps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod adopt;
mod bind;
mod checks;
mod chosen_key;
mod clone;
mod elsewhere;
mod encrypt;
mod ended_runs;
mod failed_starts;
pub(crate) mod fixture;
mod fleet_announced;
mod fleet_answers;
mod fleet_commands;
pub(crate) mod fleet_follow;
mod fleet_notes;
pub(crate) mod fleet_program;
mod fleet_rotation;
pub(crate) mod fleet_shared;
mod fleet_start;
mod host_secret;
mod import_key;
mod key_refs;
mod kill;
mod linear;
pub(crate) mod meanwhile;
mod metadata_left;
mod persist_state;
mod provider_delete;
mod provider_export;
mod provider_import;
mod provider_rotate;
mod providers;
mod prune;
pub(crate) mod recovery;
mod renew;
mod repair;
mod run;
mod saved_states;
mod shared_starts;
mod short_holds;
pub(crate) mod slots;
mod stage;
mod start_keys;
mod starts;
mod states;
mod status;
mod store_backup;
mod sync;
mod travelling;
