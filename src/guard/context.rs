//! What a guarded start works with: configuration, directories, store, keyring, libvirt.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use super::deadlines::Patience;
use super::fleet::Line;
use super::silent_daemon::StartingVirtqemud;
use crate::clock::{Deadline, Timestamp};
use crate::config::{Config, KeptStates};
use crate::domain::Domain;
use crate::host::dirs::{RunDir, StateDir};
use crate::ids::DomainUuid;
use crate::keyring::Keyring;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::libvirt::Silence;
use crate::libvirt::secret::HostSecrets;
use crate::staging::{DefinitionFiles, DefinitionIndex, DefinitionsError};
use crate::store::{Access, Store, StoreError};
use crate::tpm_copies::CopyStore;

/// One call of the hook by libvirtd.
pub struct HookCall {
    /// Returns which attempt to start a guest this call belongs to; called only when it matters.
    pub attempt: Box<dyn Fn() -> String>,
    /// The domain XML as it was given; empty if it is too long to be kept.
    pub xml: Arc<[u8]>,
}

/// The time of a start: with the guest, it identifies the row that the history has of it, whoever
/// writes that row first. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StartTime(Arc<AtomicI64>);

impl StartTime {
    /// Returns it. The first call sets it.
    #[must_use]
    pub fn get(&self) -> Timestamp {
        let (order, now) = (Ordering::SeqCst, Timestamp::now());
        match self.0.compare_exchange(0, now.0, order, order) {
            Ok(_) => now,
            Err(earlier) => Timestamp(earlier),
        }
    }

    fn forget(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// What a guarded start works with.
pub struct Guard {
    /// The configuration in force.
    pub config: Config,
    /// Why the configuration file could not be used; then the defaults are in force.
    pub config_error: Option<String>,
    /// Why libvirt's definition of the guest is used instead of the XML that was given.
    pub xml_error: Option<String>,
    /// The directory of the store and the sealed provider keys.
    pub state_dir: StateDir,
    /// Whether a KEK that is slow to unseal is shared with other starts for some seconds.
    pub shares_keks: bool,
    /// The guard's own directory on a tmpfs.
    pub run_dir: RunDir,
    /// libvirtd's call; `None` if a person asks.
    pub call: Option<HookCall>,
    /// libvirt's secrets; `None` does not ask libvirt, as if it had none.
    pub secrets: Option<Box<dyn HostSecrets>>,
    /// Whether a monolithic libvirtd itself is starting; `secrets` are then read from its files.
    pub(super) libvirt_starts: bool,
    /// Whether libvirt was silent when `secrets` asked it.
    pub silence: Silence,
    /// The virtqemud that starts this guest before it answers clients.
    pub(super) starting_virtqemud: Option<StartingVirtqemud>,
    /// How long libvirt and locks are waited for, if that is not for all of the deadline.
    pub(super) patience: Option<Patience>,
    /// The time of the start in progress.
    pub start_time: StartTime,
    /// What [`Self::definitions`] has read.
    pub(super) definitions: OnceLock<DefinitionIndex>,
    /// The line to the fleet's store.
    pub(super) line: Line,
    /// The KEKs that are open already; guards may share them.
    pub(crate) unsealed_keks: UnsealedKeks,
}

impl Guard {
    /// Creates a guard with this configuration, which does not ask libvirt.
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
            silence: Silence::default(),
            starting_virtqemud: None,
            patience: None,
            start_time: StartTime::default(),
            definitions: OnceLock::new(),
            line: Line::default(),
            unsealed_keks: UnsealedKeks::default(),
        }
    }

    /// `state.keep`; `None` where the configuration could not be read. Then nothing may be dropped that either value
    /// would keep: the default says nothing about what this host wants.
    pub(super) fn kept_states(&self) -> Option<KeptStates> {
        self.config_error
            .is_none()
            .then_some(self.config.kept_states)
    }

    /// Whether a fleet may have to hear of this host's runs: also where the configuration could not be read. What is
    /// noted waits in the store until it can be; a run of which the fleet never hears would let another host restore
    /// an older TPM. The store itself knows whether this host is a member.
    pub(super) fn may_be_in_fleet(&self) -> bool {
        self.config.fleet.store.is_some() || self.config_error.is_some()
    }

