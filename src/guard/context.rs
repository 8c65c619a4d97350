//! What a guarded start works with: configuration, directories, store, keyring, libvirt.

use crate::clock::Deadline;
use crate::config::Config;
use crate::domain::Domain;
use crate::host::dirs::{RunDir, StateDir};
use crate::ids::DomainUuid;
use crate::keyring::Keyring;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::libvirt::secret::HostSecrets;
use crate::staging::DefinitionFiles;
use crate::store::{Access, Store, StoreError};
use crate::tpm_copies::CopyStore;

/// libvirtd, as it calls the hook.
pub struct HookCall {
    /// Which attempt to start a guest this call belongs to; asked for where it matters.
    pub attempt: Box<dyn Fn() -> String>,
    /// The domain XML as it came; empty where it is too long to be kept.
    pub xml: Vec<u8>,
}

/// What a guarded start works with.
pub struct Guard {
    /// The configuration in force.
    pub config: Config,
    /// Why the configuration file could not be used, if so: the defaults hold.
    pub config_error: Option<String>,
    /// Why the guest is judged by libvirt's definition of it, not by the XML that was given.
    pub xml_error: Option<String>,
    /// The directory of the store and the sealed provider keys.
    pub state_dir: StateDir,
    /// Whether a KEK that is slow to open is shared with the other starts of these seconds.
    pub shares_keks: bool,
    /// The guard's own directory on a tmpfs.
    pub run_dir: RunDir,
    /// libvirtd's call, where it is libvirtd that asks, and not a person.
    pub call: Option<HookCall>,
    /// libvirt's secrets; `None` leaves libvirt alone, as if it had none.
    pub secrets: Option<Box<dyn HostSecrets>>,
    /// Whether libvirtd is starting itself, and `secrets` are what its files tell.
    pub(super) libvirt_starts: bool,
    unsealed_keks: UnsealedKeks,
}

impl Guard {
    /// A guard with this configuration, which leaves libvirt alone.
    #[must_use]
    pub fn new(config: Config, state_dir: StateDir) -> Self {
        Self {
            config_error: None,
            xml_error: None,
            state_dir,
            shares_keks: false,
            run_dir: RunDir::default(),
            call: None,
            config,
            secrets: None,
            libvirt_starts: false,
            unsealed_keks: UnsealedKeks::default(),
        }
    }

    /// The sealed KEKs of this host.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        let keyring = Keyring::at(self.state_dir.keys());
        if self.shares_keks {
            keyring.sharing()
        } else {
            keyring
        }
    }

    /// Opens and wraps keys; unseals no KEK twice for all that this guard does.
    pub(super) fn unlocker(&self) -> Unlocker {
        Unlocker::sharing(self.keyring(), self.unsealed_keks.clone())
    }

    /// libvirt's files about guests.
    pub(super) fn definition_files(&self) -> DefinitionFiles {
        DefinitionFiles::from(&self.config.libvirt)
    }

    /// What people call this domain: its name in libvirt's files, else its UUID.
    pub(super) fn name_of(&self, domain: DomainUuid) -> String {
        let known = self.definition_files().defined_as(domain);
        known.map_or_else(|| domain.to_string(), |known| known.name)
    }

    /// Opens the store; `None` where there is no database yet. A locked store may take half
    /// of the time, so that the other half is left for asking libvirt.
    pub fn open_store(
        &self,
        access: Access,
        deadline: Deadline,
    ) -> Result<Option<Store>, StoreError> {
        let half = deadline.at_most(deadline.remaining() / 2);
        match Store::open(&self.state_dir, access, half) {
            Ok(store) => Ok(Some(store)),
            Err(StoreError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Does `work`, which returns whether the guest has key references. Without a store it has
    /// none.
    pub(super) fn with_store(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&mut Store) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        match self.open_store(Access::Write, deadline)? {
            Some(mut store) => work(&mut store),
            None => Ok(false),
        }
    }

    /// The saved copies of this guest's TPM state.
    pub(super) fn copy_store(&self, domain: &Domain) -> CopyStore {
        CopyStore::of(&self.state_dir, domain.uuid)
    }
}
