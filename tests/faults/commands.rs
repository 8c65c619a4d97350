//! What is killed: every command that changes something, and every call of the hook that does.

use std::fs;
use std::path::PathBuf;

use super::statements::Allowed;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::manage::host::default_deadline;
use crate::manage::tests::fixture::{Defined, Fixture};
use crate::manage::tests::recovery;
use crate::manage::tests::slots::toy;
use crate::recovery::file::RecoveryFile;

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// `vtpm-guard`.
    Command,
    /// `vtpm-guard-hook`, which gets the XML of the guest that its first argument names.
    Hook,
}

/// A program that is killed on a host that was made for it.
pub(super) struct Scenario {
    /// The words of the command, or `hook` and the operation.
    pub(super) command: &'static str,
    /// What is special about this host.
    pub(super) of: &'static str,
    pub(super) tool: Tool,
    /// `{root}` is the directory of the host.
    pub(super) arguments: &'static [&'static str],
    pub(super) set_up: fn(&Fixture),
    /// Panics unless what the program is for is done.
    pub(super) done: fn(&Fixture),
    /// How it may end when it is run again after a kill, beside success.
    pub(super) again: &'static [i32],
    /// It may succeed without having done it, if it says why.
    pub(super) may_leave_out: bool,
    pub(super) allowed: Allowed,
}

impl Scenario {
    /// A passphrase takes a second, on purpose.
    pub(super) fn is_slow(&self) -> bool {
        self.command == "provider export"
    }

    pub(super) fn name(&self) -> String {
        if self.of.is_empty() {
            self.command.to_owned()
        } else {
            format!("{} ({})", self.command, self.of)
        }
    }
}

const STRICT: Allowed = Allowed {
    forgets_keys: false,
    refuses_until_again: false,
};

/// The XML that libvirt gives a hook of the guest.
pub(super) fn xml(host: &Fixture) -> String {
    host.host.defined_guest("vm1").unwrap().xml
}

fn guest(host: &Fixture) -> Defined {
    host.defined("vm1")
}

fn in_use(host: &Fixture) {
    host.guest_in_use("vm1");
}

fn starts_with_one_key(host: &Fixture) {
    host.assert_starts_with_one_key(&guest(host));
}

fn has_provider(host: &Fixture, name: &str) {
    let key_id = host.provider(name).key_id;
    host.host
        .keyring()
        .open(key_id, default_deadline())
        .unwrap();
}

/// A guest that has another key beside the one that opens its TPM.
fn two_keys(host: &Fixture) {
    let guest = host.define("vm1");
    let other = Dek::generate().unwrap();
    let dek = Dek::generate().unwrap();
    host.add_key(&guest, "a", &dek);
    host.add_key(&guest, "a", &other);
    host.encrypt_state(&guest, &dek);
}

fn placeholder_beside(host: &Fixture) {
    in_use(host);
    host.sql(
        "INSERT INTO key_ref (resource_uuid, secret_uuid, provider_uuid, provider_name) SELECT \
         resource_uuid, secret_uuid, provider_uuid, provider_name FROM key_ref",
    );
}

fn copy_state(host: &Fixture, from: &Defined, to: &Defined) {
    let place = host.state_file(to);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(host.state_file(from), place).unwrap();
}

fn plain(host: &Fixture) {
    let guest = host.define_with("vm1", DomainUuid::random(), SecretUuid::random(), "");
    host.plain_state(&guest);
}

fn persistent_secret(host: &Fixture) {
    let guest = host.define("vm1");
    let secret = guest.secret;
    let xml = format!(
        "<secret ephemeral='no' private='no'><uuid>{secret}</uuid><usage type='vtpm'>\
         <name>{secret}</name></usage></secret>"
    );
    host.libvirt.secrets.define(&xml).unwrap();
    let dek = Dek::generate().unwrap();
    let secrets = &host.libvirt.secrets;
    secrets.set_value(secret, dek.expose()).unwrap();
    host.encrypt_state(&guest, &dek);
    let provider = host.provider("a");
    let now = crate::clock::Timestamp::now();
    let mut store = host.store();
    store
        .mark_exported(provider.uuid, provider.key_id, now)
        .unwrap();
}

fn backup(host: &Fixture) -> PathBuf {
    let file = host.root().join("backup");
    host.store().backup(&file, default_deadline()).unwrap();
    file
}

fn copies(host: &Fixture) -> usize {
    host.host.all_copies().unwrap().judged.len()
}

