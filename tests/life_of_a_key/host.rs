//! One host with two guests and two providers, and what this test knows of its keys.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;
use vtpm_guard::clock::{Deadline, Timestamp};
use vtpm_guard::config::Config;
use vtpm_guard::domain::{Domain, Emulator, TpmVersion, Vtpm};
use vtpm_guard::guard::{Guard, HookCall, Mode, Operation, follow_up, prepare};
use vtpm_guard::host::dirs::{LibvirtDirs, RunDir, StateDir};
use vtpm_guard::ids::{DomainUuid, ProviderUuid, SecretUuid};
use vtpm_guard::key::dek::Dek;
use vtpm_guard::key::kek::Kek;
use vtpm_guard::store::{Access, KeyRefRecord, NewProvider, Origin, Store};
use vtpm_guard::swtpm::{StateFile, read_state, state_path};
use vtpm_guard::verdict::outcome::Outcome;
use zeroize::Zeroizing;

use crate::libvirt::Secrets;

/// The guest that libvirt has no definition of.
pub(crate) const TRANSIENT: usize = 1;

/// A DEK as this test remembers it.
pub(crate) type DekBytes = Vec<u8>;

/// A guest with an encrypted vTPM.
pub(crate) struct Guest {
    pub(crate) domain: Domain,
    pub(crate) secret: SecretUuid,
    pub(crate) running: bool,
    /// Every DEK that a TPM of this guest was ever made with.
    pub(crate) made_with: BTreeSet<DekBytes>,
    /// Those that a guest ran with since the last reset.
    pub(crate) used: BTreeSet<DekBytes>,
}

pub(crate) struct Host {
    _dir: TempDir,
    pub(crate) guard: Guard,
    pub(crate) secrets: Secrets,
    /// Which attempt to start a guest libvirtd is at.
    attempt: Rc<Cell<u32>>,
    pub(crate) guests: [Guest; 2],
    /// Every KEK that ever was, under the name of its provider: what recovery files hold.
    pub(crate) keks: Vec<(String, Kek)>,
    /// What happened, for a person who reads a failure.
    pub(crate) told: Vec<String>,
}

impl Host {
    pub(crate) fn new() -> Self {
        // In memory where that can be: a disk would have to be waited for at every step.
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
        let dir = dir.unwrap();
        // swtpm's user gets through to the states, as on a real host.
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(dir.path(), open).unwrap();
        let secrets = Secrets::default();
        let state_dir = StateDir::at(dir.path().join("state"));
        let mut guard = Guard::new(Config::default(), state_dir);
        guard.run_dir = RunDir::at(dir.path().join("guard"));
        let mut dirs = LibvirtDirs::below(dir.path());
        dirs.tpm = Some(dir.path().join("swtpm"));
        fs::create_dir_all(dirs.running()).unwrap();
        // The first guest is defined, the second is transient: libvirt removes its TPM's state
        // when it stops and when its start fails.
        fs::create_dir_all(dirs.definitions()).unwrap();
        fs::write(dirs.definitions().join("vm1.xml"), "").unwrap();
        guard.config.libvirt = dirs;
        let attempt = Rc::new(Cell::new(0));
        let calls = Rc::clone(&attempt);
        guard.call = Some(HookCall {
            attempt: Box::new(move || calls.get().to_string()),
            xml: Vec::new(),
        });
        guard.secrets = Some(Box::new(secrets.clone()));
        let mut host = Self {
            _dir: dir,
            guard,
            secrets,
            attempt,
            guests: [guest("vm1"), guest("vm2")],
            keks: Vec::new(),
            told: Vec::new(),
        };
        Store::open(&host.guard.state_dir, Access::Create, soon()).unwrap();
        for name in ["a", "b"] {
            host.keks.push((name.to_owned(), Kek::generate().unwrap()));
            host.import(host.keks.len() - 1);
        }
        host
    }

