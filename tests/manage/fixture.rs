//! A host in a directory: a store, provider keys, guests of a fake libvirt, TPM states.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::clock::Timestamp;
use crate::domain::{self, Domain, TravellingKeys, Vtpm};
use crate::guard::{Mode, prepare};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid, SlotUuid};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::wrap::Generation;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::Libvirt;
use crate::libvirt::fake::FakeLibvirt;
use crate::manage::host::{BrokenConfig, Host, default_deadline};
use crate::store::{Access, AddKey, KeyRefRecord, NewProvider, Origin, OtherKeys, Slot, Store};
use crate::swtpm::{StateFile, TpmData, read_state, state_path};
use crate::tpm_copies::{CopyStore, LiveState};
use crate::verdict::facts::{CopyReason, KmsSlots, Provider};

/// The data of a TPM that a guest has used.
const PLAIN_STATE: &[u8] = include_bytes!("../vectors/tpm-state/tpm2-plain/tpm2-00.permall");

/// A host.
pub(crate) struct Fixture {
    root: PathBuf,
    pub(crate) host: Host,
    pub(crate) libvirt: FakeLibvirt,
    /// Of whoever made it; whoever only opened it has none.
    _owner: Option<TempDir>,
}

impl Fixture {
    /// A host with an empty store and the providers `a`, the default, and `b`.
    pub(crate) fn new() -> Self {
        // In memory where that can be: a disk would have to be waited for at every step.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.unwrap();
        // swtpm's user gets through to the states, as on a real host.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let fixture = Self::made_in(dir.path());
        Self {
            _owner: Some(dir),
            ..fixture
        }
    }

    /// The same, in this directory, which whoever made it removes.
    pub(crate) fn made_in(root: &Path) -> Self {
        let config = format!(
            "[libvirt]\nconfig_dir = {0:?}\nstate_dir = {1:?}\nrun_dir = {2:?}\n",
            root.join("libvirt/etc/libvirt"),
            root.join("libvirt/var/lib/libvirt"),
            root.join("libvirt/run/libvirt"),
        );
        fs::write(root.join("config.toml"), config).unwrap();
        let fixture = Self::at(root);
        Store::open(fixture.host.state_dir(), Access::Create, default_deadline()).unwrap();
        fixture.make_provider("a");
        fixture.make_provider("b");
        fixture
    }

