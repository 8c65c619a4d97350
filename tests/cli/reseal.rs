//! `provider reseal`: keys that were stored under a weaker seal than this host has.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::env::{Host, mode};

/// The sealed key of a provider.
fn sealed_key(host: &Host, provider: &str) -> PathBuf {
    let key_id = host.kek(provider).key_id().to_string();
    host.state_dir().join("keys").join(key_id)
}

/// A host whose provider `nkp-a` has its key in a root-only file; `None` where this machine has
/// no stronger seal.
fn host_with_weak_seal() -> Option<Host> {
    let host = Host::with_provider("nkp-a");
    if host.json(&["provider", "show", "nkp-a"])["seal"] == "root-only file" {
        eprintln!("skipped: this machine has no systemd credentials");
        return None;
    }
    let mut digits = String::new();
    for byte in host.kek("nkp-a").expose() {
        write!(digits, "{byte:02x}").unwrap();
    }
    let file = format!("vtpm-guard-kek 1 root-only\n{digits}\n");
    fs::write(sealed_key(&host, "nkp-a"), file).unwrap();
    Some(host)
}

#[test]
fn a_key_gets_the_strongest_seal_that_the_host_has() {
    let Some(host) = host_with_weak_seal() else {
        return;
    };
    let key = host.kek("nkp-a");
    let resealed = host.json(&["provider", "reseal", "nkp-a"]);
    assert_eq!(resealed["changed"], true);
    assert_eq!(resealed["previous_seal"], "root-only file");
    assert_eq!(host.kek("nkp-a").expose(), key.expose());
    assert_eq!(mode(&sealed_key(&host, "nkp-a")), 0o600);
    let shown = host.json(&["provider", "show", "nkp-a"]);
    assert_eq!(shown["seal"], resealed["seal"]);
    assert_eq!(shown["opens"], true);

    let again = host.json(&["provider", "reseal", "nkp-a"]);
    assert_eq!(again["changed"], false);
    assert_eq!(again["previous_seal"], resealed["seal"]);
}

#[test]
fn without_a_name_all_keys_are_sealed_again_and_each_says_how() {
    let Some(host) = host_with_weak_seal() else {
        return;
    };
    host.run(&["provider", "create", "nkp-b"]).succeeds();
    let broken = sealed_key(&host, "nkp-b");
    fs::write(&broken, "nonsense").unwrap();
    let ran = host.run(&["provider", "reseal"]).ends_with(4);
    assert!(ran.stdout.contains("(was: root-only file)"), "{ran:?}");
    assert!(ran.stdout.contains("sealed as before: "), "{ran:?}");
    assert!(ran.stderr.contains("provider rotate nkp-a"), "{ran:?}");
    assert_eq!(fs::read_to_string(&broken).unwrap(), "nonsense");
    host.run(&["provider", "reseal", "nkp-b"]).ends_with(4);
    host.run(&["provider", "reseal", "nkp-c"]).ends_with(2);
}

#[test]
fn doctor_names_a_seal_that_could_be_stronger() {
    let Some(host) = host_with_weak_seal() else {
        return;
    };
    let advice = |host: &Host| {
        let ran = host.run(&["doctor", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let found = found.as_array().unwrap().clone();
        let is_this =
            |one: &&serde_json::Value| one["command"] == "vtpm-guard provider reseal nkp-a";
        found.iter().find(is_this).cloned()
    };
    let found = advice(&host).unwrap();
    let what = found["what"].as_str().unwrap();
    assert!(
        what.contains("sealed: root-only file, and this host can do: systemd"),
        "{what}"
    );
    host.run(&["provider", "reseal"]).succeeds();
    assert_eq!(advice(&host), None);
}

#[test]
fn a_host_without_providers_has_nothing_to_seal() {
    let host = Host::new();
    let ran = host.run(&["provider", "reseal"]).succeeds();
    assert_eq!(ran.stdout, "no providers yet\n");
}
