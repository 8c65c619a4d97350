//! swtpm's TPM state: where it is, what it is, and whether a DEK opens it.
//!
//! Every odd case is judged by what libvirt and swtpm would do. [`StateFile::Absent`]: they would
//! silently make a new TPM. [`StateFile::Damaged`]: swtpm would fail whatever the key, hang, or
//! destroy what is there. [`StateFile::Unreadable`]: unknown.

mod cipher;
mod directories;
mod empty;
mod error;
pub mod format;
pub mod linear;
mod linear_store;
mod lock;
mod lock_file;
mod open;
mod proof;
mod qemu_conf;
mod reach;
mod read;
mod remains;
mod state_path;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod walk;

#[cfg(feature = "internals")]
pub use cipher::forged::Forger;
pub use cipher::{RecryptError, TpmData};
pub use empty::remove_empty_directory;
pub use error::{LockError, StateError};
pub use format::MAX_STATE_LEN;
pub use lock::{InstallError, LockedState, OldState, StagedState};
pub use lock_file::{LockHolder, LockProblem, is_used_elsewhere, lock_problem};
pub use proof::EncryptedState;
pub use qemu_conf::{QemuConf, resolve};
pub use reach::{closed_directory, future_owner};
pub use read::{StateBytes, StateFile, read_bytes, read_state, state_in};
pub use remains::has_remains;
pub use state_path::{Backend, StatePath, state_path};