fn autostart(host: &Fixture) {
    in_use(host);
    let dirs = host.libvirt.dirs();
    fs::create_dir_all(dirs.autostart()).unwrap();
    std::os::unix::fs::symlink(
        dirs.definitions().join("vm1.xml"),
        dirs.autostart().join("vm1.xml"),
    )
    .unwrap();
}

fn staged(host: &Fixture) -> usize {
    host.host.staging_dir().staged().unwrap().len()
}

fn travelling(host: &Fixture) {
    host.set_metadata("wrapped");
    in_use(host);
}

fn passphrase(host: &Fixture) {
    use std::os::unix::fs::PermissionsExt;
    let file = host.root().join("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
}

/// libvirt has a secret for the guest that opens its TPM.
fn has_its_key(host: &Fixture) {
    let guest = guest(host);
    let value = host.libvirt.secrets.value(guest.secret);
    assert!(host.is_opened_by(&guest, &value.expect("libvirt has no key")));
}

/// A guest of which libvirt has the key, and which is on its way.
fn started(host: &Fixture) {
    in_use(host);
    give_key(host);
    host.libvirt.guests.start("vm1");
}

fn give_key(host: &Fixture) {
    use crate::guard::{Mode, prepare};
    use crate::manage::host::BrokenConfig;
    use crate::store::Origin;
    let guard = host.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(host.domain(&guest(host)));
    let outcome = prepare(
        &guard,
        &domain,
        Origin::Prepare,
        Mode::CarryOut,
        default_deadline(),
    );
    assert!(outcome.is_allowed());
}

fn secret_is_dropped(host: &Fixture) {
    assert!(host.libvirt.secrets.value(guest(host).secret).is_none());
}

fn transient(host: &Fixture) {
    in_use(host);
    host.libvirt.guests.start("vm1");
    host.libvirt.guests.undefine("vm1");
}

macro_rules! command {
    ($command:literal, $arguments:expr, $set_up:expr, $done:expr $(, $field:ident: $value:expr)*) => {
        #[allow(clippy::needless_update, reason = "not all have other fields")]
        Scenario {
            $($field: $value,)*
            ..Scenario {
                command: $command,
                of: "",
                tool: Tool::Command,
                arguments: &$arguments,
                set_up: $set_up,
                done: $done,
                again: &[],
                may_leave_out: false,
                allowed: STRICT,
            }
        }
    };
}

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = providers();
    all.extend(key_managers());
    all.extend(keys());
    all.extend(states_and_store());
    all.extend(hook());
    all
}

