//! `adopt`: the keys of guests whose secrets somebody else made come into the store, and the
//! clear text goes.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};
use crate::state_trouble::wait_for_long;

/// The value of the secrets that somebody else made, and how libvirt writes it to the disk.
const KEY: &str = "a made-up key, nowhere else";
const KEY_BASE64: &str = "YSBtYWRlLXVwIGtleSwgbm93aGVyZSBlbHNl";

/// The attributes of a `<secret>`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    ephemeral: bool,
    private: bool,
}

pub(crate) const ORDINARY: Kind = Kind {
    ephemeral: false,
    private: false,
};
pub(crate) const PRIVATE: Kind = Kind {
    private: true,
    ..ORDINARY
};
const EPHEMERAL: Kind = Kind {
    ephemeral: true,
    ..ORDINARY
};

/// Defines a secret as somebody else would, with `usage` as its `<usage>`, and sets its value.
fn define_secret(host: &Host, kind: Kind, usage: &str, value: &str) -> SecretUuid {
    let secret = SecretUuid::random();
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let (ephemeral, private) = (yes_no(kind.ephemeral), yes_no(kind.private));
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='{ephemeral}' private='{private}'><uuid>{secret}</uuid>{usage}\
             </secret>"
        ),
    );
    host.virsh(&["secret-define", "/run/secret.xml"]).ok();
    set_value(host, secret, value);
    secret
}

fn vtpm_usage(name: &str) -> String {
    format!("<usage type='vtpm'><name>{name}</name></usage>")
}

fn set_value(host: &Host, secret: SecretUuid, value: &str) {
    host.write("/run/value", value);
    let secret = secret.to_string();
    let set = ["secret-set-value", &secret, "--plain", "--file"];
    host.virsh(&[&set[..], &["/run/value"]].concat()).ok();
    fs::remove_file(host.path("/run/value")).unwrap();
}

/// A guest whose secret somebody else made, and which has run once with it.
pub(crate) fn define_used_guest(host: &Host, name: &str, kind: Kind) -> Guest {
    let secret = define_secret(host, kind, &vtpm_usage(name), KEY);
    let guest = host.define_guest(name, Tpm::Encrypted(secret));
    host.start_and_stop(&guest);
    guest
}

/// A host with the exported provider `nkp-a` and such a guest `vm1`.
fn host_with_guest(kind: Kind) -> (Host, Guest) {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = define_used_guest(&host, "vm1", kind);
    (host, guest)
}

fn adopt(host: &Host, arguments: &[&str]) -> Output {
    host.guard(&[&["adopt"], arguments].concat())
}

/// The one document of `adopt --json` for one guest, and the exit status.
#[track_caller]
fn adopt_one(host: &Host, arguments: &[&str]) -> (Value, i32) {
    let output = adopt(host, &[&["--json"], arguments].concat());
    let documents: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(documents.as_array().unwrap().len(), 1, "{output:#?}");
    (documents[0].clone(), output.status)
}

/// The guest is adopted: one used row, no secret, no file, no trace of the key; and it boots
/// with the TPM that it had.
#[track_caller]
fn assert_adopted(host: &Host, guest: &Guest) {
    let row = host.only_key_ref(guest);
    assert!(row.wrapped_dek.is_some() && row.first_used_at.is_some());
    assert_eq!(row.provider_name, "nkp-a");
    assert_eq!(row.secret_uuid, Some(guest.secret.to_string()));
    assert!(!host.has_secret(guest.secret));
    assert_no_trace(host);

    let state = host.tpm_state(guest);
    if host.state(guest) == "running" {
        host.stop(guest);
    }
    host.start_running(guest);
    assert_eq!(host.tpm_state(guest), state, "the TPM's state changed");
    assert_eq!(host.tpms_made(guest), 1, "a new TPM was made");
    assert_no_trace(host);
}

/// No file of the host's holds the key in clear.
#[track_caller]
pub(crate) fn assert_no_trace(host: &Host) {
    let found = files_with_the_key(host);
    assert!(found.is_empty(), "the key is in {found}");
}

pub(crate) fn files_with_the_key(host: &Host) -> String {
    let places = ["/etc", "/var", "/run"];
    let search = ["grep", "-rlaF", "-D", "skip", "-e", KEY, "-e", KEY_BASE64];
    host.run(&[&search[..], &places].concat()).stdout
}

/// The refusal left the store without a row and libvirt's secret with its value.
#[track_caller]
fn assert_untouched(host: &Host, guest: &Guest) {
    assert!(host.key_refs(guest).is_empty());
    assert!(host.has_secret(guest.secret));
}

