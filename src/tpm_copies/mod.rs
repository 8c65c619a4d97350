//! Kept copies of TPM state. libvirt deletes a transient guest's state when its start fails and
//! when it stops; the guard keeps a copy, and puts it back.
//!
//! `STATE-DIR/tpm-state/DOMAIN-UUID/`, 0700, root's:
//!
//! | file | what |
//! | --- | --- |
//! | `SHA256.state` | the bytes of the state's file, under their own hash |
//! | `SHA256.json` | its manifest: where the file was, whose, of which modes; written last |
//! | `run.json` | how far the guest's last run has come |
//!
//! A copy is never overwritten: other bytes are another copy. So a worse one cannot take the
//! place of a better one, and which of several is right is decided by the key that opens it.

mod copy_store;
mod damaged;
mod files;
mod hard_links;
mod live_state;
mod manifest;
mod restore;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::path::PathBuf;

pub use copy_store::{CopyStore, MAX_COPIES, SavedCopy, domains};
pub use damaged::set_aside;
pub use hard_links::{HardLinks, LinksRestored};
pub use live_state::LiveState;
pub use manifest::{Attributes, Manifest, RunRecord};
pub use restore::{CopyRestored, RestoreError, restore_copy};

use crate::host::path_error::PathError;
use crate::host::trusted::Distrust;
use crate::swtpm::StateError;

/// Why a copy was not kept, read or dropped.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The system's error: a full disk, for one.
    #[error(transparent)]
    Io(#[from] PathError),
    /// Another user could have put a file there.
    #[error(transparent)]
    NotTrusted(Distrust),
    /// A manifest is no manifest of a format that this program knows.
    #[error("{path}: not a manifest that this program knows", path = .path.display())]
    UnknownManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// The bytes of a copy are not those that its manifest speaks of.
    #[error("{path}: damaged: its bytes are not those that were kept", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// What is in the state's place is no TPM state.
    #[error("{path}: {how}", path = .path.display())]
    NotAState {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        how: String,
    },
    /// The TPM state itself cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    State {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
}

impl From<Distrust> for CopyError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            untrusted @ Distrust::Untrusted { .. } => Self::NotTrusted(untrusted),
        }
    }
}
