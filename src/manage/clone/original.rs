//! The original of a clone: a guest that libvirt knows, or one that only the store remembers.

use std::path::PathBuf;

use crate::domain::{Emulator, StateSource};
use crate::guard::Guard;
use crate::ids::{DomainUuid, SecretUuid};
use crate::manage::guests::GuestRef;
use crate::manage::host::HostError;
use crate::manage::stopped_guest::DefinedGuest;
use crate::messages::label;
use crate::store::Store;
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, CopyStore, LiveState, SavedCopy};
use crate::verdict::facts::CopyReason;

/// The guest whose key, and perhaps whose TPM, the clone gets.
#[derive(Debug, Clone)]
pub(crate) enum Original {
    /// libvirt knows it. Its XML may name this secret.
    Defined(GuestRef, Option<SecretUuid>),
    /// libvirt no longer knows it: only the store has its keys.
    Remembered(GuestRef),
}

/// A TPM state of the original's that is still on this host.
pub(super) struct FoundState {
    /// Where it was found.
    pub(super) path: PathBuf,
    pub(super) copy: SavedCopy,
}

impl Original {
    /// As answers name it.
    pub(crate) fn reference(&self) -> &GuestRef {
        match self {
            Self::Defined(guest, _) | Self::Remembered(guest) => guest,
        }
    }

    pub(crate) fn uuid(&self) -> DomainUuid {
        self.reference().uuid
    }

    pub(crate) fn is_defined(&self) -> bool {
        matches!(self, Self::Defined(..))
    }

    /// What messages call it. Where libvirt no longer knows it, with its UUID: the clone may
    /// have its name.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Remembered(GuestRef {
                uuid,
                name: Some(name),
                ..
            }) => {
                format!("{} ({uuid})", label(name))
            }
            other => other.reference().label(),
        }
    }

    /// The secret that its XML names, where libvirt knows it.
    pub(crate) fn secret(&self) -> Option<SecretUuid> {
        match self {
            Self::Defined(_, secret) => *secret,
            Self::Remembered(_) => None,
        }
    }

    /// The encrypted TPM states of a guest that libvirt no longer knows, for a clone with this
    /// TPM: libvirt's, that of its last start, and the saved copies, the latest first. With the
    /// first copy that cannot be read now, and may be later.
    pub(super) fn states(
        &self,
        guard: &Guard,
        store: &Store,
        clone: &DefinedGuest,
    ) -> Result<(Vec<FoundState>, Option<CopyError>), HostError> {
        let Self::Remembered(GuestRef { uuid, .. }) = *self else {
            return Ok((Vec::new(), None));
        };
        let mut sources = vec![None];
        if let Some(seen) = store.seen_state(uuid)? {
            let directory = seen.path.parent().map(ToOwned::to_owned);
            sources.push(directory.map(StateSource::Dir));
        }
        let mut found = Vec::new();
        for source in sources {
            let vtpm = Emulator {
                source,
                ..clone.vtpm.clone()
            };
            if let Some(state) = LiveState::read(&guard.config.libvirt.tpm_states(), uuid, &vtpm)? {
                let path = state.path().to_owned();
                let copy = SavedCopy::of(state, &clone.guest.name, CopyReason::Start);
                found.push(FoundState { path, copy });
            }
        }
        let (copies, unreadable) = CopyStore::of(&guard.state_dir, uuid).copies()?;
        let saved = copies.into_iter().map(|copy| FoundState {
            path: copy.manifest.path.clone(),
            copy,
        });
        found.extend(saved);
        found.retain(|state| matches!(state.copy.state(), StateFile::Encrypted(_)));
        Ok((
            found,
            unreadable.into_iter().find(CopyError::may_be_readable),
        ))
    }
}
