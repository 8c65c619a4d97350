//! One secret UUID, several guests; and values in libvirt that are somebody's only key. No guest
//! ever starts with another one's value, and no value that libvirt holds is ever destroyed.

use std::process::Stdio;

use vtpm_guard::internals::ids::SecretUuid;
use vtpm_guard::internals::key::dek::Dek;
use zeroize::Zeroizing;

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output, finish};

/// A script before libvirt goes on with a start, which takes its time for the guest `vm1`.
const SLOW_START: &str =
    "#!/bin/sh\ncase \"$1 $2\" in 'vm1 start') echo >/run/vm1-starts; sleep 4 ;; esac\n";

impl Host {
    /// Two guests of one template: the same secret UUID, each with a key of its own.
    fn with_two_guests_of_one_template() -> (Self, Guest, Guest) {
        let host = Self::new();
        host.create_provider("nkp-a");
        let secret = Tpm::Encrypted(SecretUuid::random());
        let guests = ["vm1", "vm2"].map(|name| host.define_guest(name, secret));
        for guest in &guests {
            host.bind(guest, "nkp-a");
        }
        let [first, second] = guests;
        (host, first, second)
    }

    /// Starts guests at the same moment.
    fn start_at_once(&self, guests: &[&Guest]) -> Vec<Output> {
        let start = |guest: &&Guest| {
            let mut start = self.command(&["virsh", "start", &guest.name]);
            start.stdin(Stdio::null());
            start.stdout(Stdio::piped()).stderr(Stdio::piped());
            start.spawn().unwrap()
        };
        let started: Vec<_> = guests.iter().map(start).collect();
        started.into_iter().map(finish).collect()
    }

