//! The fake libvirt, by the rules that hold for a real one, and its own.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::LibvirtClient;
use crate::libvirt::guests::Libvirt;
use crate::libvirt::secret::{HostSecrets, SecretError};
use crate::verdict::Over;

#[path = "../../../tests/libvirt_rules/mod.rs"]
mod rules;

impl rules::Daemon for FakeLibvirt {
    fn connect(&self, _uri: &str) -> Box<dyn Libvirt> {
        Box::new(self.clone())
    }

    fn define_secret(&self, xml: &str) -> bool {
        self.secrets.define(xml).is_ok()
    }

    fn set_value(&self, secret: SecretUuid, value: &[u8]) {
        self.secrets.set_value(secret, value).unwrap();
    }

    fn secrets_dir(&self) -> PathBuf {
        self.dirs().secrets()
    }

    fn define_guest(&self, xml: &str) {
        self.guests.define(xml);
    }

    fn undefine_guest(&self, name: &str) {
        self.guests.undefine(name);
    }
}

macro_rules! test_rules {
    ($($rule:ident)*) => {
        $(
            #[test]
            fn $rule() {
                rules::$rule(&fake().1);
            }
        )*
    };
}
rules::for_each_rule!(test_rules);

/// The fake libvirt as a hook asks it: about secrets over its daemon's socket. There is no helper.
struct OverTheSocket(FakeLibvirt);

impl rules::Daemon for OverTheSocket {
    fn connect(&self, uri: &str) -> Box<dyn Libvirt> {
        if uri != "secret:///system" {
            return Box::new(self.0.clone());
        }
        let client = LibvirtClient::at(uri).with_dirs(self.0.dirs()).directly();
        Box::new(client.with_helper(PathBuf::from("/nonexistent/helper")))
    }

    fn define_secret(&self, xml: &str) -> bool {
        self.0.define_secret(xml)
    }

    fn set_value(&self, secret: SecretUuid, value: &[u8]) {
        rules::Daemon::set_value(&self.0, secret, value);
    }

    fn secrets_dir(&self) -> PathBuf {
        self.0.secrets_dir()
    }

    fn define_guest(&self, xml: &str) {
        self.0.define_guest(xml);
    }

    fn undefine_guest(&self, name: &str) {
        self.0.undefine_guest(name);
    }
}

/// What is never asked over the socket: such a value is left to the helper.
const TOO_LONG: &str = "a_value_that_libvirt_refuses_leaves_no_secret";

mod over_the_socket {
    use super::*;

    macro_rules! test_rules {
        ($($rule:ident)*) => {
            $(
                #[test]
                fn $rule() {
                    if stringify!($rule) == TOO_LONG {
                        return;
                    }
                    let (_dir, fake) = fake();
                    let daemon = fake.listen();
                    rules::$rule(&OverTheSocket(fake));
                    assert!(daemon.settle());
                }
            )*
        };
    }
    rules::for_each_rule!(test_rules);
}

#[test]
fn a_daemon_is_settled_once_it_has_done_what_a_client_that_is_gone_has_asked() {
    let (_dir, fake) = fake();
    let daemon = fake.listen();
    let secrets = OverTheSocket(fake.clone());
    let (secret, domain) = (SecretUuid::random(), DomainUuid::random());
    let client = rules::Daemon::connect(&secrets, "secret:///system");
    assert_eq!(daemon.calls(), 0);
    let provided = client.provide(secret, domain, &dek(), Over::GuardsOwn, soon());
    assert!(
        provided.is_ok() && daemon.calls() == 3,
        "{}",
        daemon.calls()
    );
    drop(client);
    assert!(daemon.settle());
    assert!(fake.secrets.value(secret).is_some());
    let socket = fake.dirs().socket("libvirt");
    drop(daemon);
    assert!(!socket.exists());
    let daemon = fake.listen();
    fs::remove_file(&socket).unwrap();
    // It ends all the same.
    drop(daemon);
}

