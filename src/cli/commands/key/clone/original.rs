//! The original of a clone: a guest that libvirt knows, or one that only the store remembers.

use std::path::PathBuf;

use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::domain::{Emulator, StateSource};
use crate::guard::Guard;
use crate::ids::{DomainUuid, SecretUuid};
use crate::manage::guests::GuestRef;
use crate::manage::host::default_deadline;
use crate::manage::stopped_guest::DefinedGuest;
use crate::messages::{Arg, label, quoted};
use crate::store::Store;
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, CopyStore, LiveState, SavedCopy};
use crate::verdict::facts::CopyReason;

/// The guest whose key, and perhaps whose TPM, the clone gets.
pub(crate) enum Source {
    /// libvirt knows it.
    Known(Box<DefinedGuest>),
    /// libvirt has forgotten it: only the store has its keys.
    Forgotten(GuestRef),
}

/// A TPM state of the original's that is still on this host.
pub(crate) struct LeftBehind {
    /// Where it was found.
    pub(crate) path: PathBuf,
    pub(crate) copy: SavedCopy,
}

impl Source {
    /// The guest of this name or UUID that libvirt knows, else the one that the store remembers.
    /// A name that is the clone's by now means the one that had it before.
    pub(crate) fn find(
        context: &Context,
        store: &Store,
        text: &str,
        clone: &DefinedGuest,
    ) -> Result<Self, CommandError> {
        let guests = context
            .host
            .libvirt()
            .guests_called(text, default_deadline())?;
        if let Some(guest) = context.host.pick(text, &guests)?
            && guest.uuid != clone.uuid()
        {
            return Ok(Self::Known(Box::new(DefinedGuest::read(guest.clone())?)));
        }
        let uuid = match DomainUuid::parse(text) {
            Ok(uuid) => Some(uuid),
            Err(_) => store
                .users_of_name(text)?
                .into_iter()
                .find(|uuid| *uuid != clone.uuid()),
        };
        match uuid {
            Some(uuid) if uuid == clone.uuid() => {
                let label = clone.label();
                Err(CommandError::usage(format!(
                    "{label} is not a clone of itself"
                )))
            }
            Some(uuid) => {
                let name = store.last_name(uuid)?;
                Ok(Self::Forgotten(GuestRef::of_uuid(uuid, name)))
            }
            None if text == clone.guest.name => Err(CommandError::usage(format!(
                "no other guest of the name {} has a key here",
                clone.label()
            ))
            .with_hint(format!(
                "bring it from a backup of the store: vtpm-guard key import {0} --from BACKUP --as {0}",
                clone.arg()
            ))),
            None => Err(CommandError::usage(format!(
                "neither libvirt nor the store knows a guest {}",
                quoted(text)
            ))
            .with_hint("list them: virsh list --all; vtpm-guard key list")),
        }
    }

    pub(crate) fn uuid(&self) -> DomainUuid {
        match self {
            Self::Known(known) => known.uuid(),
            Self::Forgotten(domain) => domain.uuid,
        }
    }

    pub(crate) fn named(&self) -> GuestRef {
        match self {
            Self::Known(known) => known.reference(),
            Self::Forgotten(domain) => GuestRef::of_uuid(domain.uuid, domain.name.clone()),
        }
    }

    /// What messages call it. Of a guest that libvirt has forgotten the UUID belongs to it: the
    /// clone may have its name.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Known(known) => known.label(),
            Self::Forgotten(GuestRef { uuid, name, .. }) => match name {
                Some(name) => format!("{} ({uuid})", label(name)),
                None => uuid.to_string(),
            },
        }
    }

    /// What commands call it.
    pub(crate) fn arg(&self) -> Arg {
        match self {
            Self::Known(known) => known.arg(),
            Self::Forgotten(domain) => domain.arg.clone(),
        }
    }

    /// The secret that its XML names, where libvirt knows it.
    pub(crate) fn secret(&self) -> Option<SecretUuid> {
        match self {
            Self::Known(known) => known.vtpm.secret_uuid,
            Self::Forgotten(_) => None,
        }
    }

    /// The encrypted TPM states of a forgotten guest that are on this host, for a clone with
    /// this TPM: libvirt's, that of its last start, and the saved copies.
    pub(crate) fn left_behind(
        &self,
        guard: &Guard,
        store: &Store,
        clone: &DefinedGuest,
    ) -> Result<Vec<LeftBehind>, CommandError> {
        let Self::Forgotten(GuestRef { uuid, .. }) = self else {
            return Ok(Vec::new());
        };
        let mut sources = vec![None];
        if let Some(seen) = store.seen_state(*uuid)? {
            let directory = seen.path.parent().map(ToOwned::to_owned);
            sources.push(directory.map(StateSource::Dir));
        }
        let mut found = Vec::new();
        for source in sources {
            let vtpm = Emulator {
                source,
                ..clone.vtpm.clone()
            };
            if let Some(state) = LiveState::read(&guard.config.libvirt.tpm_states(), *uuid, &vtpm)?
            {
                let path = state.path().to_owned();
                let copy = SavedCopy::of(state, &clone.guest.name, CopyReason::Start);
                found.push(LeftBehind { path, copy });
            }
        }
        for copy in saved_copies(guard, *uuid)? {
            let path = copy.manifest.path.clone();
            found.push(LeftBehind { path, copy });
        }
        found.retain(|left| matches!(left.copy.state(), StateFile::Encrypted(_)));
        Ok(found)
    }
}

/// The saved copies of its TPM's state, the latest first; one that cannot be read is left out.
fn saved_copies(guard: &Guard, uuid: DomainUuid) -> Result<Vec<SavedCopy>, CopyError> {
    let (copies, _) = CopyStore::of(&guard.state_dir, uuid).copies()?;
    Ok(copies)
}
