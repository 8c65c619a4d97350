//! Saved copies of TPM state. libvirt deletes a transient guest's state when its start fails and
//! when it stops; the guard saves a copy, and restores it.
//!
//! `STATE-DIR/tpm-state/DOMAIN-UUID/`, 0700, root's:
//!
//! | file | what |
//! | --- | --- |
//! | `SHA256.state` | the bytes of the state's file, named after their hash |
//! | `SHA256.json` | its manifest: path, owner and mode of the file; written last |
//! | `run.json` | the state of the guest's last run |
//!
//! A copy is never overwritten: other bytes are another copy. So no copy can replace a better one,
//! and the key that opens a copy decides which of several is the right one.

mod copy_store;
mod damaged;
mod error;
mod files;
mod hard_links;
mod live_state;
mod manifest;
mod order;
mod restore;
mod run_record;
mod saved_copy;
mod spare;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub use copy_store::{CopyStore, KEPT_RUNS, MAX_COPIES, domains};
pub use damaged::{may_be_set_aside, remove_damaged, set_aside};
pub use error::CopyError;
pub use hard_links::{HardLinks, LinksRestored};
pub use live_state::LiveState;
pub use order::sort_latest_first;
pub use restore::{CopyRestored, RestoreError, restore_copy};
pub use run_record::RunRecord;
pub use saved_copy::SavedCopy;

/// Whether this is the record of a guest's last run, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_run_record(text: &[u8]) -> bool {
    serde_json::from_slice::<RunRecord>(text).is_ok()
}

/// The manifest of a saved copy as it is written, where this is one, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn manifest_as_written(text: &[u8]) -> Option<Vec<u8>> {
    let manifest: manifest::Manifest = serde_json::from_slice(text).ok()?;
    serde_json::to_vec(&manifest).ok()
}