    pub(crate) fn say(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.guard.state_dir, Access::Write, soon()).unwrap()
    }

    /// Runs SQL as another tool would: with SQLite's own settings, foreign keys off.
    pub(crate) fn sql(&self, sql: &str) {
        let store = rusqlite::Connection::open(self.guard.state_dir.store()).unwrap();
        store.pragma_update(None, "foreign_keys", false).unwrap();
        store.execute_batch(sql).unwrap();
    }

    /// Brings a KEK back as a provider with a new UUID, unless its name or its key is here.
    pub(crate) fn import(&mut self, kek: usize) -> bool {
        let (name, kek) = &self.keks[kek];
        let mut store = self.store();
        let providers = store.providers().unwrap();
        let is_here = providers
            .iter()
            .any(|it| it.name == *name || it.key_id == kek.key_id());
        if is_here {
            return false;
        }
        self.lay_kek(kek);
        let new = NewProvider {
            uuid: ProviderUuid::random(),
            name: name.clone(),
            key_id: kek.key_id(),
            key_version: 1,
            is_default: false,
        };
        store.create_provider(&new, Timestamp::now()).unwrap();
        true
    }

    /// Puts a KEK into the keyring as a root-only file (src/keyring/mod.rs has the format):
    /// no other program has to be asked to open that.
    pub(crate) fn lay_kek(&self, kek: &Kek) {
        let keys = self.guard.state_dir.keys();
        let made = fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&keys);
        made.unwrap();
        let path = keys.join(kek.key_id().to_string());
        let _ = fs::remove_file(&path);
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .unwrap();
        file.write_all(b"vtpm-guard-kek 1 root-only\n").unwrap();
        for byte in kek.expose() {
            write!(file, "{byte:02x}").unwrap();
        }
    }

    /// libvirtd is asked to start a guest: what was announced before is for another start.
    pub(crate) fn next_attempt(&self) {
        self.attempt.set(self.attempt.get() + 1);
    }

    /// The guest runs, and libvirt notes it.
    pub(crate) fn runs(&mut self, guest: usize) {
        self.guests[guest].running = true;
        fs::write(self.status_file(guest), "<job type='none' async='none'/>").unwrap();
    }

    fn status_file(&self, guest: usize) -> PathBuf {
        let name = format!("{}.xml", self.guests[guest].domain.name);
        self.guard.config.libvirt.running().join(name)
    }

    pub(crate) fn prepare(&self, guest: usize, mode: Mode) -> Outcome {
        let domain = Ok(self.guests[guest].domain.clone());
        prepare(&self.guard, &domain, Origin::Prepare, mode, soon())
    }

    /// What libvirt calls after a start, or before one.
    pub(crate) fn follow_up(&self, guest: usize, operation: Operation) {
        follow_up(&self.guard, operation, &self.guests[guest].domain, soon()).unwrap();
    }

    /// Holds the store's write lock until it is dropped.
    pub(crate) fn lock_store(&self) -> rusqlite::Connection {
        let locker = rusqlite::Connection::open(self.guard.state_dir.store()).unwrap();
        locker.execute_batch("BEGIN IMMEDIATE").unwrap();
        locker
    }

    /// `started` while another program holds the write lock for longer than the hook waits.
    pub(crate) fn started_while_the_store_is_locked(&self, guest: usize) {
        let _lock = self.lock_store();
        let domain = &self.guests[guest].domain;
        let deadline = Deadline::after(Duration::from_millis(40));
        // Where there is nothing to note it succeeds.
        let _ = follow_up(&self.guard, Operation::Started, domain, deadline);
    }

    /// The directory of the TPM states is empty: its file system is not mounted.
    pub(crate) fn hide_states(&self) {
        let states = &self.guard.config.libvirt.tpm_states();
        fs::rename(states, states.with_extension("hidden")).unwrap();
        fs::create_dir(states).unwrap();
    }

    pub(crate) fn show_states(&self) {
        let states = &self.guard.config.libvirt.tpm_states();
        fs::remove_dir_all(states).unwrap();
        fs::rename(states.with_extension("hidden"), states).unwrap();
    }

    /// The end of a run or of a start, as libvirt has it before it tells reasons (10.5).
    pub(crate) fn ends(&self, guest: usize) {
        self.follow_up(guest, Operation::Ended);
        // A start that failed has none.
        let _ = fs::remove_file(self.status_file(guest));
        let released = Operation::parse("release", "end", "-").unwrap();
        self.follow_up(guest, released);
        if guest == TRANSIENT {
            // There may be none.
            let _ = fs::remove_file(self.state_file(guest));
        }
    }

    pub(crate) fn state_file(&self, guest: usize) -> PathBuf {
        let domain = &self.guests[guest].domain;
        let (vtpm, _) = domain.encrypted_vtpm().unwrap();
        state_path(&self.guard.config.libvirt.tpm_states(), domain.uuid, vtpm)
    }

    /// Whether swtpm would open the state with this value; `None` where there is none.
    pub(crate) fn opens_state(&self, guest: usize, value: &[u8]) -> Option<bool> {
        let domain = &self.guests[guest].domain;
        let (vtpm, _) = domain.encrypted_vtpm().unwrap();
        match read_state(&self.guard.config.libvirt.tpm_states(), domain.uuid, vtpm) {
            StateFile::Absent => None,
            StateFile::Encrypted(state) => Some(state.is_opened_by(&dek(value))),
            other => panic!("no such state was made: {other:?}"),
        }
    }

    /// The guest's rows, retired ones too.
    pub(crate) fn rows(&self, guest: usize) -> Vec<KeyRefRecord> {
        let uuid = self.guests[guest].domain.uuid;
        self.store().all_key_refs(Some(uuid), true).unwrap()
    }

    /// What a row's wrapped DEK holds, opened with any KEK that ever was.
    pub(crate) fn unwrapped(&self, row: &KeyRefRecord) -> Option<DekBytes> {
        let wrapped = row.key_ref.wrapped_dek.as_ref()?;
        self.keks.iter().find_map(|(_, kek)| {
            let opened = wrapped.unwrap(kek, row.domain).unwrap_or_default();
            opened.map(|dek| dek.expose().to_vec())
        })
    }

    /// All DEKs that were ever in use, for a look at what lies on the disk.
    pub(crate) fn deks(&self) -> BTreeMap<DekBytes, &str> {
        let of = |guest: &'_ Guest| guest.made_with.clone();
        let all = self.guests.iter().flat_map(of);
        all.map(|dek| (dek, "a DEK")).collect()
    }
}

fn guest(name: &str) -> Guest {
    let secret = SecretUuid::random();
    let emulator = Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: Some(secret),
        source: None,
        persistent_state: false,
    };
    Guest {
        domain: Domain {
            name: name.to_owned(),
            uuid: DomainUuid::random(),
            vtpm: Some(Vtpm::Emulator(emulator)),
        },
        secret,
        running: false,
        made_with: BTreeSet::new(),
        used: BTreeSet::new(),
    }
}

pub(crate) fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec()))
}

/// A deadline that no step should meet.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}
