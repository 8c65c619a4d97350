//! One guarded start: gathers the facts, lets the core decide, carries out the verdict. The hook
//! and the administrator's commands both use it, so that what `check` prints and what a start does
//! come from the same value.

mod arrival;
mod commit;
mod context;
mod copies;
mod daemon_start;
mod deadlines;
mod definition;
mod elsewhere;
mod failed_start;
mod first_keks;
mod fleet;
mod follow_up;
mod gather;
mod host_secret;
mod keys;
mod learn;
mod lease;
mod obstacle;
mod operation;
pub mod plain_state;
mod prepare;
mod provide;
mod restore;
pub mod restore_links;
mod saved_runs;
mod secret_release;
mod silent_daemon;
mod start_note;
mod status;
mod swtpm_log;
pub(crate) mod sync_notes;
mod travelling;

pub use commit::{MakeKeyError, make_key};
pub use context::{Guard, HookCall, StartTime};
pub use elsewhere::state_elsewhere;
pub use fleet::{StatesUnknown, states_in_fleet};
pub use follow_up::{FollowUpError, follow_up};
pub use keys::try_rows;
pub use learn::{KeySources, LearnError, Learnt, learn};
#[cfg(test)]
pub use operation::Ending;
pub use operation::Operation;
pub use prepare::{Mode, prepare};
pub use saved_runs::has_managed_save;

/// Whether these bytes are a note of a start, or one about a secret that is in use, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_note(note: &[u8]) -> (bool, bool) {
    (start_note::is_one(note), lease::is_record(note))
}

#[cfg(feature = "internals")]
pub use {status::is_understood as is_status, swtpm_log::last_lines};
