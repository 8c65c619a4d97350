//! Guests, providers and key references on a host, as the scenarios need them.

use std::fs;
use std::path::PathBuf;

use rusqlite::{Connection, Row, params};
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::recovery::file::RecoveryFile;
use vtpm_guard::internals::recovery::passphrase::Passphrase;
use zeroize::Zeroizing;

use crate::host::{Host, Output};

/// The emulated TPM of a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tpm {
    None,
    Plain,
    Encrypted(SecretUuid),
}

/// A guest as it is defined on a host.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) uuid: DomainUuid,
    /// The secret that its XML names, or would name.
    pub(crate) secret: SecretUuid,
}

/// One row of `key_ref`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRef {
    pub(crate) id: i64,
    pub(crate) secret_uuid: Option<String>,
    pub(crate) provider_uuid: Option<String>,
    pub(crate) provider_name: String,
    pub(crate) key_version: Option<i64>,
    pub(crate) kek_ref: Option<String>,
    pub(crate) wrapped_dek: Option<Vec<u8>>,
    pub(crate) first_used_at: Option<i64>,
    pub(crate) retired_at: Option<i64>,
}

const PASSPHRASE: &str = "a made-up passphrase";
/// The passphrase of all recovery files.
pub(crate) const PASSPHRASE_FILE: &str = "/run/passphrase";

impl Host {
    /// Defines a guest: q35, 16 MiB, no disk, so it starts in half a second.
    pub(crate) fn define_guest(&self, name: &str, tpm: Tpm) -> Guest {
        let guest = Guest {
            name: name.to_owned(),
            uuid: DomainUuid::random(),
            secret: SecretUuid::random(),
        };
        self.redefine_guest(guest, tpm)
    }

    /// Redefines a guest with another TPM.
    pub(crate) fn redefine_guest(&self, guest: Guest, tpm: Tpm) -> Guest {
        let (encryption, secret) = match tpm {
            Tpm::Encrypted(secret) => (format!("<encryption secret='{secret}'/>"), secret),
            Tpm::None | Tpm::Plain => (String::new(), guest.secret),
        };
        let devices = match tpm {
            Tpm::None => String::new(),
            Tpm::Plain | Tpm::Encrypted(_) => format!(
                "<tpm model='tpm-crb'><backend type='emulator' version='2.0'>{encryption}\
                 </backend></tpm>"
            ),
        };
        let (name, uuid) = (&guest.name, guest.uuid);
        let path = format!("/run/{name}.xml");
        self.write(
            &path,
            format!(
                "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>\
                 <memory unit='MiB'>16</memory>\
                 <os><type arch='x86_64' machine='q35'>hvm</type></os>\
                 <devices>{devices}</devices></domain>"
            ),
        );
        self.virsh(&["define", &path]).ok();
        Guest { secret, ..guest }
    }

    /// Defines a guest with an encrypted vTPM that is bound to a provider.
    pub(crate) fn define_bound_guest(&self, name: &str, provider: &str) -> Guest {
        let guest = self.define_guest(name, Tpm::Encrypted(SecretUuid::random()));
        self.bind(&guest, provider);
        guest
    }

    /// A host's usual start: a provider `nkp-a`, exported, and a guest `vm1` that has run once
    /// with its key and is stopped.
    pub(crate) fn with_used_guest() -> (Self, Guest) {
        let host = Self::new();
        host.create_provider("nkp-a");
        let guest = host.define_bound_guest("vm1", "nkp-a");
        host.start_and_stop(&guest);
        (host, guest)
    }

    pub(crate) fn start(&self, guest: &Guest) -> Output {
        self.virsh(&["start", &guest.name])
    }

    pub(crate) fn stop(&self, guest: &Guest) {
        self.virsh(&["destroy", &guest.name]).ok();
    }

    #[track_caller]
    pub(crate) fn start_and_stop(&self, guest: &Guest) {
        self.start_running(guest);
        self.stop(guest);
    }

    /// Starts a guest, which must then run.
    #[track_caller]
    pub(crate) fn start_running(&self, guest: &Guest) {
        self.start(guest).ok();
        assert_eq!(self.state(guest), "running");
    }

    /// `running`, `shut off` and so on.
    pub(crate) fn state(&self, guest: &Guest) -> String {
        let answer = self.virsh(&["domstate", &guest.name]).ok();
        answer.stdout.trim().to_owned()
    }

