//! A provider gets a new key, and guests that are gone leave their keys behind.

use std::fs;

use serde_json::Value;

use crate::guest::Guest;
use crate::host::Host;

const STORE: &str = "/var/lib/vtpm-guard";

/// A host with two guests that have run and are stopped.
fn with_two_guests() -> (Host, Guest, Guest) {
    let (host, one) = Host::with_used_guest();
    let other = host.define_bound_guest("vm2", "nkp-a");
    host.start_and_stop(&other);
    (host, one, other)
}

fn sealed_keys(host: &Host) -> Vec<String> {
    let keys = fs::read_dir(host.path(&format!("{STORE}/keys"))).unwrap();
    let names = keys.map(|key| key.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn export(host: &Host, file: &str) {
    host.write("/run/passphrase", "a made-up passphrase\n");
    let export = ["provider", "export", "nkp-a", "--output", file];
    host.guard(&[&export[..], &["--passphrase-file", "/run/passphrase"]].concat())
        .ok();
}

fn json(host: &Host, arguments: &[&str]) -> Value {
    let answer = host.guard(&[arguments, &["--json"]].concat()).ok();
    serde_json::from_str(&answer.stdout).unwrap()
}

#[test]
#[ignore = "needs root, libvirtd and QEMU"]
fn guests_start_with_their_own_tpm_before_during_and_after_a_rotation() {
    let (host, one, other) = with_two_guests();
    let (_, old_key) = host.provider("nkp-a");
    // One runs while the key changes; it has its key and asks for none.
    host.start_running(&other);
    let backup = "/run/before.db";
    host.guard(&["store", "backup", backup]).ok();

    let rotated = json(&host, &["provider", "rotate", "nkp-a"]);
    assert_eq!(
        (&rotated["rewrapped"], &rotated["key_version"]),
        (&2.into(), &2.into())
    );
    let (_, new_key) = host.provider("nkp-a");
    assert_ne!(new_key, old_key);
    assert_eq!(
        sealed_keys(&host).len(),
        2,
        "the previous key is still there"
    );
    host.virsh(&["reset", "vm2"]).ok();
    host.stop(&other);
    for guest in [&one, &other] {
        host.start_and_stop(guest);
        assert_eq!(host.tpms_made(guest), 1, "it kept its TPM");
        let kek_ref = format!("native:{new_key}");
        assert_eq!(host.only_key_ref(guest).kek_ref, Some(kek_ref));
    }

    export(&host, "/run/second.recovery");
    assert_eq!(sealed_keys(&host), [new_key]);
    host.start_and_stop(&one);

    // The store of before needs the previous key, and its recovery file brings that back.
    host.guard(&["store", "restore", backup]).ok();
    host.start(&one).refused_with("VG104");
    host.import_provider("nkp-a", None);
    assert_eq!(host.provider("nkp-a").1, old_key);
    for guest in [&one, &other] {
        host.start_and_stop(guest);
        assert_eq!(host.tpms_made(guest), 1, "it kept its TPM");
    }
}

#[test]
#[ignore = "needs root, libvirtd and QEMU"]
fn a_row_of_before_the_rotation_still_starts_its_guest() {
    let (host, guest) = Host::with_used_guest();
    let row = host.only_key_ref(&guest);
    host.guard(&["provider", "rotate", "nkp-a"]).ok();
    // Another tool puts its own copy of the row in the place of today's.
    host.delete_key_refs(&guest);
    host.insert_key_ref(&guest, &row);
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);

    let finished = json(&host, &["provider", "rotate", "nkp-a"]);
    assert_eq!(finished["rotated"], false);
    assert_eq!(finished["rewrapped"], 1);
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd and QEMU"]
fn the_keys_of_an_undefined_guest_go_by_an_explicit_prune_alone() {
    let (host, one, other) = with_two_guests();
    let before = host.only_key_ref(&one);
    let prune = ["key", "prune", "--older-than", "0d"];
    assert_eq!(json(&host, &prune)["kept"], 0, "libvirt knows both");

    // The definition alone goes: its TPM is still there, and would be useless without its key.
    host.virsh(&["undefine", "vm1", "--keep-tpm"]).ok();
    assert!(host.has_tpm_state(&one));
    let kept = json(&host, &prune);
    assert_eq!(
        (&kept["removed"]["guests"], &kept["kept"]),
        (&0.into(), &1.into())
    );

    host.remove_tpm_state(&one);
    let young = json(&host, &["key", "prune"]);
    assert_eq!(
        (&young["removed"]["guests"], &young["kept"]),
        (&0.into(), &1.into())
    );
    let checked = host.guard(&["check", "--all"]).ok();
    let words = "1 guest unknown to libvirt still has keys";
    assert!(checked.stderr.contains(words), "{checked:#?}");
    assert!(host.guard(&["status"]).ok().stdout.contains(words));
    assert_eq!(json(&host, &["status"])["guests_unknown_to_libvirt"], 1);

    let foreseen = json(&host, &[&prune[..], &["--dry-run"]].concat());
    assert_eq!(foreseen["guests"][0]["domain"]["name"], "vm1");
    assert!(foreseen["backup"].is_null());
    assert_eq!(host.only_key_ref(&one), before);

    let pruned = json(&host, &prune);
    assert_eq!(pruned["removed"]["key_refs"], 1);
    assert_eq!(host.key_refs(&one), []);
    assert_eq!(host.key_refs(&other).len(), 1);
    let history = json(&host, &["history", "vm1"]);
    assert_eq!(history[0]["operation"], "prune");

    let backup = pruned["backup"].as_str().unwrap();
    host.guard(&["store", "restore", backup]).ok();
    assert_eq!(host.only_key_ref(&one), before, "it can be undone");
}

#[test]
#[ignore = "needs root, libvirtd and QEMU"]
fn a_libvirt_that_does_not_answer_has_forgotten_nobody() {
    let (host, guest) = Host::with_used_guest();
    host.end(host.guests_daemon(), "TERM");
    let answer = host.guard(&["key", "prune", "--older-than", "0d"]);
    assert_eq!(answer.status, 4, "{answer:#?}");
    assert_eq!(host.key_refs(&guest).len(), 1);
}
