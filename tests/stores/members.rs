//! Hosts of a fleet: the built commands, each with a state directory of its own, and a real PostgreSQL. The key manager is
//! openssl with a passphrase that all hosts have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::new_key::NewKey;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::keyring::Keyring;
use vtpm_guard::internals::store::{Access, AddKey, OtherKeys, Store};

use crate::built::built;
use crate::database::{Database, soon};

/// A host with a state directory and a configuration of its own.
pub(crate) struct Host<'a> {
    dir: tempfile::TempDir,
    name: &'static str,
    _database: &'a Database,
}

impl<'a> Host<'a> {
    pub(crate) fn new(database: &'a Database, name: &'static str) -> Self {
        built("store-postgresql");
        let dir = tempfile::tempdir().unwrap();
        let passphrase = database.file("box");
        let openssl = |how: &str| {
            format!(
                "[\"/usr/bin/openssl\", {how}\"-aes-256-ctr\", \"-pbkdf2\", \"-pass\", \"file:{passphrase}\"]"
            )
        };
        let fleet = fs::read_to_string(database.file("config.toml")).unwrap();
        let text = format!(
            "{fleet}interval = \"1s\"\n[kms.box]\nkind = \"exec\"\nwrap = {}\nunwrap = {}\n",
            openssl("\"enc\", "),
            openssl("\"enc\", \"-d\", "),
        );
        let host = Self {
            dir,
            name,
            _database: database,
        };
        fs::write(host.path("config.toml"), text).unwrap();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vtpm-guard"));
        command
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .args(arguments.split(' '));
        command.output().unwrap()
    }

    /// What it prints as JSON.
    #[track_caller]
    pub(crate) fn does(&self, arguments: &str) -> Value {
        let output = self.run(&format!("--json {arguments}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {arguments}: {stderr}",
            self.name
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Gives a guest a key under this provider, as its first start does.
    pub(crate) fn makes_key(&self, guest: DomainUuid, provider: &str) {
        let state = self.path("state");
        let mut store = Store::open(&state, Access::Write, soon()).unwrap();
        let provider = store.provider(provider).unwrap();
        let kek = Keyring::at(state.join("keys")).open(provider.key_id, soon());
        let dek = Dek::generate().unwrap();
        let wrapped = WrappedDek::wrap(&kek.unwrap(), &dek, guest, Generation(1)).unwrap();
        let now = Timestamp::now();
        let in_use = store.all_key_refs(Some(guest), false).unwrap();
        let in_use: Vec<_> = in_use.iter().map(|row| row.key_ref.id).collect();
        store
            .add_key(&AddKey {
                domain: guest,
                provider: provider.uuid,
                key: &NewKey::new(wrapped, provider.key_id, provider.key_version),
                secret_uuid: None,
                first_used_at: Some(now),
                others: OtherKeys::Retire(&in_use),
                now,
            })
            .unwrap();
    }

    #[track_caller]
    pub(crate) fn joins(&self) -> Value {
        self.does(&format!("fleet join --name {}", self.name))
    }

    /// Its providers, each with the first digits of its key.
    pub(crate) fn providers(&self) -> Vec<(String, String)> {
        let listed = self.does("provider list");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |it: &Value| (text(&it["name"]), text(&it["key_id"])[..8].to_owned());
        listed.as_array().unwrap().iter().map(one).collect()
    }

    pub(crate) fn key(&self, name: &str) -> Option<String> {
        let found = self.providers().into_iter().find(|it| it.0 == name);
        found.map(|it| it.1)
    }
}

/// A database, and the passphrase of the key manager beside it.
pub(crate) fn database() -> Database {
    let database = Database::prepared();
    let passphrase = database.file("box");
    fs::write(&passphrase, "a passphrase for tests").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    database
}