fn fake() -> (tempfile::TempDir, FakeLibvirt) {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeLibvirt::at(dir.path());
    (dir, fake)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn dek() -> Dek {
    Dek::from_bytes(b"made-up key".to_vec().into())
}

/// Defines a secret for vTPMs, with a value.
fn define(fake: &FakeLibvirt, ephemeral: &str, private: &str, usage: &str) -> SecretUuid {
    let secret = SecretUuid::random();
    let xml = secret_xml(secret, ephemeral, private, usage);
    fake.secrets.define(&xml).unwrap();
    fake.secrets.set_value(secret, b"made-up key").unwrap();
    secret
}

fn secret_xml(secret: SecretUuid, ephemeral: &str, private: &str, usage: &str) -> String {
    format!(
        "<secret ephemeral='{ephemeral}' private='{private}'><uuid>{secret}</uuid>\
         <usage type='vtpm'><name>{usage}</name></usage></secret>"
    )
}

fn guest_xml(name: &str) -> (DomainUuid, String) {
    let uuid = DomainUuid::random();
    let xml = format!("<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid></domain>");
    (uuid, xml)
}

#[test]
fn a_restart_forgets_ephemeral_secrets_and_loads_the_others_from_files() {
    let (_dir, fake) = fake();
    let ephemeral = define(&fake, "yes", "no", "one");
    let persistent = define(&fake, "no", "yes", "two");
    let removed = define(&fake, "no", "yes", "three");
    for extension in ["xml", "base64"] {
        let file = format!("{removed}.{extension}");
        fs::remove_file(fake.dirs().secrets().join(file)).unwrap();
    }
    assert!(fake.secrets.value(removed).is_some(), "it is in memory");
    fake.secrets.restart();
    assert!(fake.secrets.definition(ephemeral).is_none());
    assert!(fake.secrets.definition(removed).is_none());
    let value = fake.secrets.value(persistent);
    assert_eq!(value.as_deref(), Some(&b"made-up key"[..]));
}

#[test]
fn a_guest_is_known_while_it_is_defined_or_runs() {
    let (_dir, fake) = fake();
    let guest = |uuid| fake.guest(uuid, soon()).unwrap();
    let traits = |uuid| guest(uuid).map(|guest| (guest.persistent, guest.running));
    let (persistent, xml) = guest_xml("vm1");
    fake.guests.define(&xml);
    assert_eq!(traits(persistent), Some((true, false)));
    fake.guests.start("vm1");
    assert_eq!(traits(persistent), Some((true, true)));
    fake.guests.undefine("vm1");
    assert_eq!(traits(persistent), Some((false, true)));
    assert_eq!(guest(persistent).unwrap().xml, xml);
    fake.guests.stop("vm1");
    assert_eq!(traits(persistent), None);

    let (transient, xml) = guest_xml("vm2");
    fake.guests.create(&xml);
    assert_eq!(traits(transient), Some((false, true)));
    assert_eq!(fake.guests(soon()).unwrap().len(), 1);
}

#[test]
fn saved_runs_are_counted_until_the_guest_continues() {
    let (_dir, fake) = fake();
    let (uuid, xml) = guest_xml("vm1");
    fake.guests.define(&xml);
    fake.guests.start("vm1");
    fake.guests.snapshot("vm1", "before-upgrade");
    fake.guests.save("vm1");
    let saved = || fake.saved_runs(uuid, soon()).unwrap();
    assert!(saved().managed_save && saved().snapshots == 1);
    fake.guests.start("vm1");
    assert!(!saved().managed_save && saved().snapshots == 1);
}

#[test]
fn calls_fail_as_they_are_told_to_and_are_counted() {
    let (_dir, fake) = fake();
    let secret = define(&fake, "no", "no", "one");
    let undefine = || fake.undefine(secret, soon());
    fake.fail_at(2, Failure::Unreachable);
    assert!(fake.guests(soon()).is_ok());
    assert!(matches!(undefine(), Err(SecretError::Unreachable(_))));
    fake.fail_each(Call::Undefine, Failure::Refused);
    assert!(matches!(undefine(), Err(SecretError::Refused(_))));
    assert!(fake.guests(soon()).is_ok());
    fake.go_down();
    assert!(matches!(
        fake.guests(soon()),
        Err(SecretError::Unreachable(_))
    ));
    fake.recover();
    assert!(fake.secrets.value(secret).is_some(), "nothing was done");
    let passed = Deadline::after(Duration::ZERO);
    assert!(matches!(
        fake.guests(passed),
        Err(SecretError::Unreachable(_))
    ));
    fake.fail_at(1, Failure::AnswerLost);
    assert!(matches!(undefine(), Err(SecretError::Unreachable(_))));
    assert!(fake.secrets.value(secret).is_none(), "it was done");
    assert_eq!((fake.calls(), fake.calls_of(Call::Undefine)), (7, 3));
}

/// In the process that is to be killed: the directory of its fake libvirt.
const KILLED_IN: &str = "VTPM_GUARD_TEST_KILLED_IN";

#[test]
fn a_killed_process_leaves_what_libvirt_would_have() {
    const NAME: &str = "libvirt::fake::tests::a_killed_process_leaves_what_libvirt_would_have";
    if let Some(dir) = std::env::var_os(KILLED_IN) {
        let fake = FakeLibvirt::at(Path::new(&dir));
        let failure = if fake.secrets.all().is_empty() {
            Failure::KilledAfter
        } else {
            Failure::KilledBefore
        };
        fake.fail_at(1, failure);
        let (secret, domain) = (SecretUuid::random(), DomainUuid::random());
        let _ = fake.provide(secret, domain, &dek(), Over::GuardsOwn, soon());
    }
    let (dir, fake) = fake();
    for _ in [Failure::KilledAfter, Failure::KilledBefore] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(KILLED_IN, dir.path())
            .status();
        assert_eq!(status.unwrap().signal(), Some(9));
        assert_eq!(fake.secrets.all().len(), 1);
    }
}