    /// The domain XML as libvirt gives it.
    pub(crate) fn xml(&self, guest: &Guest) -> String {
        self.virsh(&["dumpxml", &guest.name]).ok().stdout
    }

    /// The bytes of the guest's TPM state file.
    #[track_caller]
    pub(crate) fn tpm_state(&self, guest: &Guest) -> Vec<u8> {
        fs::read(self.path(&format!("{}/tpm2/tpm2-00.permall", tpm_dir(guest)))).unwrap()
    }

    /// Puts other bytes into the TPM state file, which keeps its owner and mode.
    pub(crate) fn set_tpm_state(&self, guest: &Guest, bytes: &[u8]) {
        let state = format!("{}/tpm2/tpm2-00.permall", tpm_dir(guest));
        fs::write(self.path(&state), bytes).unwrap();
    }

    /// Where the guest's TPM state file is, as this process reaches it.
    pub(crate) fn tpm_state_file(&self, guest: &Guest) -> PathBuf {
        self.path(&format!("{}/tpm2/tpm2-00.permall", tpm_dir(guest)))
    }

    /// The key of a provider, out of its recovery file.
    pub(crate) fn kek(&self, provider: &str) -> Kek {
        let file = RecoveryFile::read(&self.path(&recovery_file(provider)));
        file.unwrap().open(&passphrase()).unwrap()
    }

    /// Whether there is a TPM state file.
    pub(crate) fn has_tpm_state(&self, guest: &Guest) -> bool {
        let state = format!("{}/tpm2/tpm2-00.permall", tpm_dir(guest));
        self.path(&state).exists()
    }

    /// Takes the guest's TPM state away, as a restored or moved disk would.
    pub(crate) fn remove_tpm_state(&self, guest: &Guest) {
        fs::remove_dir_all(self.path(&tpm_dir(guest))).unwrap();
    }

    /// How many TPMs swtpm has manufactured for this guest: one, as long as it keeps its own.
    pub(crate) fn tpms_made(&self, guest: &Guest) -> usize {
        let log = format!("/var/log/swtpm/libvirt/qemu/{}-swtpm.log", guest.name);
        // No log: its TPM has never run here.
        let log = fs::read_to_string(self.path(&log)).unwrap_or_default();
        log.matches("Starting vTPM manufacturing").count()
    }

    /// A provider, and its recovery file as a careful administrator has it. That file costs hardly anything: what
    /// `provider export` asks of each passphrase was a third of the time of these tests.
    #[track_caller]
    pub(crate) fn create_provider(&self, name: &str) {
        let made = RecoveryFile::cheap(&Kek::generate().unwrap(), name, &passphrase()).unwrap();
        self.write(&recovery_file(name), made.to_string());
        self.write_passphrase();
        self.import_provider(name, None);
    }

    /// Makes its recovery file, as an administrator does.
    #[track_caller]
    pub(crate) fn export_provider(&self, name: &str) {
        self.write_passphrase();
        let file = recovery_file(name);
        let export = ["provider", "export", name, "--output", &file];
        self.guard(&[&export[..], &["--passphrase-file", PASSPHRASE_FILE]].concat())
            .ok();
    }

    fn write_passphrase(&self) {
        self.write(PASSPHRASE_FILE, format!("{PASSPHRASE}\n"));
    }

    pub(crate) fn delete_provider(&self, name: &str) {
        self.guard(&["provider", "delete", name, "--force"]).ok();
    }

    /// Imports an exported provider, under its own name unless there is a new one.
    pub(crate) fn import_provider(&self, name: &str, new_name: Option<&str>) {
        let file = recovery_file(name);
        let mut import = vec!["provider", "import", &file];
        import.extend(["--passphrase-file", PASSPHRASE_FILE]);
        import.extend(new_name.iter().flat_map(|name| ["--name", name]));
        self.guard(&import).ok();
    }

    pub(crate) fn bind(&self, guest: &Guest, provider: &str) {
        self.guard(&["key", "bind", &guest.name, "--provider", provider])
            .ok();
    }