    /// The sealed KEKs of this host.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        let keyring = Keyring::at(self.state_dir.keys()).with_boot_dir(self.run_dir.keys());
        if self.shares_keks {
            keyring.sharing()
        } else {
            keyring
        }
    }

    /// Opens and wraps keys. This guard unseals each KEK only once.
    pub(super) fn unlocker(&self) -> Unlocker {
        Unlocker::sharing(self.keyring(), self.unsealed_keks.clone())
    }

    /// libvirt's files about guests, as they were when this guard first needed them: it reads them once, however
    /// many guests it judges.
    pub(super) fn definitions(
        &self,
        deadline: Deadline,
    ) -> Result<&DefinitionIndex, DefinitionsError> {
        if let Some(known) = self.definitions.get() {
            return Ok(known);
        }
        let read = DefinitionFiles::from(&self.config.libvirt).index(Some(deadline))?;
        Ok(self.definitions.get_or_init(|| read))
    }

    /// Returns the guest's name in libvirt's files, or else its UUID.
    pub(super) fn name_of(&self, domain: DomainUuid, deadline: Deadline) -> String {
        let known = self.definitions(deadline);
        let known = known.ok().and_then(|known| known.defined_as(domain));
        known.map_or_else(|| domain.to_string(), |known| known.name)
    }

    /// The next start begins. A call of the hook guards only one.
    pub(super) fn begin_start(&self) {
        if self.call.is_none() {
            self.line.begin_start();
            self.start_time.forget();
        }
    }

    /// Opens the store; `None` if there is no database yet. Waits for a locked store for at most
    /// half of the time.
    pub fn open_store(
        &self,
        access: Access,
        deadline: Deadline,
    ) -> Result<Option<Store>, StoreError> {
        let half = self.patient(deadline.half());
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::thread::sleep;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::host::dirs::LibvirtDirs;
    use crate::verdict::facts::{Announcement, Arrival};

    fn setting() -> (TempDir, Guard) {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(Config::default(), StateDir::at(dir.path().join("state")));
        guard.config.libvirt = LibvirtDirs::below(dir.path());
        (dir, guard)
    }

    #[test]
    fn each_start_has_a_time_of_its_own_and_a_call_of_the_hook_is_one_start() {
        let (_dir, mut guard) = setting();
        let next = |guard: &Guard| {
            guard.begin_start();
            let at = guard.start_time.get();
            sleep(Duration::from_millis(2));
            assert_eq!(guard.start_time.get(), at);
            at
        };
        let first = next(&guard);
        let second = next(&guard);
        assert!(second > first);
        guard.call = Some(HookCall {
            attempt: Box::new(String::new),
            xml: [].into(),
        });
        assert_eq!(next(&guard), second);
    }

    #[test]
    fn a_guest_that_libvirt_defines_has_its_name_and_another_its_uuid() {
        let (_dir, guard) = setting();
        let (defined, unknown) = (DomainUuid::random(), DomainUuid::random());
        let definitions = guard.config.libvirt.definitions();
        fs::create_dir_all(&definitions).unwrap();
        let xml = format!("<domain type='qemu'><name>vm1</name><uuid>{defined}</uuid></domain>");
        fs::write(definitions.join("vm1.xml"), xml).unwrap();
        let soon = Deadline::after(Duration::from_secs(60));
        assert_eq!(guard.name_of(defined, soon), "vm1");
        assert_eq!(guard.name_of(unknown, soon), unknown.to_string());
    }

    #[test]
    fn a_locked_store_is_waited_for_until_half_of_the_deadline() {
        let (_dir, guard) = setting();
        let made = Store::open(
            &guard.state_dir,
            Access::Create,
            Deadline::after(Duration::from_secs(60)),
        );
        drop(made.unwrap());
        let lock = rusqlite::Connection::open(guard.state_dir.join("store.db")).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let announcement = Announcement {
            domain_name: "vm1".to_owned(),
            arrival: Arrival::Migration,
            attempt: String::new(),
            at: Timestamp(1),
        };
        let deadline = Deadline::after(Duration::from_secs(10));
        let written = guard.with_store(deadline, |store| {
            store.announce(DomainUuid::random(), &announcement)?;
            Ok(true)
        });
        assert!(written.is_err());
        let left = deadline.remaining();
        assert!(left > Duration::from_millis(2_500), "{left:?}");
    }
}
