//! A host with guests and a libvirt, all of it files in one directory, and the built program on
//! it: without root, without libvirtd.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use vtpm_guard::internals::domain::{TravellingKey, TravellingKeys};
use vtpm_guard::internals::key::wrap::WrappedDek;

use crate::built::built;
use crate::env::{Host, Ran};
use crate::programs::{link_program, write_program};

/// A real state, and what opens it.
pub(super) const ENCRYPTED: &[u8] =
    include_bytes!("../../vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");
pub(super) const PASSPHRASE: &str = "correct horse";
/// A state that is not encrypted.
pub(super) const PLAIN: &[u8] =
    include_bytes!("../../vectors/tpm-state/tpm2-plain/tpm2-00.permall");

/// UUIDs of guests and of their secrets, by their number.
pub(super) fn guest(number: u8) -> String {
    format!("11111111-2222-4333-8444-0000000000{number:02}")
}

pub(super) fn secret(number: u8) -> String {
    format!("6dd3e4a5-1f2e-4a0b-9c8d-0000000000{number:02}")
}

/// The host.
pub(super) struct Site {
    host: Host,
    config: String,
}

impl Site {
    /// Without any provider or guest.
    pub(super) fn empty() -> Self {
        let host = Host::new();
        let bin = host.path("bin");
        for dir in [
            "qemu/autostart",
            "qemu/save",
            "run/qemu",
            "memory",
            "secrets",
            "swtpm",
        ] {
            fs::create_dir_all(bin.join("libvirt").join(dir)).unwrap();
        }
        let program = Path::new(env!("CARGO_BIN_EXE_vtpm-guard"));
        link_program(program, &bin.join("vtpm-guard"));
        let helper = bin.join("vtpm-guard-libvirt");
        write_program(&helper, include_str!("fake-libvirt"));
        fs::set_permissions(&bin, Permissions::from_mode(0o755)).unwrap();
        let site = Self {
            config: host.path("config.toml").to_str().unwrap().to_owned(),
            host,
        };
        site.configure("");
        site
    }

    /// With the provider `a`, which is the default and exported.
    pub(super) fn new() -> Self {
        let site = Self::empty();
        site.did("provider create a --default");
        // As good as exported: an export takes its time.
        site.sql("UPDATE key_provider SET exported_at = created_at");
        site
    }

    /// With a guest `vm1` whose key was adopted and opens its TPM.
    pub(super) fn with_guest() -> Self {
        let site = Self::new();
        site.define("vm1", 1, true);
        site.state(1, ENCRYPTED);
        site.give_secret(1, PASSPHRASE);
        site.did("adopt vm1");
        site
    }

    /// A configuration with these lines of `[policy]`.
    pub(super) fn configure(&self, policy: &str) {
        let libvirt = self.path("bin/libvirt");
        let log = self.path("log");
        self.host.file(
            "config.toml",
            &format!(
                "[policy]\n{policy}\n[log]\ntarget = \"{log}\"\n[libvirt]\n\
                 config_dir = \"{libvirt}\"\nstate_dir = \"{libvirt}\"\n\
                 run_dir = \"{libvirt}/run\"\ntpm_dir = \"{libvirt}/swtpm\"\n"
            ),
        );
    }

    /// A fleet's store that answers the first question with this, or with nothing that it has.
    pub(super) fn join_fleet(&self, answers: &[Value]) {
        let hello = json!({"ok": true, "protocol": 1, "kind": "test", "version": "1"});
        let nothing = json!({"ok": true, "facts": [], "states": []});
        let mut replies = Vec::new();
        for reply in [&hello, answers.first().unwrap_or(&nothing)] {
            let reply = reply.to_string();
            let length = u32::try_from(reply.len()).unwrap();
            replies.extend(length.to_be_bytes());
            replies.extend(reply.into_bytes());
        }
        let ready = self.host.path("replies");
        fs::write(&ready, replies).unwrap();
        let program = self.host.path("bin/store-test");
        let script = format!(
            "#!/bin/sh\n/bin/cat {}\nexec /bin/cat >/dev/null\n",
            ready.display()
        );
        write_program(&program, &script);
        self.configure("[fleet]\nstore = \"test://there\"");
    }

    /// A shared store for a fleet, which this host may join.
    pub(super) fn add_fleet(&self) {
        fs::create_dir(self.path("bin/fleet")).unwrap();
        self.add_fleet_program();
    }

    /// That of another host.
    pub(super) fn add_fleet_of(&self, other: &Self) {
        std::os::unix::fs::symlink(other.path("bin/fleet"), self.path("bin/fleet")).unwrap();
        self.add_fleet_program();
    }