    /// The host that somebody else made in this directory.
    pub(crate) fn at(root: &Path) -> Self {
        let libvirt = FakeLibvirt::at(&root.join("libvirt"));
        Self {
            root: root.to_owned(),
            host: Host::fake(root, libvirt.clone()),
            libvirt,
            _owner: None,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store(&self) -> Store {
        self.host.store(Access::Write).unwrap().unwrap()
    }

    /// Runs SQL as another tool would: with SQLite's own settings, foreign keys off.
    pub(crate) fn sql(&self, sql: &str) {
        let store = rusqlite::Connection::open(self.host.state_dir().join("store.db")).unwrap();
        store.pragma_update(None, "foreign_keys", false).unwrap();
        store.execute_batch(sql).unwrap();
    }

    /// A new provider. Its key is a root-only file: no other program has to be asked to open it.
    pub(crate) fn make_provider(&self, name: &str) -> Provider {
        let kek = Kek::generate().unwrap();
        self.put_key(&kek);
        let new = NewProvider {
            uuid: ProviderUuid::random(),
            name: name.to_owned(),
            key_id: kek.key_id(),
            key_version: 1,
            is_default: name == "a",
            exported_at: None,
        };
        self.store()
            .create_provider(&new, &[], Timestamp::now())
            .unwrap();
        self.provider(name)
    }

    /// Adds a slot of a provider's key that no key manager has made.
    pub(crate) fn put_slot(
        &self,
        provider: &str,
        kind: &str,
        place: (&str, &str),
        verified_at: Option<Timestamp>,
    ) -> Slot {
        let slot = Slot {
            uuid: SlotUuid::random(),
            key_id: self.provider(provider).key_id,
            kind: kind.to_owned(),
            label: None,
            kms: place.0.to_owned(),
            remote_key: place.1.to_owned(),
            remote_version: None,
            blob: vec![1],
            verified_at,
            created_at: Timestamp(1),
        };
        self.store().add_slot(slot).unwrap()
    }

    /// Puts a provider key into the keyring (src/keyring has the format).
    pub(crate) fn put_key(&self, kek: &Kek) {
        let keys = self.host.state_dir().join("keys");
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(&keys).unwrap();
        let path = keys.join(kek.key_id().to_string());
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .unwrap();
        file.write_all(b"vtpm-guard-kek 1 root-only\n").unwrap();
        for byte in kek.expose() {
            write!(file, "{byte:02x}").unwrap();
        }
    }

    /// Brings the provider of another host here, in the place of the one that has its name.
    pub(crate) fn adopt_provider_of(&self, other: &Self, name: &str) {
        let found = other.provider(name);
        let kek = other.host.keyring().open(found.key_id, default_deadline());
        self.put_key(&kek.unwrap());
        let mut store = self.store();
        store
            .delete_whoever_needs_it(self.provider(name).uuid)
            .unwrap();
        let new = NewProvider {
            uuid: ProviderUuid::random(),
            name: name.to_owned(),
            key_id: found.key_id,
            key_version: found.key_version,
            is_default: true,
            exported_at: None,
        };
        store.create_provider(&new, &[], Timestamp::now()).unwrap();
    }

    /// How many provider keys are in the keyring.
    pub(crate) fn sealed_keys(&self) -> usize {
        fs::read_dir(self.host.state_dir().keys()).unwrap().count()
    }

    /// Takes a provider's key out of the keyring.
    pub(crate) fn lose_key(&self, name: &str) {
        let key_id = self.provider(name).key_id;
        self.host.keyring().remove(key_id).unwrap();
    }

    pub(crate) fn provider(&self, name: &str) -> Provider {
        self.store().provider(name).unwrap()
    }

    /// Adds sections to the configuration.
    pub(crate) fn configure(&self, sections: &str) {
        let path = self.root().join("config.toml");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{before}\n{sections}\n")).unwrap();
    }

    /// Lets a guest start with the daemon.
    pub(crate) fn autostart(&self, name: &str) {
        let dirs = self.libvirt.dirs();
        fs::create_dir_all(dirs.autostart()).unwrap();
        let name = format!("{name}.xml");
        symlink(dirs.definitions().join(&name), dirs.autostart().join(&name)).unwrap();
    }

    /// Defines a guest with an encrypted vTPM.
    pub(crate) fn define(&self, name: &str) -> Defined {
        let secret = SecretUuid::random();
        let encryption = format!("<encryption secret='{secret}'/>");
        self.define_with(name, DomainUuid::random(), secret, &encryption)
    }

    /// Defines a guest whose emulated TPM has these elements.
    pub(crate) fn define_with(
        &self,
        name: &str,
        uuid: DomainUuid,
        secret: SecretUuid,
        encryption: &str,
    ) -> Defined {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><devices><tpm \
             model='tpm-crb'><backend type='emulator' version='2.0'>{encryption}</backend></tpm>\
             </devices></domain>"
        );
        self.libvirt.guests.define(&xml);
        Defined {
            name: name.to_owned(),
            uuid,
            secret,
        }
    }

    /// Defines a guest again, with these keys in its XML.
    pub(crate) fn redefine_with_keys(&self, guest: &Defined, keys: &TravellingKeys) {
        let found = self.host.defined_guest(&guest.name).unwrap();
        let metadata = format!("<metadata>{}</metadata><devices>", keys.to_xml());
        self.libvirt
            .guests
            .define(&found.xml.replace("<devices>", &metadata));
    }

    /// The guest that has this name.
    pub(crate) fn defined(&self, name: &str) -> Defined {
        let found = self.host.defined_guest(name).unwrap();
        let domain = domain::read(found.xml.as_bytes()).unwrap();
        let secret = domain.encrypted_vtpm().map(|(_, secret)| secret);
        Defined {
            name: name.to_owned(),
            uuid: found.uuid,
            secret: secret.unwrap_or_else(SecretUuid::random),
        }
    }

    /// Defines a guest that has used its TPM under a key of provider `a`.
    pub(crate) fn guest_in_use(&self, name: &str) -> Defined {
        let guest = self.define(name);
        let dek = Dek::generate().unwrap();
        self.add_key(&guest, "a", &dek);
        self.encrypt_state(&guest, &dek);
        guest
    }

    /// Adds a used key beside those that the guest has.
    pub(crate) fn add_key(&self, guest: &Defined, provider: &str, dek: &Dek) -> KeyRefId {
        self.add_key_of(guest, provider, dek, Generation(1))
    }

    /// The same with a key of this generation.
    pub(crate) fn add_key_of(
        &self,
        guest: &Defined,
        provider: &str,
        dek: &Dek,
        generation: Generation,
    ) -> KeyRefId {
        let (provider, now) = (self.provider(provider), Timestamp::now());
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let key = unlocker
            .wrap(dek, &provider, guest.uuid, generation, default_deadline())
            .unwrap();
        let added = self.store().add_key(&AddKey {
            domain: guest.uuid,
            provider: provider.uuid,
            key: &key,
            secret_uuid: Some(guest.secret),
            first_used_at: Some(now),
            others: OtherKeys::Keep,
            now,
        });
        added.unwrap()
    }

    /// Writes the guest's TPM state, encrypted under this key.
    pub(crate) fn encrypt_state(&self, guest: &Defined, dek: &Dek) {
        let data = TpmData::from_plain(PLAIN_STATE).unwrap().unwrap();
        self.write_state(guest, &data.encrypt(dek).unwrap());
    }

    /// Saves a copy of the guest's TPM state, as after a run of a transient guest.
    pub(crate) fn save_copy(&self, guest: &Defined) {
        let domain = self.domain(guest);
        let (vtpm, _) = domain.encrypted_vtpm().unwrap();
        let states = self.libvirt.dirs().tpm_states();
        let live = LiveState::read(&states, guest.uuid, vtpm).unwrap().unwrap();
        let copies = CopyStore::of(self.host.state_dir(), guest.uuid);
        copies
            .save(&live, &guest.name, CopyReason::Release)
            .unwrap();
    }

    /// A guest in use without a TPM state, with two copies of it: the clock, a year ahead when the first was saved, was set back
    /// before the second. Returns the bytes of the second, too.
    pub(crate) fn guest_with_postdated_copy(&self, name: &str) -> (Defined, Vec<u8>) {
        let (guest, dek) = (self.define(name), Dek::generate().unwrap());
        self.add_key(&guest, "a", &dek);
        for _ in 0..2 {
            self.date_copies(&guest, |saved_at| saved_at + 365 * 24 * 60 * 60 * 1000);
            self.encrypt_state(&guest, &dek);
            self.save_copy(&guest);
        }
        let second = fs::read(self.state_file(&guest)).unwrap();
        fs::remove_file(self.state_file(&guest)).unwrap();
        (guest, second)
    }

    /// Makes the guest's saved copies older, or younger.
    pub(crate) fn date_copies(&self, guest: &Defined, date: fn(i64) -> i64) {
        let copies = CopyStore::of(self.host.state_dir(), guest.uuid);
        for copy in copies.copies().unwrap().0 {
            let path = copies
                .path()
                .join(format!("{}.json", copy.manifest.sha256()));
            let mut manifest: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            manifest["kept_at"] = date(copy.manifest.kept_at().0).into();
            fs::write(&path, manifest.to_string()).unwrap();
        }
    }

    /// A damaged state that a start has set aside.
    pub(crate) fn damaged_state(&self, guest: &Defined) -> PathBuf {
        let dir = self.host.state_dir().damaged_states();
        let dir = dir.join(guest.uuid.to_string());
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(&dir).unwrap();
        let state = dir.join("tpm2-00.permall.damaged-1");
        fs::write(&state, "damaged").unwrap();
        state
    }

    /// Writes it unencrypted.
    pub(crate) fn plain_state(&self, guest: &Defined) {
        self.write_state(guest, PLAIN_STATE);
    }

    pub(crate) fn write_state(&self, guest: &Defined, bytes: &[u8]) {
        let path = self.state_file(guest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn state_file(&self, guest: &Defined) -> PathBuf {
        let domain = self.domain(guest);
        let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
            panic!("{} has no emulated TPM", guest.name);
        };
        state_path(&self.libvirt.dirs().tpm_states(), guest.uuid, vtpm)
    }

    pub(crate) fn domain(&self, guest: &Defined) -> Domain {
        let found = self.libvirt.guest(guest.uuid, default_deadline()).unwrap();
        domain::read(found.unwrap().xml.as_bytes()).unwrap()
    }

    /// The guest's rows, retired ones too.
    pub(crate) fn rows(&self, guest: &Defined) -> Vec<KeyRefRecord> {
        self.store().all_key_refs(Some(guest.uuid), true).unwrap()
    }

    /// Which of its rows in use opens the guest's TPM state.
    pub(crate) fn opening_row(&self, guest: &Defined) -> Option<KeyRefId> {
        let domain = self.domain(guest);
        let (vtpm, _) = domain.encrypted_vtpm()?;
        let state = read_state(&self.libvirt.dirs().tpm_states(), guest.uuid, vtpm);
        let StateFile::Encrypted(state) = state else {
            return None;
        };
        let rows = self
            .rows(guest)
            .into_iter()
            .filter(|row| row.retired_at.is_none());
        let rows = rows.map(|row| row.key_ref);
        let providers = self.store().providers().unwrap();
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let opened = unlocker.open_rows(rows, &providers, guest.uuid, default_deadline());
        let opens = |key: &crate::keyring::unlock::OpenedKey| state.is_opened_by(&key.dek);
        opened.into_iter().find(opens).map(|key| key.key_ref.id)
    }

    /// Whether this secret's value opens the guest's TPM state, as swtpm would try it.
    pub(crate) fn is_opened_by(&self, guest: &Defined, value: &[u8]) -> bool {
        let blob = fs::read(self.state_file(guest)).unwrap();
        let dek = Dek::from_bytes(value.to_vec().into());
        TpmData::decrypt(&blob, &dek).is_ok()
    }

    /// Whether the guest's start would be allowed.
    pub(crate) fn is_allowed(&self, guest: &Defined) -> bool {
        let guard = self.host.guard(BrokenConfig::Fail).unwrap();
        let domain = Ok(self.domain(guest));
        let outcome = prepare(
            &guard,
            &domain,
            Origin::Check,
            Mode::DryRun,
            default_deadline(),
        );
        outcome.is_allowed()
    }

    /// The guest would start, and one of its keys alone is in use.
    pub(crate) fn assert_starts_with_one_key(&self, guest: &Defined) {
        assert!(self.would_start(guest));
        let rows = self.rows(guest);
        let in_use = rows.iter().filter(|row| row.retired_at.is_none());
        assert_eq!(in_use.count(), 1, "{rows:#?}");
    }

    /// Whether the guest would start, with a key that opens its TPM.
    pub(crate) fn would_start(&self, guest: &Defined) -> bool {
        self.is_allowed(guest) && self.opening_row(guest).is_some()
    }
}

/// A provider that is in no store.
pub(crate) fn a_provider() -> Provider {
    Provider {
        uuid: ProviderUuid::random(),
        name: "nkp-a".to_owned(),
        key_id: KeyId::parse("3f2a9c01000000000000000000000000").unwrap(),
        key_version: 1,
        is_default: true,
        exported_at: None,
        created_at: Timestamp(0),
        kms: KmsSlots::default(),
    }
}

/// A guest that the fake libvirt knows.
#[derive(Debug, Clone)]
pub(crate) struct Defined {
    pub(crate) name: String,
    pub(crate) uuid: DomainUuid,
    pub(crate) secret: SecretUuid,
}
