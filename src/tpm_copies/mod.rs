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

use std::io;
use std::path::{Path, PathBuf};

pub use copy_store::{CopyStore, MAX_COPIES, SavedCopy, domains};
pub use damaged::set_aside;
pub use hard_links::{HardLinks, LinksRestored};
pub use live_state::LiveState;
pub use manifest::{Attributes, Manifest, RunRecord};
pub use restore::{CopyRestored, RestoreError, restore_copy};

use crate::swtpm::StateError;

/// Why a copy was not kept, read or dropped.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The system says no: a full disk, for one.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory of the copies is not the user's who runs this, or others may write it.
    #[error("{path}: not a directory of this user's alone", path = .path.display())]
    NotTrusted {
        /// The directory.
        path: PathBuf,
    },
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

impl CopyError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
