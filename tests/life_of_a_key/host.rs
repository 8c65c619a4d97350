//! One host with two guests and two providers, and what this test knows of its keys.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Deadline;
use crate::domain::Domain;
use crate::guard::{Guard, HookCall, Mode, Operation, follow_up, prepare};
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::keyring::WeakerSeal;
use crate::libvirt::Libvirt;
use crate::libvirt::fake::FakeLibvirt;
use crate::manage;
use crate::manage::host::BrokenConfig;
use crate::manage::provider_import::{ImportAction, ImportProvider, import};
use crate::manage::tests::fixture::Fixture;
use crate::manage::tests::recovery;
use crate::recovery::file::RecoveryFile;
use crate::store::{KeyRefRecord, Origin, Store};
use crate::swtpm::{StateFile, read_state, state_path};
use crate::verdict::outcome::Outcome;

/// The guest that libvirt has no definition of.
pub(crate) const TRANSIENT: usize = 1;

/// A DEK as this test remembers it.
pub(crate) type DekBytes = Vec<u8>;

/// A guest with an encrypted vTPM.
pub(crate) struct Guest {
    pub(crate) domain: Domain,
    xml: String,
    pub(crate) secret: SecretUuid,
    pub(crate) running: bool,
    /// Every DEK that a TPM of this guest was ever made with.
    pub(crate) made_with: BTreeSet<DekBytes>,
    /// Those that a guest ran with since the last reset.
    pub(crate) used: BTreeSet<DekBytes>,
}

pub(crate) struct Host {
    /// The host as the administrator sees it.
    pub(crate) site: Fixture,
    /// The guard as libvirtd calls it.
    pub(crate) guard: Guard,
    pub(crate) libvirt: FakeLibvirt,
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
        let site = Fixture::new();
        let mut guard = site.host.guard(BrokenConfig::Fail).unwrap();
        let attempt = Rc::new(Cell::new(0));
        let calls = Rc::clone(&attempt);
        guard.call = Some(HookCall {
            attempt: Box::new(move || calls.get().to_string()),
            xml: [].into(),
        });
        let guests = ["vm1", "vm2"].map(|name| guest(&site, name));
        // The first guest is defined, the second is transient: libvirt removes its TPM's state
        // when it stops and when its start fails.
        site.libvirt.guests.undefine("vm2");
        let kek = |name: &str| {
            let key_id = site.provider(name).key_id;
            let kek = site.host.keyring().open(key_id, soon()).unwrap();
            (name.to_owned(), kek)
        };
        Self {
            keks: ["a", "b"].map(kek).into(),
            libvirt: site.libvirt.clone(),
            site,
            guard,
            attempt,
            guests,
            told: Vec::new(),
        }
    }

    /// The host as the procedures of `manage` know it.
    pub(crate) fn manage(&self) -> &manage::host::Host {
        &self.site.host
    }

    pub(crate) fn say(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    pub(crate) fn store(&self) -> Store {
        self.site.store()
    }

    /// How the administrator names a guest: libvirt does not know a transient one that is stopped.
    pub(crate) fn arg(&self, guest: usize) -> String {
        self.guests[guest].domain.uuid.to_string()
    }

    /// `provider import` of a KEK, from a recovery file, if its name and its key are not here.
    pub(crate) fn import(&mut self, kek: usize) -> bool {
        let (name, kek) = &self.keks[kek];
        let passphrase = recovery::passphrase();
        let file = RecoveryFile::cheap(kek, name, &passphrase).unwrap();
        let mut request = ImportProvider {
            path: self.site.root(),
            file: &file,
            passphrase: &passphrase,
            name: None,
            dry_run: true,
            weaker: WeakerSeal::Refused,
        };
        match import(self.manage(), &request) {
            Ok(would) if would.action != ImportAction::None => {}
            _ => return false,
        }
        // As a root-only file: no other program has to be asked to open that.
        self.site.put_key(kek);
        request.dry_run = false;
        import(self.manage(), &request).is_ok()
    }

    /// libvirtd is asked to start a guest: what was announced before is for another start.
    pub(crate) fn next_attempt(&self) {
        self.attempt.set(self.attempt.get() + 1);
    }

    /// The guest runs, and libvirt notes it.
    pub(crate) fn runs(&mut self, guest: usize) {
        self.guests[guest].running = true;
        let xml = &self.guests[guest].xml;
        let status = format!(
            "<domstatus state='running'><job type='none' async='none'/>\n{xml}\n</domstatus>\n"
        );
        fs::write(self.status_file(guest), status).unwrap();
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
        follow_up(&self.guard, operation, &self.guests[guest].domain, soon())
            .unwrap_or_else(|error| panic!("{operation:?}: {error:?}: {:#?}", self.told));
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

    /// Lets libvirt know a guest while `act` goes on, as one that is defined.
    pub(crate) fn while_defined<T>(&self, guest: usize, act: impl FnOnce() -> T) -> T {
        if guest != TRANSIENT {
            return act();
        }
        self.libvirt.guests.define(&self.guests[guest].xml);
        let result = act();
        self.libvirt
            .guests
            .undefine(&self.guests[guest].domain.name);
        result
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

fn guest(site: &Fixture, name: &str) -> Guest {
    let defined = site.define(name);
    let known = site.libvirt.guest(defined.uuid, soon()).unwrap().unwrap();
    Guest {
        domain: site.domain(&defined),
        xml: known.xml,
        secret: defined.secret,
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
