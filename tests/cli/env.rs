//! One host: a state directory, the command, and what a start would have left in the store.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::host::dirs::StateDir;
use vtpm_guard::internals::ids::{DomainUuid, KeyRefId};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::new_key::NewKey;
use vtpm_guard::internals::key::wrap::{ALGORITHM, Generation, WrappedDek};
use vtpm_guard::internals::keyring::Keyring;
use vtpm_guard::internals::store::{Access, AddKey, Event, Origin, OtherKeys, Store};

/// A guest.
pub(crate) const VM1: &str = "11111111-2222-4333-8444-000000000001";
/// Another one.
pub(crate) const VM2: &str = "11111111-2222-4333-8444-000000000002";

/// A host of its own, gone with the test.
pub(crate) struct Host {
    dir: TempDir,
}

/// What one command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A host with one provider.
    pub(crate) fn with_provider(name: &str) -> Self {
        let host = Self::new();
        host.run(&["provider", "create", name]).succeeds();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state_dir(&self) -> StateDir {
        StateDir::at(self.path("state"))
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A file with this passphrase, a good one, for its owner alone.
    pub(crate) fn passphrase_file(&self) -> String {
        let file = self.file("passphrase", "correct horse battery staple\n");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// The command with these arguments, in an environment that changes no answer.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&self.state_dir(), arguments)
    }

    /// The same with another state directory.
    pub(crate) fn command_in(&self, state_dir: &Path, arguments: &[&str]) -> Command {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("vtpm-guard");
        command
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("TZ", "UTC")])
            .current_dir(self.dir.path())
            .arg("--state-dir")
            .arg(state_dir)
            .args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// The document that a command answers with.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&ran.succeeds().stdout).unwrap()
    }

    /// Everything that is stored: a refused command must leave it as it was. Sealed keys by
    /// their names.
    pub(crate) fn stored(&self) -> String {
        let keys = fs::read_dir(self.state_dir().join("keys"));
        let mut keys: Vec<_> = keys
            .map(|keys| keys.map(|key| key.unwrap().file_name()).collect())
            .unwrap_or_default();
        keys.sort();
        let providers = self.json(&["provider", "list"]);
        let key_refs = self.json(&["key", "list"]);
        format!("{keys:?}\n{providers:#}\n{key_refs:#}")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.state_dir(), Access::Write, soon()).unwrap()
    }

    pub(crate) fn keyring(&self) -> Keyring {
        Keyring::at(self.state_dir().join("keys"))
    }

    /// The ids of the sealed provider keys, in order.
    pub(crate) fn sealed_keys(&self) -> Vec<KeyId> {
        let Ok(files) = fs::read_dir(self.state_dir().join("keys")) else {
            return Vec::new();
        };
        let key_id = |name: OsString| KeyId::parse(name.to_str()?);
        let mut keys: Vec<_> = files
            .filter_map(|file| key_id(file.unwrap().file_name()))
            .collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn kek(&self, provider: &str) -> Kek {
        let key_id = self.store().provider(provider).unwrap().key_id;
        self.keyring().open(key_id, soon()).unwrap()
    }

    /// Gives a guest a key under this provider, as its first start does.
    pub(crate) fn start_for_the_first_time(&self, guest: &str, provider: &str) -> KeyRefId {
        self.give_key(guest, provider, &Dek::generate().unwrap())
    }

    /// Gives a guest this key under this provider, in the place of those that it has.
    pub(crate) fn give_key(&self, guest: &str, provider: &str, dek: &Dek) -> KeyRefId {
        let kek = self.kek(provider);
        let domain = DomainUuid::parse(guest).unwrap();
        let key = NewKey {
            wrapped_dek: WrappedDek::wrap(&kek, dek, domain, Generation(1)).unwrap(),
            key_id: kek.key_id(),
            key_version: 1,
            algorithm: ALGORITHM,
        };
        let mut store = self.store();
        let provider = store.provider(provider).unwrap();
        let in_use = store.all_key_refs(Some(domain), false).unwrap();
        let in_use: Vec<_> = in_use.iter().map(|row| row.key_ref.id).collect();
        store
            .add_key(&AddKey {
                domain,
                provider: provider.uuid,
                key: &key,
                secret_uuid: None,
                first_used_at: Some(Timestamp::now()),
                others: OtherKeys::Retire(&in_use),
                now: Timestamp::now(),
            })
            .unwrap()
    }

    /// Lets the history know a guest's name.
    pub(crate) fn name_guest(&self, guest: &str, name: &str) {
        let (now, domain) = (Timestamp::now(), DomainUuid::parse(guest).unwrap());
        let event = Event::new(now, Origin::Prepare, domain, name, "healthy");
        self.store().record_event(&event).unwrap();
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    #[track_caller]
    pub(crate) fn ends_with(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// stderr has these words.
    #[track_caller]
    pub(crate) fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
        self
    }
}

/// Compares what a command said with the golden answer of this name. What differs from run
/// to run and from host to host is taken out: times, UUIDs of providers, key ids, seals.
#[track_caller]
pub(crate) fn golden(name: &str, ran: &Ran) {
    compare(
        name,
        ran,
        &[
            (VM1, "[vm1]"),
            (VM2, "[vm2]"),
            (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "[uuid]"),
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[time]"),
            (r"\d{8}T\d{6}\.\d{3}Z", "[time]"),
            (r"\b[0-9a-f]{32}\b", "[key id]"),
            (r"\b[0-9a-f]{8}\b", "[key]"),
            (r"systemd host\+tpm2|systemd host|root-only file", "[seal]"),
            (r"(?m)^.*no systemd credentials.*\n", ""),
            (r"/[^ ]*/\.tmp\w+/", "/tmp/"),
            // Columns are as wide as what stood in them.
            (r"(\S) {2,}", "$1  "),
        ],
    );
}

/// Compares what a command said with the golden answer of this name, word by word.
#[track_caller]
pub(crate) fn golden_verbatim(name: &str, ran: &Ran) {
    compare(name, ran, &[]);
}

#[track_caller]
fn compare(name: &str, ran: &Ran, filters: &[(&str, &str)]) {
    let Ran {
        status,
        stdout,
        stderr,
    } = ran;
    let talk = if stderr.is_empty() {
        String::new()
    } else {
        format!("--- stderr\n{stderr}")
    };
    let text = format!("{stdout}{talk}--- exit status {status}\n");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, replacement) in filters {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A deadline that no test should meet.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// The mode of a file, permission bits alone.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