    fn add_fleet_program(&self) {
        let program = self.host.path("bin/store-test");
        write_program(&program, include_str!("fake-store"));
        let before = fs::read_to_string(&self.config).unwrap();
        let section = "[fleet]\nstore = \"test://there\"\n";
        self.host.file("config.toml", &(before + section));
    }

    /// The shared store does not answer any more.
    pub(super) fn cut_fleet(&self) {
        fs::rename(self.path("bin/fleet"), self.path("bin/cut")).unwrap();
    }

    /// Two key managers: `box` turns one bit of each byte, `closed` takes nothing.
    pub(super) fn add_key_manager(&self) {
        let program = built("kms-exec");
        link_program(&program, &self.host.path("bin/kms-exec"));
        let section = |name, command| {
            format!("[kms.{name}]\nkind = \"exec\"\nwrap = [{command}]\nunwrap = [{command}]\n")
        };
        let before = fs::read_to_string(&self.config).unwrap();
        let sections = section("box", r"'/usr/bin/tr', '\000-\377', '\200-\377\000-\177'")
            + &section("closed", "'/bin/false'");
        self.host.file("config.toml", &(before + &sections));
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.host.path(name).to_str().unwrap().to_owned()
    }

    pub(super) fn file(&self, name: &str, content: &str) -> String {
        self.host.file(name, content)
    }

    /// Defines a guest with an emulated TPM, encrypted with the secret of its number or not.
    pub(super) fn define(&self, name: &str, number: u8, encrypted: bool) {
        let secret = encrypted.then(|| secret(number));
        self.define_with(name, number, secret.as_deref());
    }