fn providers() -> Vec<Scenario> {
    vec![
        command!(
            "provider create",
            ["provider", "create", "c", "--default"],
            |_| (),
            |host| {
                has_provider(host, "c");
                assert!(host.provider("c").is_default);
            },
            again: &[1]
        ),
        command!(
            "provider rename",
            ["provider", "rename", "a", "c"],
            in_use,
            |host| {
                has_provider(host, "c");
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "provider set-default",
            ["provider", "set-default", "b"],
            |_| (),
            |host| assert!(host.provider("b").is_default)
        ),
        command!(
            "provider rotate",
            ["provider", "rotate", "a"],
            |host| {
                in_use(host);
                host.guest_in_use("vm2");
            },
            |host| {
                has_provider(host, "a");
                assert!(host.provider("a").key_version > 1);
                starts_with_one_key(host);
                host.assert_starts_with_one_key(&host.defined("vm2"));
            }
        ),
        command!("provider reseal", ["provider", "reseal"], in_use, |host| {
            let key = host.host.state_dir().keys();
            let key = key.join(host.provider("a").key_id.to_string());
            let sealed = fs::read_to_string(key).unwrap();
            assert!(
                sealed.starts_with("vtpm-guard-kek 1 systemd-creds"),
                "{sealed}"
            );
            starts_with_one_key(host);
        }),
        command!(
            "provider export",
            [
                "provider", "export", "a", "--output", "{root}/a.recovery",
                "--passphrase-file", "{root}/passphrase"
            ],
            |host| {
                in_use(host);
                passphrase(host);
            },
            |host| {
                // A file that could not be recorded any more is whole, and is not overwritten.
                RecoveryFile::read(&host.root().join("a.recovery")).unwrap();
            },
            again: &[1]
        ),
        command!(
            "provider import",
            [
                "provider", "import", "{root}/recovery", "--name", "c",
                "--passphrase-file", "{root}/passphrase"
            ],
            |host| {
                in_use(host);
                passphrase(host);
                recovery::write(host);
            },
            |host| {
                has_provider(host, "c");
                starts_with_one_key(host);
            },
            again: &[1]
        ),
        command!(
            "provider delete",
            ["provider", "delete", "b", "--force"],
            in_use,
            |host| {
                assert!(host.store().provider("b").is_err());
                // A key whose removal was interrupted stays, and is of no provider.
                assert!(host.sealed_keys() <= 2);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
    ]
}

fn with_slot(host: &Fixture) {
    in_use(host);
    host.with_toy("sealed");
    crate::manage::slots::add(&host.host, "a", &toy("one"), None).unwrap();
}

fn slots(host: &Fixture) -> usize {
    let slots = crate::manage::slots::list(&host.host, "a").unwrap().slots;
    slots.iter().filter(|slot| slot.slot_uuid.is_some()).count()
}

/// Those of key managers, with the plugin of docs/kms-plugins.md.
fn key_managers() -> Vec<Scenario> {
    vec![
        command!(
            "provider slot add",
            ["provider", "slot", "add", "a", "toy:one"],
            |host| {
                in_use(host);
                host.with_toy("sealed");
            },
            |host| {
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider slot verify",
            ["provider", "slot", "verify", "a"],
            with_slot,
            |host| {
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider slot remove",
            ["provider", "slot", "remove", "a", "toy:one"],
            with_slot,
            |host| {
                assert_eq!(slots(host), 0);
                starts_with_one_key(host);
            },
            again: &[1, 2]
        ),
        command!(
            "open",
            ["open"],
            |host| {
                with_slot(host);
                host.with_toy("boot");
            },
            |host| {
                let key_id = host.provider("a").key_id;
                let place = host.host.keyring().place(key_id).unwrap();
                assert_eq!(place, crate::keyring::KekPlace::Tmpfs);
                starts_with_one_key(host);
            }
        ),
        command!(
            "provider rotate",
            ["provider", "rotate", "a"],
            with_slot,
            |host| {
                assert!(host.provider("a").key_version > 1);
                assert_eq!(slots(host), 1);
                starts_with_one_key(host);
            },
            of: "with a slot"
        ),
    ]
}

fn keys() -> Vec<Scenario> {
    vec![
        command!(
            "key bind",
            ["key", "bind", "vm1", "--provider", "b"],
            |host| drop(host.define("vm1")),
            |host| assert_eq!(host.rows(&guest(host)).len(), 1)
        ),
        command!(
            "key unbind",
            ["key", "unbind", "vm1"],
            in_use,
            |host| {
                let rows = host.rows(&guest(host));
                assert!(rows.len() == 1 && rows[0].retired_at.is_some());
            },
            again: &[2],
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "key retire",
            ["key", "retire", "2"],
            two_keys,
            starts_with_one_key
        ),
        command!(
            "key use",
            ["key", "use", "1"],
            two_keys,
            starts_with_one_key
        ),
        command!(
            "key renew",
            ["key", "renew", "vm1"],
            in_use,
            starts_with_one_key
        ),
        command!(
            "key clone",
            ["key", "clone", "vm1", "vm2"],
            |host| {
                let original = host.guest_in_use("vm1");
                let copy = host.define("vm2");
                copy_state(host, &original, &copy);
            },
            |host| {
                starts_with_one_key(host);
                host.assert_starts_with_one_key(&host.defined("vm2"));
            }
        ),
        command!(
            "key clone",
            ["key", "clone", "vm1", "vm2"],
            |host| {
                host.guest_in_use("vm1");
                host.define("vm2");
            },
            |host| {
                starts_with_one_key(host);
                assert_eq!(host.rows(&host.defined("vm2")).len(), 1);
            },
            of: "no state"
        ),
        command!(
            "key import",
            ["key", "import", "vm1", "--from", "{root}/backup"],
            |host| {
                in_use(host);
                backup(host);
                host.sql("DELETE FROM key_ref");
            },
            starts_with_one_key
        ),
        command!(
            "key prune",
            ["key", "prune", "--older-than", "0h", "--standby"],
            |host| {
                let gone = host.guest_in_use("vm2");
                host.save_copy(&gone);
                let states = host.libvirt.dirs().tpm_states();
                fs::remove_dir_all(states.join(gone.uuid.to_string())).unwrap();
                host.libvirt.guests.undefine("vm2");
                in_use(host);
            },
            |host| {
                assert_eq!(host.store().all_key_refs(None, true).unwrap().len(), 1);
                assert_eq!(copies(host), 0);
                starts_with_one_key(host);
            },
            may_leave_out: true,
            allowed: Allowed { forgets_keys: true, ..STRICT }
        ),
        command!(
            "key metadata",
            ["key", "metadata", "vm1", "--write"],
            in_use,
            |host| host.assert_travels(&guest(host))
        ),
        command!("adopt", ["adopt", "vm1"], persistent_secret, |host| {
            starts_with_one_key(host);
            secret_is_dropped(host);
        }),
        command!("repair", ["repair", "vm1"], placeholder_beside, |host| {
            assert_eq!(host.rows(&guest(host)).len(), 1);
            starts_with_one_key(host);
        }),
        command!(
            "replay",
            ["replay", "{root}/vm1.xml"],
            |host| {
                placeholder_beside(host);
                let xml = host.host.defined_guest("vm1").unwrap().xml;
                fs::write(host.root().join("vm1.xml"), xml).unwrap();
            },
            |host| {
                assert_eq!(host.rows(&guest(host)).len(), 1);
                starts_with_one_key(host);
            },
            may_leave_out: true
        ),
        command!(
            "encrypt",
            ["encrypt", "vm1"],
            plain,
            starts_with_one_key,
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "reset",
            ["reset", "vm1"],
            |host| {
                in_use(host);
                host.save_copy(&guest(host));
            },
            |host| {
                let rows = host.rows(&guest(host));
                assert!(rows.iter().all(|row| row.key_ref.first_used_at.is_none()));
                starts_with_one_key(host);
            }
        ),
        command!(
            "stage",
            ["stage"],
            autostart,
            |host| assert_eq!(staged(host), 1),
            may_leave_out: true
        ),
        command!(
            "unstage",
            ["unstage"],
            |host| {
                autostart(host);
                crate::manage::stage::stage(&host.host).unwrap();
            },
            |host| assert_eq!(staged(host), 0)
        ),
    ]
}

fn states_and_store() -> Vec<Scenario> {
    vec![
        command!(
            "state restore",
            ["state", "restore", "vm1"],
            |host| {
                in_use(host);
                host.save_copy(&guest(host));
                fs::remove_file(host.state_file(&guest(host))).unwrap();
            },
            starts_with_one_key
        ),
        command!(
            "state persist",
            ["state", "persist", "vm1"],
            in_use,
            |host| {
                let definition = host.host.defined_guest("vm1").unwrap().xml;
                assert!(
                    definition.contains("persistent_state='yes'"),
                    "{definition}"
                );
            }
        ),
        command!(
            "state drop",
            ["state", "drop", "vm1"],
            |host| {
                in_use(host);
                host.save_copy(&guest(host));
            },
            |host| {
                assert_eq!(copies(host), 0);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "store backup",
            ["store", "backup", "{root}/copy.db"],
            in_use,
            |host| {
                use crate::store::Store;
                let copy = Store::open_copy(&host.root().join("copy.db"), default_deadline());
                assert_eq!(copy.unwrap().all_key_refs(None, true).unwrap().len(), 1);
            },
            again: &[1]
        ),
        command!(
            "store restore",
            ["store", "restore", "{root}/backup"],
            |host| {
                in_use(host);
                backup(host);
                host.define("vm2");
                crate::manage::bind::bind(&host.host, "vm2", Some("b")).unwrap();
            },
            |host| {
                assert_eq!(host.store().all_key_refs(None, true).unwrap().len(), 1);
                starts_with_one_key(host);
            },
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        command!(
            "store rebuild",
            ["store", "rebuild"],
            |host| {
                travelling(host);
                host.synced();
                host.sql("DELETE FROM key_ref");
            },
            starts_with_one_key
        ),
        command!("sync", ["sync"], travelling, |host| host
            .assert_travels(&guest(host))),
        command!(
            "sync",
            ["sync", "--metadata-only"],
            |host| {
                travelling(host);
                host.synced();
                host.set_metadata("off");
            },
            |host| host.assert_bare(&guest(host)),
            of: "off again"
        ),
        command!(
            "check",
            ["check", "--all", "--metrics", "{root}/metrics"],
            in_use,
            |host| assert!(host.root().join("metrics").exists())
        ),
    ]
}

macro_rules! hook {
    ($operation:literal, $arguments:expr, $set_up:expr, $done:expr $(, $field:ident: $value:expr)*) => {
        command!($operation, $arguments, $set_up, $done, tool: Tool::Hook $(, $field: $value)*)
    };
}

const PREPARE: [&str; 4] = ["vm1", "prepare", "begin", "-"];

fn hook() -> Vec<Scenario> {
    vec![
        hook!("hook prepare", PREPARE, in_use, has_its_key),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                host.define("vm1");
                crate::manage::bind::bind(&host.host, "vm1", Some("a")).unwrap();
            },
            |host| {
                let guest = guest(host);
                assert!(host.libvirt.secrets.value(guest.secret).is_some());
                assert!(host.is_allowed(&guest));
            },
            of: "first start"
        ),
        hook!("hook prepare", PREPARE, placeholder_beside, has_its_key, of: "repairs"),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                in_use(host);
                host.sql("UPDATE key_ref SET provider_uuid = NULL");
            },
            has_its_key,
            of: "rebind"
        ),
        hook!("hook prepare", PREPARE, transient, has_its_key, of: "transient"),
        hook!(
            "hook prepare",
            PREPARE,
            |host| {
                transient(host);
                host.save_copy(&guest(host));
                fs::remove_file(host.state_file(&guest(host))).unwrap();
            },
            has_its_key,
            of: "restores a copy"
        ),
        hook!(
            "hook started",
            ["vm1", "started", "begin", "-"],
            started,
            secret_is_dropped
        ),
        hook!(
            "hook stopped",
            ["vm1", "stopped", "end", "-"],
            |host| {
                started(host);
                host.libvirt.guests.stop("vm1");
            },
            secret_is_dropped
        ),
        hook!(
            "hook release",
            ["vm1", "release", "end", "-"],
            |host| {
                transient(host);
                give_key(host);
            },
            |host| {
                secret_is_dropped(host);
                // A state that was out of libvirt's reach comes back with the next start.
                give_key(host);
                has_its_key(host);
            },
            allowed: Allowed { refuses_until_again: true, ..STRICT }
        ),
        hook!(
            "hook migrate",
            ["vm1", "migrate", "begin", "-"],
            in_use,
            |_| ()
        ),
        hook!(
            "hook restore",
            ["vm1", "restore", "begin", "-"],
            in_use,
            |_| ()
        ),
    ]
}

/// Commands that are not killed here, and why.
const LEFT_OUT: [(&str, &str); 19] = [
    ("completions", READS),
    ("doctor", READS),
    ("explain", READS),
    ("history", READS),
    ("key list", READS),
    ("key show", READS),
    ("provider list", READS),
    ("provider show", READS),
    ("provider slot list", READS),
    ("state list", READS),
    ("state show", READS),
    ("status", READS),
    ("store check", READS),
    ("fleet status", READS),
    (
        "fleet init",
        "it changes the shared store alone, in one transaction of PostgreSQL",
    ),
    ("fleet lost", OF_THE_FLEET),
    ("fleet join", OF_THE_FLEET),
    ("fleet leave", OF_THE_FLEET),
    ("provider accept", OF_THE_FLEET),
];

const READS: &str = "it changes nothing";
const OF_THE_FLEET: &str = "no shared store is served here; the tests of manage::fleet cut it off at each question, \
                            and do not kill";

#[test]
fn every_command_is_killed_or_has_a_reason_not_to_be() {
    use clap::CommandFactory;
    fn leaves(command: &clap::Command, words: &str, all: &mut Vec<String>) {
        if !command.has_subcommands() {
            all.push(words.trim().to_owned());
        }
        for verb in command.get_subcommands() {
            leaves(verb, &format!("{words} {}", verb.get_name()), all);
        }
    }
    let mut commands = Vec::new();
    leaves(&crate::cli::args::Cli::command(), "", &mut commands);
    let killed = all();
    let left_out = |command: &str| {
        let is_it = |(left, _): &&(&str, &str)| command == *left;
        LEFT_OUT.iter().any(|it| is_it(&it))
    };
    for command in &commands {
        let is_killed = killed.iter().any(|it| it.command == command);
        assert!(
            is_killed != left_out(command),
            "{command}: killed {is_killed}, left out {}",
            left_out(command)
        );
    }
    for scenario in &killed {
        let is_hook = scenario.tool == Tool::Hook;
        assert!(
            is_hook || commands.iter().any(|it| it == scenario.command),
            "{} is no command",
            scenario.command
        );
    }
}
