//! A stopped guest whose TPM state is to be replaced: which one may be touched, and which not.

use std::io;

use super::guests::{GuestError, GuestRef};
use super::host::{Host, default_deadline};
use crate::clock::Timestamp;
use crate::domain::{self, Domain, DomainXmlError, Emulator, Vtpm};
use crate::guard::Guard;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::libvirt::{Guest, Libvirt, SavedRuns};
use crate::store::{Event, Origin, Store, StoreError};
use crate::swtpm::{InstallError, LockError, LockedState, RecryptError, StagedState, TpmData};

/// A guest that libvirt knows, with its definition read; it has an emulated TPM.
#[derive(Debug)]
pub(crate) struct DefinedGuest {
    pub(crate) guest: Guest,
    pub(crate) domain: Domain,
    pub(crate) vtpm: Emulator,
}

/// Why a guest's TPM state is not touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoppedError {
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
    /// Its XML cannot be read.
    #[error("unreadable XML")]
    UnreadableXml(GuestRef, DomainXmlError),
    /// It has none.
    #[error("no emulated TPM")]
    NoEmulatedTpm(GuestRef),
    /// libvirt keeps neither its definition nor its TPM state.
    #[error("transient")]
    Transient(GuestRef),
    /// It runs.
    #[error("running")]
    Running(GuestRef),
    /// Its managed save image holds the TPM's state as it is now.
    #[error("managed save")]
    ManagedSave(GuestRef),
    /// So do so many snapshots of a running guest, as it was.
    #[error("snapshots")]
    Snapshots(GuestRef, u32),
    /// Its TPM state cannot be locked.
    #[error("{1}")]
    Locked(GuestRef, LockError),
    /// Its TPM state cannot be re-encrypted.
    #[error("{1}")]
    Recrypt(GuestRef, RecryptError),
    /// The new state did not decrypt to what was encrypted. The old one is unchanged.
    #[error("read back differently")]
    ReadBack(GuestRef),
    /// The new state could not be written. The old one is unchanged.
    #[error("{1}")]
    Write(GuestRef, io::Error),
    /// The new state is in its place, or may be; a power cut may bring the old one back. The keys of
    /// both are in use.
    #[error("{1}")]
    NotDurable(GuestRef, io::Error),
}

impl StoppedError {
    /// The new state was not installed for good.
    pub(crate) fn of_install(guest: GuestRef, failed: InstallError) -> Self {
        if failed.may_be_installed {
            Self::NotDurable(guest, failed.error)
        } else {
            Self::Write(guest, failed.error)
        }
    }
}

impl<E: Into<GuestError>> From<E> for StoppedError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

impl DefinedGuest {
    /// Reads a guest's definition. It must have an emulated TPM.
    pub(crate) fn read(guest: Guest) -> Result<Self, StoppedError> {
        let domain = domain::read(guest.xml.as_bytes())
            .map_err(|error| StoppedError::UnreadableXml((&guest).into(), error))?;
        match domain.vtpm.clone() {
            Some(Vtpm::Emulator(vtpm)) => Ok(Self {
                guest,
                domain,
                vtpm,
            }),
            _ => Err(StoppedError::NoEmulatedTpm((&guest).into())),
        }
    }

    /// Fails unless it is stopped, and nothing is kept that resumes with its TPM's present state.
    pub(crate) fn must_be_stopped(&self, libvirt: &dyn Libvirt) -> Result<(), StoppedError> {
        if !self.guest.persistent {
            return Err(StoppedError::Transient(self.reference()));
        }
        if self.guest.running {
            return Err(StoppedError::Running(self.reference()));
        }
        let SavedRuns {
            managed_save,
            snapshots,
        } = libvirt.saved_runs(self.uuid(), default_deadline())?;
        match snapshots {
            _ if managed_save => Err(StoppedError::ManagedSave(self.reference())),
            0 => Ok(()),
            snapshots => Err(StoppedError::Snapshots(self.reference(), snapshots)),
        }
    }

    /// As answers and messages name it.
    pub(crate) fn reference(&self) -> GuestRef {
        (&self.guest).into()
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> DomainUuid {
        self.domain.uuid
    }

    /// Locks its TPM state, if there is one.
    pub(crate) fn lock_state(&self, guard: &Guard) -> Result<Option<LockedState>, StoppedError> {
        LockedState::lock(&guard.config.libvirt.tpm_states(), self.uuid(), &self.vtpm)
            .map_err(|error| StoppedError::Locked(self.reference(), error))
    }

    /// Writes its TPM's data, encrypted under `dek`, beside the state that is locked. The new
    /// state is decrypted once more before anything rests on it.
    pub(crate) fn stage(
        &self,
        locked: LockedState,
        data: &TpmData,
        dek: &Dek,
    ) -> Result<StagedState, StoppedError> {
        let failed = |error| StoppedError::Recrypt(self.reference(), error);
        let blob = data.encrypt(dek).map_err(failed)?;
        let read_back = TpmData::decrypt(&blob, dek).map_err(failed)?;
        if !read_back.same_as(data) {
            return Err(StoppedError::ReadBack(self.reference()));
        }
        locked
            .stage(&blob)
            .map_err(|error| StoppedError::Write(self.reference(), error))
    }

    /// Records in the history what was done to it. That this fails undoes nothing.
    pub(crate) fn record(
        &self,
        store: &mut Store,
        origin: Origin,
        message: String,
    ) -> Result<(), StoreError> {
        let (now, name) = (Timestamp::now(), &self.guest.name);
        store.record_event(&Event::new(now, origin, self.uuid(), name, message))
    }
}

impl Host {
    /// The guest that `text` names, with its definition. It must have an emulated TPM.
    pub(crate) fn guest_with_tpm(&self, text: &str) -> Result<DefinedGuest, StoppedError> {
        DefinedGuest::read(self.defined_guest(text)?)
    }

    /// The same, stopped.
    pub(crate) fn stopped_guest(&self, text: &str) -> Result<DefinedGuest, StoppedError> {
        let guest = self.guest_with_tpm(text)?;
        guest.must_be_stopped(&*self.libvirt())?;
        Ok(guest)
    }
}