    /// The same with this secret.
    pub(super) fn define_with(&self, name: &str, number: u8, secret: Option<&str>) {
        let backend = match secret {
            Some(secret) => format!(
                "<backend type='emulator' version='2.0'><encryption secret='{secret}'/></backend>"
            ),
            None => "<backend type='emulator' version='2.0'/>".to_owned(),
        };
        let uuid = guest(number);
        let xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><devices>\
             <tpm model='tpm-crb'>{backend}</tpm></devices></domain>"
        );
        self.file(&format!("bin/libvirt/qemu/{name}.xml"), &xml);
    }

    /// The guest, the only one with a key, has that in its XML.
    pub(super) fn put_key_into_xml(&self, name: &str) {
        let store = rusqlite::Connection::open(self.path("state/store.db")).unwrap();
        let read = "SELECT resource_uuid, wrapped_dek, provider_name FROM key_ref";
        let keys = store.query_row(read, [], |row| {
            let domain: String = row.get(0)?;
            Ok(TravellingKeys {
                domain: domain.parse().ok(),
                keys: vec![TravellingKey {
                    wrapped_dek: WrappedDek::from_stored(row.get(1)?),
                    provider: row.get(2)?,
                }],
                fault: None,
            })
        });
        let file = self.path(&format!("bin/libvirt/qemu/{name}.xml"));
        let xml = fs::read_to_string(&file).unwrap();
        let metadata = format!("<metadata>{}</metadata><devices>", keys.unwrap().to_xml());
        fs::write(file, xml.replace("<devices>", &metadata)).unwrap();
    }

    /// Defines a guest with an encrypted vTPM, and this in its metadata.
    pub(super) fn define_with_metadata(&self, name: &str, number: u8, metadata: &str) {
        self.define(name, number, true);
        let file = format!("bin/libvirt/qemu/{name}.xml");
        let xml = fs::read_to_string(self.path(&file)).unwrap();
        let metadata = format!("<metadata>{metadata}</metadata><devices>");
        self.file(&file, &xml.replace("<devices>", &metadata));
    }

    /// From now on a guest's definition cannot be read; libvirt lists it all the same.
    pub(super) fn spoil(&self, name: &str) {
        let file = format!("bin/libvirt/qemu/{name}.xml");
        let xml = fs::read_to_string(self.path(&file)).unwrap();
        self.file(&file, xml.trim_end().strip_suffix("</domain>").unwrap());
    }

    /// libvirt forgets a guest.
    pub(super) fn undefine(&self, name: &str) {
        fs::remove_file(self.path(&format!("bin/libvirt/qemu/{name}.xml"))).unwrap();
    }

    /// The guest is on.
    pub(super) fn start(&self, name: &str) {
        let [defined, running] =
            ["qemu", "run/qemu"].map(|dir| self.path(&format!("bin/libvirt/{dir}/{name}.xml")));
        fs::copy(defined, running).unwrap();
    }

    /// The guest starts with the daemon.
    pub(super) fn autostart(&self, name: &str) {
        let [defined, link] = ["qemu", "qemu/autostart"]
            .map(|dir| self.path(&format!("bin/libvirt/{dir}/{name}.xml")));
        std::os::unix::fs::symlink(defined, link).unwrap();
    }

    fn state_file(&self, number: u8) -> PathBuf {
        let guest = guest(number);
        self.path(&format!("bin/libvirt/swtpm/{guest}/tpm2/tpm2-00.permall"))
            .into()
    }

    /// The guest's TPM has this state.
    pub(super) fn state(&self, number: u8, bytes: &[u8]) {
        let file = self.state_file(number);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    /// The guest's TPM state is gone.
    pub(super) fn lose_state(&self, number: u8) {
        fs::remove_file(self.state_file(number)).unwrap();
    }

    /// A transient run of `vm1` has ended: the guard keeps a copy of its state.
    pub(super) fn keep_copy(&self) {
        let (defined, transient) = (
            self.path("bin/libvirt/qemu/vm1.xml"),
            self.path("transient.xml"),
        );
        fs::rename(&defined, &transient).unwrap();
        self.did(&format!(
            "replay {transient} --operation release --sub-operation end --no-secret"
        ));
        fs::copy(&transient, &defined).unwrap();
    }

    /// Somebody gave libvirt the secret of this number, with this value.
    pub(super) fn give_secret(&self, number: u8, value: &str) {
        self.define_secret(number, "no", "no");
        self.give_value(number, value);
    }

    /// The secret of this number has this value.
    pub(super) fn give_value(&self, number: u8, value: &str) {
        let uuid = secret(number);
        self.file(&format!("bin/libvirt/memory/{uuid}.value"), value);
    }

    /// Somebody defined the secret of this number, without a value.
    pub(super) fn define_secret(&self, number: u8, ephemeral: &str, private: &str) {
        let uuid = secret(number);
        self.file(
            &format!("bin/libvirt/memory/{uuid}.xml"),
            &format!(
                "<secret ephemeral='{ephemeral}' private='{private}'><uuid>{uuid}</uuid>\
                 <usage type='vtpm'><name>of somebody else {number}</name></usage></secret>"
            ),
        );
    }

    /// The hook has refused a start of this guest, and kept its XML.
    pub(super) fn capture(&self, name: &str) {
        let defined = self.path(&format!("bin/libvirt/qemu/{name}.xml"));
        fs::create_dir_all(self.path("state/captures")).unwrap();
        let capture = format!("state/captures/001800000000000-VG205-{name}.xml");
        fs::copy(defined, self.path(&capture)).unwrap();
    }

    /// Changes the store as another tool would.
    pub(super) fn sql(&self, sql: &str) {
        let store = rusqlite::Connection::open(self.host.state_dir().join("store.db")).unwrap();
        store.execute_batch(sql).unwrap();
    }

    /// Exports a provider into a file of this name.
    pub(super) fn export(&self, provider: &str, file: &str) {
        let passphrase = self.host.passphrase_file();
        self.did(&format!(
            "provider export {provider} --output {} --passphrase-file {passphrase}",
            self.path(file)
        ));
    }

    /// A file with the passphrase of [`Self::export`].
    pub(super) fn passphrase(&self) -> String {
        self.host.passphrase_file()
    }

    /// The command with these words.
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(self.path("bin/vtpm-guard"));
        command
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("TZ", "UTC")])
            .args(self.arguments(words));
        command
    }

    pub(super) fn arguments(&self, words: &str) -> Vec<String> {
        let state_dir = self.path("state");
        let options = [
            "--json",
            "--config",
            &self.config,
            "--state-dir",
            &state_dir,
        ];
        let words = words.split_whitespace();
        options
            .into_iter()
            .chain(words)
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn run(&self, words: &str) -> Ran {
        Ran::of(&mut self.command(words))
    }

    /// The same on a host on which nothing else runs, with a /run of its own. Only root can make
    /// one.
    pub(super) fn run_alone(&self, before: &str, words: &str) -> Ran {
        let script = format!("mount -t tmpfs tmpfs /run\n{before}\nexec \"$@\"");
        let mut command = Command::new("/usr/bin/unshare");
        command
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("TZ", "UTC")])
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args([
                "/bin/sh",
                "-ec",
                &script,
                "sh",
                &self.path("bin/vtpm-guard"),
            ])
            .args(self.arguments(words));
        Ran::of(&mut command)
    }

    /// Runs a command that makes things ready, which must succeed.
    #[track_caller]
    pub(super) fn did(&self, words: &str) -> Value {
        let ran = self.run(words).succeeds();
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Takes the paths of this directory out of a text.
    pub(super) fn without_paths(&self, text: &str) -> String {
        text.replace(&self.path(""), "DIR/")
    }
}
