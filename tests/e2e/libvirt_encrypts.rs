//! Secrets that libvirt itself encrypts on the disk (12.1 and later): `./dev e2e --suite forky`
//! brings such a libvirt. Debian's units do so by default.

use std::fs;

use serde_json::Value;

use crate::adopting::{ORDINARY, PRIVATE, assert_no_trace, define_used_guest};
use crate::guest::{Guest, Tpm};
use crate::host::{Host, skipped};

/// A host whose libvirt encrypts its secrets, with an exported provider; `None` where libvirt
/// cannot.
fn encrypting_host() -> Option<Host> {
    let host = Host::new();
    if host.libvirt_version() < (12, 1) {
        skipped("libvirt encrypts secrets since 12.1");
        return None;
    }
    host.write("/etc/libvirt/secrets.key", [7; 32]);
    host.write(
        "/etc/libvirt/secret.conf",
        "secrets_encryption_key = \"/etc/libvirt/secrets.key\"\n",
    );
    host.restart_libvirtd();
    host.guard(&["provider", "create", "nkp-a", "--default"])
        .ok();
    host.export_provider("nkp-a");
    Some(host)
}

fn files_of_secrets(host: &Host) -> Vec<String> {
    let files = fs::read_dir(host.path("/etc/libvirt/secrets")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Adopts the guest; returns the exit status and the answer.
fn adopt(host: &Host, guest: &Guest) -> (i32, Value) {
    let output = host.guard(&["adopt", "--json", &guest.name]);
    let documents: Value = serde_json::from_str(&output.stdout).unwrap();
    (output.status, documents[0].clone())
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_secret_that_libvirt_encrypts_is_adopted() {
    let Some(host) = encrypting_host() else {
        return;
    };
    let guest = define_used_guest(&host, "vm1", ORDINARY);
    let names = files_of_secrets(&host);
    assert!(names[0].ends_with(".aes256cbc"), "{names:?}");
    assert_eq!(adopt(&host, &guest).0, 0);
    assert!(files_of_secrets(&host).is_empty());
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    assert_no_trace(&host);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_private_secret_that_libvirt_encrypts_is_adopted_as_the_hint_says() {
    let Some(host) = encrypting_host() else {
        return;
    };
    let guest = define_used_guest(&host, "vm1", PRIVATE);
    let names = files_of_secrets(&host);
    let (status, refused) = adopt(&host, &guest);
    assert_eq!(status, 1, "{refused}");
    assert_eq!(files_of_secrets(&host), names);
    assert!(host.key_refs(&guest).is_empty());

    // The guest runs on, whatever its secret's daemon does.
    host.start_running(&guest);
    let hint = refused["hint"].as_str().unwrap();
    let (_, from_sed_on) = hint.split_once('(').unwrap();
    let (sed, rest) = from_sed_on.split_once(')').unwrap();
    host.run(&["sh", "-c", sed]).ok();
    let restart = format!("systemctl restart {}", host.secrets_daemon());
    assert!(rest.contains(&restart), "{hint}");
    host.restart_libvirtd();
    let (_, command) = hint.rsplit_once(": ").unwrap();
    host.run(&["sh", "-c", command]).ok();
    assert!(files_of_secrets(&host).is_empty());
    assert_eq!(host.state(&guest), "running");
    host.stop(&guest);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    assert_no_trace(&host);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_staged_key_leaves_no_file_behind_that_libvirt_encrypted() {
    let Some(host) = encrypting_host() else {
        return;
    };
    let secret = vtpm_guard::internals::ids::SecretUuid::random();
    let guest = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.bind(&guest, "nkp-a");
    host.start_and_stop(&guest);
    host.virsh(&["autostart", "vm1"]).ok();
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();
    assert_eq!(files_of_secrets(&host).len(), 2);
    host.start_libvirtd();
    host.guard(&["unstage"]).ok();
    assert_eq!(host.state(&guest), "running");
    assert!(files_of_secrets(&host).is_empty());
    assert!(!host.has_secret(guest.secret));
}
