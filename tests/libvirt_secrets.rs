//! The host secret against a real libvirtd. These tests run as root in a host of their own,
//! where `secret:///system` is nobody else's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use virt::connect::Connect;
use vtpm_guard::clock::Deadline;
use vtpm_guard::host::dirs::LibvirtDirs;
use vtpm_guard::ids::{DomainUuid, SecretUuid};
use vtpm_guard::key::dek::Dek;
use vtpm_guard::libvirt::files::{self, StoredValue};
use vtpm_guard::libvirt::secret::{
    HostSecrets, LibvirtSecret, Provided, Purpose, SecretError, SecretValue,
};
use vtpm_guard::libvirt::{Libvirt, LibvirtClient};
use vtpm_guard::verdict::Over;
use vtpm_guard::verdict::Over::{ForeignDefinition, ForeignValue, GuardsOwn};
use zeroize::Zeroizing;

const HELPER: &str = env!("CARGO_BIN_EXE_vtpm-guard-libvirt");

/// One libvirtd for all tests, so one test at a time: some hold it up.
static LIBVIRTD: Mutex<()> = Mutex::new(());

/// A secret and a domain of a test's own, and the connection that is tested.
struct Host {
    libvirt: LibvirtClient,
    secret: SecretUuid,
    domain: DomainUuid,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    fn new() -> Self {
        Self::at("secret:///system")
    }