    /// Waits until a hook has made this file.
    fn wait_for(&self, path: &str) {
        for _ in 0..600 {
            if self.path(path).exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("no {path}");
    }

    /// Whether the guest's TPM was made with the key of this guest's row in use, by the guard's
    /// own look at it.
    #[track_caller]
    fn key_opens_the_tpm(&self, guest: &Guest) -> bool {
        let check = self.guard(&["check", &guest.name, "--json"]);
        check.stdout.contains("the key opens the TPM state")
    }

    fn value(&self, secret: SecretUuid) -> String {
        let get = ["secret-get-value", &secret.to_string(), "--plain"];
        self.virsh(&get).ok().stdout.trim().to_owned()
    }
}

fn dek(value: &str) -> Dek {
    Dek::from_bytes(Zeroizing::new(value.as_bytes().to_vec()))
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn first_starts_at_once_wait_for_each_other_and_each_tpm_has_its_own_key() {
    let (host, first, second) = Host::with_two_guests_of_one_template();
    for _ in 0..3 {
        for output in host.start_at_once(&[&first, &second]) {
            output.ok();
        }
        for guest in [&first, &second] {
            host.stop(guest);
            assert!(host.key_opens_the_tpm(guest), "{}", guest.name);
            assert_eq!(host.tpms_made(guest), 1);
        }
    }
    assert!(!host.has_secret(first.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_that_would_wait_too_long_names_the_other_guest() {
    let (host, first, second) = Host::with_two_guests_of_one_template();
    host.write_program("/etc/libvirt/hooks/qemu.d/90-slow", SLOW_START);
    host.configure("[hook]\ndeadline = \"1500ms\"\n");
    let mut slow = host.command(&["virsh", "start", &first.name]);
    let slow = slow.stdin(Stdio::null()).stdout(Stdio::piped());
    let slow = slow.stderr(Stdio::piped()).spawn().unwrap();
    host.wait_for("/run/vm1-starts");

    let refused = host.start(&second).refused_with("VG303");
    assert!(refused.stderr.contains("\"vm1\""), "{refused:#?}");
    assert!(!host.has_tpm_state(&second));
    finish(slow).ok();

    // The refused start leaves nothing behind; the next one succeeds.
    host.start_and_stop(&second);
    host.stop(&first);
    for guest in [&first, &second] {
        assert!(host.key_opens_the_tpm(guest), "{}", guest.name);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn at_boot_the_second_guest_of_a_template_is_refused_and_never_gets_the_firsts_key() {
    let (host, first, second) = Host::with_two_guests_of_one_template();
    if host.lacks_libvirtd() {
        return;
    }
    for guest in [&first, &second] {
        host.start_and_stop(guest);
        host.autostart(guest);
    }
    let states = [&first, &second].map(|guest| host.tpm_state(guest));
    let staged = host.boot_libvirtd();
    assert!(staged.contains("VG303"), "{staged}");
    let running = [&first, &second].map(|guest| host.state(guest) == "running");
    assert_ne!(running[0], running[1], "one of them starts with the daemon");
    assert_eq!([&first, &second].map(|guest| host.tpm_state(guest)), states);
    let refused = if running[0] { &second } else { &first };
    let history = host.guard(&["history", &refused.name]).ok().stdout;
    assert!(history.contains("VG303"), "{history}");
    host.start_running(refused);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn guests_that_share_one_key_on_purpose_start_at_once() {
    let (host, original) = Host::with_used_guest();
    let clone = host.define_guest("vm2", Tpm::Encrypted(original.secret));
    host.run(&[
        "cp",
        "-a",
        &format!("/var/lib/libvirt/swtpm/{}", original.uuid),
        &format!("/var/lib/libvirt/swtpm/{}", clone.uuid),
    ])
    .ok();
    host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    for _ in 0..2 {
        for output in host.start_at_once(&[&original, &clone]) {
            output.ok();
        }
        for guest in [&original, &clone] {
            host.stop(guest);
        }
    }
    assert!(!host.has_secret(original.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_only_key_of_an_unmanaged_guest_survives_a_bound_guest_of_its_template() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("the only key of vm1"));
    let unmanaged = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.start_and_stop(&unmanaged);
    let bound = host.define_guest("vm2", Tpm::Encrypted(secret));
    host.bind(&bound, "nkp-a");

    let refused = host.start(&bound).refused_with("VG303");
    assert!(refused.stderr.contains("\"vm1\""), "{refused:#?}");
    assert_eq!(host.value(secret), "the only key of vm1");
    host.start_and_stop(&unmanaged);

    // The advice: a secret UUID of its own.
    let own = SecretUuid::random();
    let bound = host.redefine_guest(bound, Tpm::Encrypted(own));
    host.start_and_stop(&bound);
    assert!(host.key_opens_the_tpm(&bound));
    host.start_and_stop(&unmanaged);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_bound_while_its_state_is_away_keeps_the_value_that_opens_it() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("the only key of vm1"));
    let guest = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.start_and_stop(&guest);
    let state = host.tpm_state(&guest);
    host.remove_tpm_state(&guest);
    host.bind(&guest, "nkp-a");
    host.guard(&["reset", "vm1"]);

    host.start_and_stop(&guest);
    let row = host.only_key_ref(&guest);
    assert!(
        row.dek(&guest, &host.kek("nkp-a"))
            .same_as(&dek("the only key of vm1"))
    );
    assert_eq!(host.value(secret), "the only key of vm1");
    // The state comes back: the same key opens it.
    host.set_tpm_state(&guest, &state);
    host.start_and_stop(&guest);
    assert!(host.key_opens_the_tpm(&guest));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_persistent_secret_with_another_value_gives_way_to_the_proven_key_and_is_kept() {
    let (host, guest) = Host::with_used_guest();
    let kek = host.kek("nkp-a");
    let key = host.only_key_ref(&guest).dek(&guest, &kek);
    let state = host.tpm_state(&guest);
    for (round, value) in ["a wrong key", "a wrong key", "another wrong key"]
        .iter()
        .enumerate()
    {
        host.define_secret(guest.secret, "by hand", Some(value));
        host.start_running(&guest);
        assert!(!host.has_secret(guest.secret), "round {round}");
        let files = host.path("/etc/libvirt/secrets").read_dir().unwrap();
        assert_eq!(files.count(), 0, "no key is on the disk, round {round}");
        host.stop(&guest);
    }
    assert_eq!(host.tpm_state(&guest), state);
    let rows = host.key_refs(&guest);
    let kept: Vec<_> = rows.iter().filter(|row| row.retired_at.is_some()).collect();
    let is_kept = |value| {
        kept.iter()
            .any(|row| row.dek(&guest, &kek).same_as(&dek(value)))
    };
    assert!(
        is_kept("a wrong key") && is_kept("another wrong key"),
        "{rows:#?}"
    );
    assert_eq!(kept.len(), 2, "each once");
    let used = rows.iter().find(|row| row.retired_at.is_none()).unwrap();
    assert!(used.dek(&guest, &kek).same_as(&key));
    let history = host.guard(&["history", "vm1", "--json"]).ok().stdout;
    assert!(history.contains("retire-key"), "{history}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_persistent_secret_without_a_value_never_gets_the_key() {
    let (host, guest) = Host::with_used_guest();
    host.define_secret(guest.secret, "for Terraform", None);
    host.start_running(&guest);
    let files = host.path("/etc/libvirt/secrets").read_dir().unwrap();
    assert_eq!(files.count(), 0);
    let get = ["secret-get-value", &guest.secret.to_string()];
    assert_ne!(host.virsh(&get).status, 0);
    host.stop(&guest);

    // The same for one that libvirt would tell to every client.
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='yes' private='no'><uuid>{}</uuid>\
             <usage type='vtpm'><name>mine</name></usage></secret>",
            guest.secret
        ),
    );
    host.virsh(&["secret-define", "/run/secret.xml"]).ok();
    host.configure("[secret]\nlifetime = \"run\"\n");
    host.start_running(&guest);
    assert_ne!(host.virsh(&get).status, 0, "it is private now");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_restore_gets_the_right_key_although_libvirt_has_another_value() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    host.virsh(&["save", "vm1", "/run/vm1.save"]).ok();
    host.define_secret(guest.secret, "by hand", Some("a wrong key"));
    host.virsh(&["restore", "/run/vm1.save"]).ok();
    assert_eq!(host.state(&guest), "running");
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unmanaged_guest_whose_value_is_wrong_is_refused_instead_of_failing() {
    let host = Host::new();
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("the right key"));
    let guest = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.start_and_stop(&guest);
    host.virsh(&["secret-undefine", &secret.to_string()]).ok();
    host.define_secret(secret, "by hand", Some("a wrong key"));

    let check = host.guard(&["check", "vm1"]);
    assert_eq!(check.status, 1, "{check:#?}");
    assert!(check.stdout.contains("VG204"), "{check:#?}");
    host.start(&guest).refused_with("VG204");
    assert_eq!(host.value(secret), "a wrong key");
    // The advice, word for word.
    host.write("/run/right", "the right key");
    let set = ["secret-set-value", &secret.to_string()];
    host.virsh(&[&set[..], &["--plain", "--file", "/run/right"]].concat())
        .ok();
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_client_that_brings_its_own_private_key_is_left_alone() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    let bring = || {
        host.write(
            "/run/secret.xml",
            format!(
                "<secret ephemeral='yes' private='yes'><uuid>{}</uuid>\
                 <usage type='vtpm'><name>{}</name></usage></secret>",
                guest.secret, guest.uuid
            ),
        );
        host.virsh(&["secret-define", "/run/secret.xml"]).ok();
        host.write("/run/value", "the client's key");
        let set = ["secret-set-value", &guest.secret.to_string(), "--plain"];
        host.virsh(&[&set[..], &["--file", "/run/value"]].concat())
            .ok();
    };
    for _ in 0..2 {
        bring();
        host.start_and_stop(&guest);
        // As Nova does, once the guest runs.
        host.virsh(&["secret-undefine", &guest.secret.to_string()])
            .ok();
        // No error for the nightly check, although the key is not here now.
        let check = host.guard(&["check", "--all"]);
        assert_eq!(check.status, 0, "{check:#?}");
        assert!(
            check.stdout.contains("the client that starts it"),
            "{check:#?}"
        );
    }
    // But the start itself needs it.
    host.start(&guest).refused_with("VG202");
    let row = host.only_key_ref(&guest);
    assert_eq!(row.wrapped_dek, None, "no other key was made: {row:#?}");
    assert_eq!(host.tpms_made(&guest), 1);
}