#[track_caller]
fn assert_refused(host: &Host, arguments: &[&str], words: &str, hint: &str) {
    let (document, status) = adopt_one(host, arguments);
    assert_eq!((&document["result"], status), (&"refused".into(), 1));
    let text = |key: &str| document[key].as_str().unwrap().to_owned();
    assert!(text("reason").contains(words), "{document:#}");
    assert!(text("hint").contains(hint), "{document:#}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_ordinary_secret_is_taken_over_and_goes() {
    let (host, guest) = host_with_guest(ORDINARY);
    assert_ne!(files_with_the_key(&host), "", "the search finds nothing");
    let (document, status) = adopt_one(&host, &["vm1", "--provider", "nkp-a"]);
    assert_eq!(status, 0, "{document:#}");
    let row = host.only_key_ref(&guest);
    assert_eq!(document["result"], "adopted");
    assert_eq!(document["domain"]["uuid"], guest.uuid.to_string());
    assert_eq!(document["key_ref"], row.id);
    assert_eq!(document["provider"], "nkp-a");
    assert_eq!(document["proven"], true);
    assert_eq!(document["secret"]["uuid"], guest.secret.to_string());
    assert_eq!(document["secret"]["action"], "removed");
    assert_adopted(&host, &guest);

    let history = host.guard(&["history", "vm1", "--json"]).ok().stdout;
    assert!(history.contains("\"adopt\""), "{history}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_private_secret_is_taken_over_from_libvirts_own_files() {
    let (host, guest) = host_with_guest(PRIVATE);
    let value = host.virsh(&["secret-get-value", &guest.secret.to_string()]);
    assert_ne!(value.status, 0, "the secret is not private: {value:#?}");
    adopt(&host, &["vm1"]).ok();
    assert_adopted(&host, &guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_ephemeral_secret_is_taken_over_and_a_private_one_cannot_be() {
    let (host, guest) = host_with_guest(EPHEMERAL);
    adopt(&host, &["vm1"]).ok();
    assert_adopted(&host, &guest);

    let private = Kind {
        private: true,
        ..EPHEMERAL
    };
    let other = define_used_guest(&host, "vm2", private);
    assert_refused(&host, &["vm2"], "private secret", "virsh secret-define");
    assert_untouched(&host, &other);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_running_guest_is_adopted_and_goes_on_running() {
    let (host, guest) = host_with_guest(ORDINARY);
    host.start_running(&guest);
    adopt(&host, &["vm1"]).ok();
    assert_eq!(host.state(&guest), "running");
    assert_adopted(&host, &guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_guest_is_adopted_and_comes_back() {
    let (host, guest) = host_with_guest(ORDINARY);
    host.start_running(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    let (document, status) = adopt_one(&host, &["vm1"]);
    assert_eq!((&document["proven"], status), (&true.into(), 0));
    assert!(!host.has_secret(guest.secret));
    host.start_running(&guest);
    assert_adopted(&host, &guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_keep_plaintext_the_secret_stays_as_it_is_and_the_guest_starts() {
    let (host, guest) = host_with_guest(ORDINARY);
    let uuid = guest.secret.to_string();
    let xml = host.virsh(&["secret-dumpxml", &uuid]).ok().stdout;
    let (document, _) = adopt_one(&host, &["vm1", "--keep-plaintext"]);
    assert_eq!(document["result"], "adopted");
    assert_eq!(document["secret"]["action"], "kept");
    assert_eq!(host.virsh(&["secret-dumpxml", &uuid]).ok().stdout, xml);
    host.start_and_stop(&guest);
    let value = host.virsh(&["secret-get-value", &uuid, "--plain"]).ok();
    assert_eq!(value.stdout.trim_end(), KEY);
    assert_eq!(host.tpms_made(&guest), 1);
}

fn events(host: &Host) -> i64 {
    let count = "SELECT count(*) FROM event WHERE operation = 'adopt'";
    host.store().query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn all_takes_every_guest_that_can_be_adopted_and_says_why_the_others_cannot() {
    let (host, guest) = host_with_guest(ORDINARY);
    let private = define_used_guest(&host, "vm2", PRIVATE);
    let wrong = define_used_guest(&host, "vm3", ORDINARY);
    set_value(&host, wrong.secret, "a wrong key");
    let bound = host.define_bound_guest("vm4", "nkp-a");
    host.start_and_stop(&bound);
    host.define_guest("vm5", Tpm::Plain);
    host.define_guest("vm6", Tpm::None);

    let output = adopt(&host, &["--all"]);
    assert_eq!(output.status, 1, "{output:#?}");
    for (name, result) in [
        ("vm1", "adopted"),
        ("vm2", "adopted"),
        ("vm3", "refused"),
        ("vm4", "already"),
    ] {
        let mut lines = output.stdout.lines();
        let line = lines.find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(result), "{output:#?}");
    }
    assert!(!output.stdout.contains("vm5") && !output.stdout.contains("vm6"));
    let counts = "4 guests: 2 adopted, 1 already, 1 refused, 0 failed";
    assert!(output.stdout.contains(counts), "{output:#?}");
    assert_untouched(&host, &wrong);
    host.virsh(&["secret-undefine", &wrong.secret.to_string()])
        .ok();
    assert_adopted(&host, &guest);
    assert_adopted(&host, &private);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_definition_that_libvirt_leaves_on_the_disk_is_a_failure_that_names_it() {
    let (host, guest) = host_with_guest(ORDINARY);
    let uuid = guest.secret.to_string();
    // A persistent secret that is redefined as ephemeral leaves its UUID.xml behind.
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='yes' private='no'><uuid>{uuid}</uuid>{}</secret>",
            vtpm_usage("vm1")
        ),
    );
    host.virsh(&["secret-define", "/run/secret.xml"]).ok();
    let file = format!("/etc/libvirt/secrets/{uuid}.xml");
    for _ in 0..2 {
        let (document, status) = adopt_one(&host, &["vm1"]);
        assert_eq!((&document["result"], status), (&"failed".into(), 4));
        assert_eq!(document["key_ref"], host.only_key_ref(&guest).id);
        assert_eq!(document["hint"], format!("remove what is left: rm {file}"));
    }
    fs::remove_file(host.path(&file)).unwrap();
    adopt(&host, &["vm1"]).ok();
    assert_adopted(&host, &guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_keep_the_guards_own_secret_takes_the_place_of_the_old_one() {
    let (host, guest) = host_with_guest(ORDINARY);
    host.configure("[secret]\nlifetime = \"keep\"\n");
    adopt(&host, &["vm1"]).ok();
    let uuid = guest.secret.to_string();
    let xml = host.virsh(&["secret-dumpxml", &uuid]).ok().stdout;
    let own = format!("vtpm-guard:{}", guest.uuid);
    assert!(
        xml.contains(&own) && xml.contains("ephemeral='yes'"),
        "{xml}"
    );
    assert_no_trace(&host);
    let (document, status) = adopt_one(&host, &["vm1"]);
    assert_eq!((&document["result"], status), (&"already".into(), 0));
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// A run of `adopt --all` that something happens to.
struct Run<'h> {
    host: &'h Host,
    child: Child,
}

impl<'h> Run<'h> {
    /// Starts it, while the store is locked, and waits until it has libvirt's answer about the guests, and so long
    /// that it should have read the secret and wait for the store.
    fn waiting_for_the_store(host: &'h Host, to_read: Duration) -> Self {
        let script = "echo $$ >/run/adopt.pid; exec /usr/sbin/vtpm-guard adopt --all --json";
        let child = host
            .command(&["sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let state_dir = fs::File::open(host.path("/var/lib/vtpm-guard")).unwrap();
        // It holds this lock once it has libvirt's answer about the guests.
        wait_for_long(Duration::from_secs(25), || match state_dir.try_lock() {
            Ok(()) => {
                state_dir.unlock().unwrap();
                false
            }
            Err(_) => true,
        });
        sleep(to_read);
        Self { host, child }
    }

    fn kill(mut self) {
        let pid = self.host.read("/run/adopt.pid");
        self.host.run(&["kill", "-KILL", pid.trim()]).ok();
        let _ = self.child.wait();
    }
}

/// A run of `adopt --all` that has stored this guest's key and waits for libvirt, which is deaf.
fn stopped_after_the_key_is_stored<'h>(host: &'h Host, guest: &Guest) -> Run<'h> {
    let store = host.store();
    // Reading the secret takes milliseconds, as a rule. Where libvirt was deaf before, nothing is stored.
    for seconds in [1, 3, 9] {
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        let run = Run::waiting_for_the_store(host, Duration::from_secs(seconds));
        host.signal_libvirtd("STOP");
        store.execute_batch("ROLLBACK").unwrap();
        let patience = Instant::now() + Duration::from_secs(5 * seconds);
        while Instant::now() < patience {
            if !host.key_refs(guest).is_empty() {
                return run;
            }
            sleep(Duration::from_millis(10));
        }
        run.kill();
        host.signal_libvirtd("CONT");
    }
    panic!("it never stores the key");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn killed_after_the_key_is_stored_the_guest_starts_and_the_next_run_removes_the_secret() {
    let (host, guest) = host_with_guest(ORDINARY);
    stopped_after_the_key_is_stored(&host, &guest).kill();
    host.signal_libvirtd("CONT");
    let row = host.only_key_ref(&guest);
    assert!(host.has_secret(guest.secret));
    host.start_and_stop(&guest);
    assert!(host.has_secret(guest.secret));

    let (document, status) = adopt_one(&host, &["vm1"]);
    assert_eq!((&document["result"], status), (&"already".into(), 0));
    assert_eq!(document["secret"]["action"], "removed");
    assert_eq!(host.only_key_ref(&guest), row);
    assert_eq!(events(&host), 1);
    assert_adopted(&host, &guest);
}