    fn at(uri: &str) -> Self {
        Self {
            libvirt: LibvirtClient::at(uri).with_helper(HELPER.into()),
            secret: SecretUuid::random(),
            domain: DomainUuid::random(),
            _turn: LIBVIRTD.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn own_usage(&self) -> String {
        format!("vtpm-guard:{}", self.domain)
    }

    /// Defines a secret under the test's UUID, as somebody else would.
    fn somebody_defines(&self, ephemeral: &str, private: &str, usage: &str) {
        define(self.secret, ephemeral, private, usage);
    }

    /// Sets its value, as somebody else would. virsh takes no long ones.
    fn somebody_sets(&self, value: &[u8]) {
        let connection = Connect::open(Some("secret:///system")).unwrap();
        let secret = connection.lookup_secret_by_uuid_string(&self.secret.to_string());
        secret.unwrap().set_value(value, 0).unwrap();
    }

    /// The secret's value; of a private one libvirt does not tell.
    fn value(&self) -> Vec<u8> {
        virsh(
            &["secret-get-value", &self.secret.to_string(), "--plain"],
            b"",
        )
    }

    fn xml(&self) -> String {
        String::from_utf8(virsh(&["secret-dumpxml", &self.secret.to_string()], b"")).unwrap()
    }

    fn inspect(&self) -> Option<LibvirtSecret> {
        self.libvirt.inspect(self.secret, soon()).unwrap()
    }

    /// What a hook learns of the secret's value: `none`, `hidden`, or the bytes.
    fn seen_value(&self) -> String {
        match self.inspect().map(|found| found.value) {
            None => "absent".to_owned(),
            Some(SecretValue::None) => "none".to_owned(),
            Some(SecretValue::Private) => "hidden".to_owned(),
            Some(SecretValue::Disclosed(dek)) => String::from_utf8_lossy(dek.expose()).into_owned(),
        }
    }

    fn provide(&self, key: &[u8], over: Over) -> Result<Provided, SecretError> {
        let dek = Dek::from_bytes(Zeroizing::new(key.to_vec()));
        self.libvirt
            .provide(self.secret, self.domain, &dek, over, soon())
    }

    fn drop_own(&self) -> Result<bool, SecretError> {
        self.libvirt.drop_own(self.secret, self.domain, soon())
    }

    /// The daemon's file of this secret.
    fn file(&self, extension: &str) -> PathBuf {
        Path::new("/etc/libvirt/secrets").join(format!("{}.{extension}", self.secret))
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn vtpm(name: &str) -> String {
    format!("<usage type='vtpm'><name>{name}</name></usage>")
}

fn define(secret: SecretUuid, ephemeral: &str, private: &str, usage: &str) {
    let xml = format!(
        "<secret ephemeral='{ephemeral}' private='{private}'><uuid>{secret}</uuid>{usage}</secret>"
    );
    virsh(&["secret-define", "/dev/stdin"], xml.as_bytes());
}

/// Runs virsh, which must succeed, and gives its output.
fn virsh(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut virsh = Command::new("timeout")
        .args(["10", "virsh", "--quiet", "--connect", "secret:///system"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    virsh.stdin.take().unwrap().write_all(input).unwrap();
    let output = virsh.wait_with_output().unwrap();
    assert!(output.status.success(), "virsh {args:?}");
    output.stdout
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn an_absent_secret_is_defined_ephemeral_and_private_with_the_guards_usage() {
    let host = Host::new();
    assert!(host.inspect().is_none());
    assert_eq!(
        host.provide(b"made-up key", GuardsOwn),
        Ok(Provided::Defined)
    );
    let found = host.inspect().unwrap();
    assert_eq!(found.definition.guards_domain(), Some(host.domain));
    assert!(matches!(found.value, SecretValue::Private));
    let xml = host.xml();
    assert!(xml.contains("ephemeral='yes' private='yes'"), "{xml}");
    assert!(xml.contains("<usage type='vtpm'>"), "{xml}");
    assert!(
        xml.contains(&format!("<name>{}</name>", host.own_usage())),
        "{xml}"
    );
    assert!(!host.file("xml").exists() && !host.file("base64").exists());
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn the_guards_own_secret_gets_the_value_again() {
    let host = Host::new();
    assert_eq!(
        host.provide(b"made-up key", GuardsOwn),
        Ok(Provided::Defined)
    );
    assert_eq!(host.provide(b"another", GuardsOwn), Ok(Provided::Set));
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn the_guards_own_secret_from_a_file_leaves_the_disk() {
    for private in ["no", "yes"] {
        let host = Host::new();
        host.somebody_defines("no", private, &vtpm(&host.own_usage()));
        host.somebody_sets(b"made-up key");
        assert!(host.file("base64").exists());
        assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
        assert!(host.xml().contains("ephemeral='yes' private='yes'"));
        assert!(!host.file("xml").exists() && !host.file("base64").exists());
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn the_guards_own_secret_whose_files_were_taken_away_is_set() {
    let host = Host::new();
    host.somebody_defines("no", "yes", &vtpm(&host.own_usage()));
    host.somebody_sets(b"made-up key");
    std::fs::remove_file(host.file("xml")).unwrap();
    std::fs::remove_file(host.file("base64")).unwrap();
    assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
    assert_eq!(host.drop_own(), Ok(true));
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_value_is_read_wherever_root_can_read_it() {
    for (ephemeral, private) in [("no", "no"), ("no", "yes"), ("yes", "no")] {
        let host = Host::new();
        host.somebody_defines(ephemeral, private, &vtpm(&host.secret.to_string()));
        assert_eq!(host.seen_value(), "none", "{ephemeral} {private}");
        host.somebody_sets(b"made-up key");
        assert_eq!(host.seen_value(), "made-up key", "{ephemeral} {private}");
        let definition = host.inspect().unwrap().definition;
        assert_eq!(definition.is_ephemeral, ephemeral == "yes");
        assert_eq!(definition.is_private, private == "yes");
        assert_eq!(definition.guards_domain(), None);
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn an_ephemeral_private_secret_does_not_tell_and_counts_as_having_a_value() {
    let host = Host::new();
    host.somebody_defines("yes", "yes", &vtpm(&host.secret.to_string()));
    assert_eq!(host.seen_value(), "hidden");
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn somebody_elses_secret_is_left_as_it_is_where_nothing_of_it_may_be_replaced() {
    for (ephemeral, private) in [("no", "no"), ("no", "yes"), ("yes", "no"), ("yes", "yes")] {
        for value in [None, Some(b"theirs")] {
            let host = Host::new();
            host.somebody_defines(ephemeral, private, &vtpm(&host.secret.to_string()));
            if let Some(value) = value {
                host.somebody_sets(value);
            }
            let (before, seen) = (host.xml(), host.seen_value());
            let provided = host.provide(b"made-up key", GuardsOwn);
            assert_eq!(provided, Err(SecretError::Changed));
            assert_eq!((host.xml(), host.seen_value()), (before, seen));
        }
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn only_a_secret_that_keeps_its_value_to_itself_gets_the_key() {
    for (ephemeral, private) in [("no", "no"), ("no", "yes"), ("yes", "no"), ("yes", "yes")] {
        let host = Host::new();
        host.somebody_defines(ephemeral, private, &vtpm(&host.secret.to_string()));
        host.somebody_sets(b"theirs");
        let (before, seen) = (host.xml(), host.seen_value());
        let provided = host.provide(b"made-up key", ForeignValue);
        if (ephemeral, private) == ("yes", "yes") {
            assert_eq!(provided, Ok(Provided::Set));
            assert_eq!(host.xml(), before, "it stays defined");
        } else {
            assert_eq!(provided, Err(SecretError::Changed));
            assert_eq!((host.xml(), host.seen_value()), (before, seen));
        }
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn somebody_elses_definition_gives_way_to_the_guards_own_and_no_key_is_left_in_clear() {
    for (ephemeral, private) in [("no", "no"), ("no", "yes"), ("yes", "no"), ("yes", "yes")] {
        for value in [None, Some(b"theirs")] {
            let host = Host::new();
            host.somebody_defines(ephemeral, private, &vtpm(&host.secret.to_string()));
            if let Some(value) = value {
                host.somebody_sets(value);
            }
            let provided = host.provide(b"made-up key", ForeignDefinition);
            assert_eq!(provided, Ok(Provided::Set));
            let found = host.inspect().unwrap();
            assert_eq!(found.definition.guards_domain(), Some(host.domain));
            assert!(found.definition.is_ephemeral && found.definition.is_private);
            assert!(!host.file("xml").exists() && !host.file("base64").exists());
            assert_eq!(host.drop_own(), Ok(true));
        }
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_secret_without_a_usage_serves_a_vtpm_too() {
    let host = Host::new();
    host.somebody_defines("yes", "yes", "");
    assert_eq!(
        host.provide(b"made-up key", ForeignValue),
        Ok(Provided::Set)
    );
    assert_eq!(
        host.inspect().unwrap().definition.purpose,
        Purpose::Anything
    );
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn the_guards_secret_of_another_guest_gives_way_as_its_own() {
    let host = Host::new();
    let other = DomainUuid::random();
    host.somebody_defines("yes", "yes", &vtpm(&format!("vtpm-guard:{other}")));
    assert_eq!(
        host.inspect().unwrap().definition.guards_domain(),
        Some(other)
    );
    assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
    let found = host.inspect().unwrap();
    assert_eq!(found.definition.guards_domain(), Some(host.domain));
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_secret_for_something_else_is_a_conflict() {
    for usage in [
        format!(
            "<usage type='ceph'><name>{}</name></usage>",
            SecretUuid::random()
        ),
        "<usage type='volume'><volume>/a/disk</volume></usage>".to_owned(),
    ] {
        let host = Host::new();
        host.somebody_defines("yes", "no", &usage);
        host.somebody_sets(b"theirs");
        for over in [GuardsOwn, ForeignDefinition, ForeignValue] {
            let error = host.provide(b"made-up key", over).unwrap_err();
            assert!(matches!(error, SecretError::Conflict(_)), "{error:?}");
        }
        assert_eq!(host.inspect().unwrap().definition.purpose, Purpose::Other);
        assert_eq!(host.value(), b"theirs");
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_usage_that_another_secret_holds_is_a_conflict_that_names_it() {
    let host = Host::new();
    let holder = SecretUuid::random();
    define(holder, "yes", "yes", &vtpm(&host.own_usage()));
    let error = host.provide(b"made-up key", GuardsOwn).unwrap_err();
    let SecretError::Conflict(words) = error else {
        panic!("{error:?}");
    };
    assert!(words.contains(&holder.to_string()), "{words}");
    assert!(host.inspect().is_none());
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_value_that_libvirt_refuses_leaves_no_secret_behind() {
    let host = Host::new();
    let error = host.provide(&vec![7; 65537], GuardsOwn).unwrap_err();
    assert!(error.to_string().contains("65537 > 65536"), "{error}");
    assert!(host.inspect().is_none());
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn the_longest_value_that_libvirt_takes_is_taken() {
    let host = Host::new();
    let key = vec![b'k'; 65536];
    assert_eq!(host.provide(&key, GuardsOwn), Ok(Provided::Defined));
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn only_the_guards_own_secret_for_this_very_domain_is_dropped() {
    let host = Host::new();
    assert_eq!(host.drop_own(), Ok(false));
    assert_eq!(
        host.provide(b"made-up key", GuardsOwn),
        Ok(Provided::Defined)
    );
    assert_eq!(
        host.libvirt
            .drop_own(host.secret, DomainUuid::random(), soon()),
        Ok(false)
    );
    assert_eq!(host.drop_own(), Ok(true));
    assert!(host.inspect().is_none());

    host.somebody_defines("no", "no", &vtpm(&host.secret.to_string()));
    assert_eq!(host.drop_own(), Ok(false));
    assert_eq!(host.seen_value(), "none");
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_libvirt_that_does_not_answer_is_unreachable_at_the_deadline() {
    let host = Host::new();
    let pid = std::fs::read_to_string("/run/libvirtd.pid").unwrap();
    let libvirtd = Pid::from_raw(pid.trim().parse().unwrap());
    kill(libvirtd, Signal::SIGSTOP).unwrap();
    let asked = Instant::now();
    let answer = host
        .libvirt
        .inspect(host.secret, Deadline::after(Duration::from_millis(300)));
    let waited = asked.elapsed();
    kill(libvirtd, Signal::SIGCONT).unwrap();
    assert!(matches!(answer, Err(SecretError::Unreachable(words)) if words.contains("in time")));
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_millis(800), "{waited:?}");
    assert!(host.inspect().is_none(), "the next question is answered");
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_libvirt_that_stops_answering_between_two_questions_is_unreachable_too() {
    let host = Host::new();
    assert!(host.inspect().is_none());
    let pid = std::fs::read_to_string("/run/libvirtd.pid").unwrap();
    let libvirtd = Pid::from_raw(pid.trim().parse().unwrap());
    kill(libvirtd, Signal::SIGSTOP).unwrap();
    let dek = Dek::from_bytes(Zeroizing::new(b"made-up key".to_vec()));
    let deadline = Deadline::after(Duration::from_millis(300));
    let provided = host
        .libvirt
        .provide(host.secret, host.domain, &dek, GuardsOwn, deadline);
    kill(libvirtd, Signal::SIGCONT).unwrap();
    assert!(
        matches!(provided, Err(SecretError::Unreachable(_))),
        "{provided:?}"
    );
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn all_guests_are_listed_and_one_is_found_by_name_and_by_uuid() {
    let host = Host::at("qemu:///system");
    let uuid = DomainUuid::random();
    define_guest("a guest", uuid);
    let guests = host.libvirt.guests(soon()).unwrap();
    let guest = guests.iter().find(|guest| guest.uuid == uuid).unwrap();
    assert_eq!(guest.name, "a guest");
    assert!(guest.persistent && !guest.running);
    assert!(guest.xml.contains("<name>a guest</name>"), "{}", guest.xml);
    for name_or_uuid in ["a guest", &uuid.to_string()] {
        let called = host.libvirt.guests_called(name_or_uuid, soon()).unwrap();
        assert_eq!(called, std::slice::from_ref(guest));
    }
    assert_eq!(
        host.libvirt.guest(uuid, soon()).as_ref(),
        Ok(&Some(guest.clone()))
    );
    assert_eq!(
        host.libvirt.guests_called("no such guest", soon()),
        Ok(Vec::new())
    );
    assert_eq!(host.libvirt.guest(DomainUuid::random(), soon()), Ok(None));

    // A guest that is named after the UUID of the other.
    let other = DomainUuid::random();
    define_guest(&uuid.to_string(), other);
    let called = host
        .libvirt
        .guests_called(&uuid.to_string(), soon())
        .unwrap();
    let uuids: Vec<_> = called.iter().map(|guest| guest.uuid).collect();
    assert_eq!(uuids, [uuid, other]);
    let found = host.libvirt.guest(uuid, soon()).unwrap().unwrap();
    assert_eq!((found.uuid, found.name.as_str()), (uuid, "a guest"));
    for uuid in [uuid, other] {
        virsh(
            &["--connect", "qemu:///system", "undefine", &uuid.to_string()],
            b"",
        );
    }
}

fn define_guest(name: &str, uuid: DomainUuid) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>\
           <memory unit='MiB'>16</memory><os><type>hvm</type></os>\
         </domain>"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    let file = file.path().to_str().unwrap();
    virsh(&["--connect", "qemu:///system", "define", file], b"");
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn somebody_elses_value_is_told_byte_for_byte_and_goes_with_its_files() {
    let longest = vec![7; Dek::MAX_LEN];
    for value in [&b"key\n\0 \xff\0"[..], b"k", &longest] {
        let host = Host::new();
        host.somebody_defines("no", "no", &vtpm("somebody's"));
        host.somebody_sets(value);
        let found = host.libvirt.reveal(host.secret, soon()).unwrap().unwrap();
        let definition = &found.definition;
        assert_eq!(
            (definition.purpose, definition.usage.as_str()),
            (Purpose::Vtpm, "somebody's")
        );
        assert!(matches!(found.value, SecretValue::Disclosed(dek) if dek.expose() == value));

        assert_eq!(host.libvirt.undefine(host.secret, soon()), Ok(true));
        assert!(host.inspect().is_none());
        let dir = LibvirtDirs::default().secrets();
        assert!(
            files::remaining_files(&dir, host.secret)
                .unwrap()
                .is_empty()
        );
        assert_eq!(host.libvirt.undefine(host.secret, soon()), Ok(false));
        assert!(host.libvirt.reveal(host.secret, soon()).unwrap().is_none());
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_private_value_is_in_libvirts_file_byte_for_byte() {
    let longest = vec![7; Dek::MAX_LEN];
    for value in [&b"key\n\0 \xff\0"[..], b"k", &longest] {
        let host = Host::new();
        host.somebody_defines("no", "yes", &vtpm("somebody's"));
        host.somebody_sets(value);
        let found = host.libvirt.reveal(host.secret, soon()).unwrap().unwrap();
        assert!(matches!(found.value, SecretValue::Private));
        let stored = files::stored_value(&LibvirtDirs::default().secrets(), host.secret).unwrap();
        assert!(matches!(stored, StoredValue::Value(dek) if dek.expose() == value));
        assert!(
            matches!(host.inspect().unwrap().value, SecretValue::Disclosed(dek) if dek.expose() == value)
        );
        assert_eq!(host.libvirt.undefine(host.secret, soon()), Ok(true));
    }
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_secret_that_may_serve_other_things_is_told_but_not_undefined() {
    let volume = "<usage type='volume'><volume>/made-up</volume></usage>";
    for (usage, purpose) in [("", Purpose::Anything), (volume, Purpose::Other)] {
        let host = Host::new();
        host.somebody_defines("no", "no", usage);
        let found = host.libvirt.reveal(host.secret, soon()).unwrap().unwrap();
        assert_eq!(found.definition.purpose, purpose);
        assert!(matches!(found.value, SecretValue::None));
        let undefined = host.libvirt.undefine(host.secret, soon());
        assert!(
            matches!(undefined, Err(SecretError::Conflict(_))),
            "{undefined:?}"
        );
        assert_eq!(host.inspect().unwrap().definition.purpose, purpose);
    }
}