    /// A provider's UUID and key id, as the store has them.
    pub(crate) fn provider(&self, name: &str) -> (String, String) {
        let query = "SELECT uuid, key_id FROM key_provider WHERE name = ?1";
        self.store()
            .query_row(query, [name], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    }

    /// The guest's key references, retired ones too, by id.
    pub(crate) fn key_refs(&self, guest: &Guest) -> Vec<KeyRef> {
        let store = self.store();
        let mut query = store
            .prepare("SELECT * FROM key_ref WHERE resource_uuid = ?1 ORDER BY id")
            .unwrap();
        let rows = query.query_map([guest.uuid.to_string()], KeyRef::read);
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The guest's only key reference.
    #[track_caller]
    pub(crate) fn only_key_ref(&self, guest: &Guest) -> KeyRef {
        let rows = self.key_refs(guest);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.into_iter().next().unwrap()
    }

    /// Puts a placeholder beside whatever is there, as a management agent does.
    pub(crate) fn insert_placeholder(&self, guest: &Guest, provider: &str) {
        let (uuid, _) = self.provider(provider);
        let row = KeyRef {
            id: 0,
            secret_uuid: Some(guest.secret.to_string()),
            provider_uuid: Some(uuid),
            provider_name: provider.to_owned(),
            key_version: None,
            kek_ref: None,
            wrapped_dek: None,
            first_used_at: None,
            retired_at: None,
        };
        self.insert_key_ref(guest, &row);
    }

    /// Writes a row under a new id, as a restored backup or another tool does.
    pub(crate) fn insert_key_ref(&self, guest: &Guest, row: &KeyRef) {
        row.insert(&self.store(), guest.uuid);
    }

    /// Changes all rows of the guest: `sql` is what stands after `SET`.
    /// Adds a key of this generation, wrapped for the guest, with the columns of `like`.
    pub(crate) fn insert_wrapped(
        &self,
        guest: &Guest,
        like: &KeyRef,
        kek: &Kek,
        dek: &Dek,
        generation: u32,
    ) {
        let wrapped = WrappedDek::wrap(kek, dek, guest.uuid, Generation(generation)).unwrap();
        let row = KeyRef {
            wrapped_dek: Some(wrapped.as_bytes().to_vec()),
            ..like.clone()
        };
        self.insert_key_ref(guest, &row);
    }

    pub(crate) fn update_key_refs(&self, guest: &Guest, sql: &str) {
        let update = format!("UPDATE key_ref SET {sql} WHERE resource_uuid = ?1");
        self.store()
            .execute(&update, [guest.uuid.to_string()])
            .unwrap();
    }

    pub(crate) fn delete_key_refs(&self, guest: &Guest) {
        let delete = "DELETE FROM key_ref WHERE resource_uuid = ?1";
        self.store()
            .execute(delete, [guest.uuid.to_string()])
            .unwrap();
    }
}

impl KeyRef {
    /// The guest's key in this row, which this provider's key wraps.
    pub(crate) fn dek(&self, guest: &Guest, kek: &Kek) -> Dek {
        let wrapped = WrappedDek::from_stored(self.wrapped_dek.clone().unwrap());
        wrapped.unwrap(kek, guest.uuid).unwrap().unwrap()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            secret_uuid: row.get("secret_uuid")?,
            provider_uuid: row.get("provider_uuid")?,
            provider_name: row.get("provider_name")?,
            key_version: row.get("key_version")?,
            kek_ref: row.get("kek_ref")?,
            wrapped_dek: row.get("wrapped_dek")?,
            first_used_at: row.get("first_used_at")?,
            retired_at: row.get("retired_at")?,
        })
    }

    pub(crate) fn insert(&self, store: &Connection, domain: DomainUuid) {
        let insert = "INSERT INTO key_ref (resource_type, resource_uuid, secret_uuid, \
             provider_uuid, provider_name, key_version, kek_ref, wrapped_dek, first_used_at, \
             retired_at, created_at, updated_at) \
             VALUES ('tpm', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, \
             unixepoch() * 1000, unixepoch() * 1000)";
        let values = params![
            domain.to_string(),
            self.secret_uuid,
            self.provider_uuid,
            self.provider_name,
            self.key_version,
            self.kek_ref,
            self.wrapped_dek,
            self.first_used_at,
            self.retired_at,
        ];
        store.execute(insert, values).unwrap();
    }
}

fn tpm_dir(guest: &Guest) -> String {
    format!("/var/lib/libvirt/swtpm/{}", guest.uuid)
}

fn passphrase() -> Passphrase {
    Passphrase::from_bytes(Zeroizing::new(PASSPHRASE.into())).unwrap()
}

/// Where the recovery file of a provider is.
pub(crate) fn recovery_file(provider: &str) -> String {
    format!("/run/{provider}.recovery")
}
