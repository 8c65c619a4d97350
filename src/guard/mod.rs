//! One guarded start: gathers the facts, has them decided, carries the verdict out. The hook
//! and the administrator's commands both come through here, so that what `check` prints and
//! what a start does begin at the same value.

mod arriving;
mod begun;
pub mod bring_back;
mod commit;
mod copies;
mod daemon_start;
mod definition;
mod elsewhere;
mod failed;
mod gather;
mod hindrance;
mod host_secret;
mod keys;
mod lease;
mod lifecycle;
mod operation;
pub mod plain_state;
mod prepare;
mod provide;
mod status;

pub use arriving::{HookCall, has_managed_save};
pub use commit::{MakeKeyError, make_key};
pub use elsewhere::state_elsewhere;
pub use keys::try_rows;
pub use lifecycle::{LifecycleError, follow_up};
pub use operation::{Ending, Operation};
pub use prepare::{Mode, prepare};

use std::time::Duration;

use crate::clock::Deadline;
use crate::config::Config;
use crate::host::dirs::{RunDir, StateDir};
use crate::ids::DomainUuid;
use crate::keyring::Keyring;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::libvirt::secret::HostSecrets;
use crate::staging::DefinitionFiles;
use crate::store::{Access, Store, StoreError};

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
    libvirt_starts: bool,
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
    fn unlocker(&self) -> Unlocker {
        Unlocker::sharing(self.keyring(), self.unsealed_keks.clone())
    }

    /// libvirt's files about guests.
    fn definition_files(&self) -> DefinitionFiles {
        DefinitionFiles::from(&self.config.libvirt)
    }

    /// What people call this domain: its name in libvirt's files, else its UUID.
    fn name_of(&self, domain: DomainUuid) -> String {
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
}

/// How long history may hold up a start that depends on nothing else that is written.
const TO_RECORD: Duration = Duration::from_millis(300);

/// The part of a deadline that is kept back for the answer itself.
const ANSWER_RESERVE: Duration = Duration::from_millis(200);

/// The deadline for calls to libvirt: early enough that a refusal can still be told.
fn before_the_answer(deadline: Deadline) -> Deadline {
    deadline.at_most(deadline.remaining().saturating_sub(ANSWER_RESERVE))
}
