//! A stopped guest whose TPM state is to be written anew: who may be touched, and who not.

use std::fmt;

use super::context::{self, Context};
use super::domains::{self, NamedDomain};
use super::guests::unreachable;
use crate::cli::ui::error::AdminError;
use crate::clock::Timestamp;
use crate::domain::{self, Domain, Emulator, Vtpm};
use crate::guard::Guard;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::libvirt::{Guest, Libvirt, SavedRuns};
use crate::messages::{Arg, label};
use crate::store::{Event, Origin, Store};
use crate::swtpm::{LockError, LockedState, RecryptError, StagedState, TpmData};

/// A guest that libvirt knows, with its definition read.
pub(crate) struct Known {
    pub(crate) guest: Guest,
    pub(crate) domain: Domain,
    pub(crate) vtpm: Emulator,
}

/// The guest of this name or UUID. It must have an emulated TPM.
pub(crate) fn known(context: &Context, text: &str) -> Result<Known, AdminError> {
    understood(domains::defined(context, text)?)
}

/// A guest of libvirt's with its definition read. It must have an emulated TPM.
pub(crate) fn understood(guest: Guest) -> Result<Known, AdminError> {
    let label = label(&guest.name);
    let domain = domain::read(guest.xml.as_bytes())
        .map_err(|error| AdminError::failed(format!("the XML of {label} is not read: {error}")))?;
    let Some(Vtpm::Emulator(vtpm)) = domain.vtpm.clone() else {
        return Err(
            AdminError::refused(format!("{label} has no emulated TPM")).with_hint(format!(
                "see its devices: virsh dumpxml {}",
                Arg::guest(&domain)
            )),
        );
    };
    Ok(Known {
        guest,
        domain,
        vtpm,
    })
}

/// The same, where it is stopped, and nothing is kept that goes on from its TPM's present
/// state.
pub(crate) fn stopped(
    context: &Context,
    libvirt: &dyn Libvirt,
    text: &str,
) -> Result<Known, AdminError> {
    let known = known(context, text)?;
    let (label, word) = (known.label(), known.arg());
    if !known.guest.persistent {
        return Err(AdminError::refused(format!(
            "{label} is transient: libvirt keeps neither its definition nor its TPM state"
        ))
        .with_hint("define it first: virsh define FILE"));
    }
    if known.guest.running {
        return Err(
            AdminError::refused(format!("{label} runs, and its TPM writes its state"))
                .with_hint(format!("shut it down first: virsh shutdown {word}")),
        );
    }
    let SavedRuns {
        managed_save,
        snapshots,
    } = libvirt
        .saved_runs(known.domain.uuid, context::patience())
        .map_err(|error| unreachable(&error))?;
    if managed_save {
        return Err(AdminError::refused(format!(
            "{label} has a managed save image, which holds the TPM's state as it is now"
        ))
        .with_hint(format!(
            "let it go on and shut it down (virsh start {word}), or give the image up: virsh \
             managedsave-remove {word}"
        )));
    }
    if snapshots > 0 {
        return Err(AdminError::refused(format!(
            "{label} has snapshots of when it ran ({snapshots}), which hold the TPM's state as it \
             was: none of them could be gone back to"
        ))
        .with_hint(format!(
            "see them: virsh snapshot-list {word} --active; give them up: virsh snapshot-delete \
             {word} SNAPSHOT"
        )));
    }
    Ok(known)
}

impl Known {
    /// Its name for messages.
    pub(crate) fn label(&self) -> String {
        label(&self.guest.name)
    }

    /// How a command line names it.
    pub(crate) fn arg(&self) -> Arg {
        Arg::guest(&self.domain)
    }

    /// The same for `key::document`.
    pub(crate) fn named(&self) -> NamedDomain {
        (&self.guest).into()
    }

    /// Takes hold of its TPM state, if there is one.
    pub(crate) fn hold(&self, guard: &Guard) -> Result<Option<LockedState>, AdminError> {
        let Self { domain, vtpm, .. } = self;
        LockedState::lock(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm)
            .map_err(|error| self.not_held(&error))
    }

    fn not_held(&self, error: &LockError) -> AdminError {
        let message = format!("the TPM state of {}: {error}", self.label());
        match error {
            LockError::InUse => AdminError::refused(message).with_hint(format!(
                "the guest is starting, or a TPM emulator is left over: see virsh domstate {}, \
                 pgrep -a swtpm",
                self.arg()
            )),
            LockError::Linear | LockError::Volatile(_) => AdminError::refused(message),
            LockError::State(error) if error.is_damage() => AdminError::refused(message),
            LockError::State(_) | LockError::Io(_) => AdminError::failed(message),
        }
    }

    /// Writes its TPM's data, encrypted under `dek`, beside the state that is held. The new
    /// state is opened once more before anything rests on it.
    pub(crate) fn stage(
        &self,
        held: LockedState,
        data: &TpmData,
        dek: &Dek,
    ) -> Result<StagedState, AdminError> {
        let blob = data
            .encrypt(dek)
            .map_err(|error| self.not_recrypted(&error))?;
        let again = TpmData::decrypt(&blob, dek).map_err(|error| self.not_recrypted(&error))?;
        if !again.same_as(data) {
            return Err(self.not_written(&"it does not come out as it went in"));
        }
        held.stage(&blob).map_err(|error| self.not_written(&error))
    }

    /// Its TPM state cannot be encrypted anew.
    pub(crate) fn not_recrypted(&self, error: &RecryptError) -> AdminError {
        AdminError::failed(format!("the TPM state of {}: {error}", self.label()))
    }

    /// The new state cannot be written, or not be put in place.
    pub(crate) fn not_written(&self, error: &dyn fmt::Display) -> AdminError {
        AdminError::failed(format!(
            "the TPM state of {} cannot be written anew: {error}; it is as it was",
            self.label()
        ))
    }

    /// Notes in the history what was done to it. It was done, so that this fails is told, and
    /// no more.
    pub(crate) fn record(
        &self,
        context: &Context,
        store: &mut Store,
        origin: Origin,
        message: String,
    ) {
        let now = Timestamp::now();
        let event = Event::new(now, origin, self.domain.uuid, &self.guest.name, message);
        if let Err(error) = store.record_event(&event) {
            let note = format!("it is done, but the history does not know it: {error}");
            context.output.note(&note);
        }
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> DomainUuid {
        self.domain.uuid
    }
}
