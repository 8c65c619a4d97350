//! What a refusal finds under another name, without root and without libvirt.

use std::fs;

use serde_json::Value;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::env::{Host, VM1, VM2};
use crate::state::STATE;

/// A host whose libvirt keeps its files below the test's directory.
struct Elsewhere {
    host: Host,
    config: String,
}

impl Elsewhere {
    fn new() -> Self {
        let host = Host::with_provider("nkp-a");
        let libvirt = host.path("libvirt");
        fs::create_dir_all(libvirt.join("qemu")).unwrap();
        let libvirt = libvirt.to_str().unwrap();
        let config = host.file(
            "config.toml",
            &format!(
                "[libvirt]\nconfig_dir = \"{libvirt}\"\nstate_dir = \"{libvirt}\"\n\
                 run_dir = \"{libvirt}/run\"\ntpm_dir = \"{libvirt}/swtpm\"\n"
            ),
        );
        Self { host, config }
    }

    /// With this section in the configuration, too.
    fn with(section: &str) -> Self {
        let Self { host, config } = Self::new();
        let before = fs::read_to_string(&config).unwrap();
        fs::write(&config, before + section).unwrap();
        Self { host, config }
    }

    /// The state of [`STATE`] in this guest's place.
    fn put_state(&self, guest: &str, version: &str) {
        let dir = self.host.path("libvirt/swtpm").join(guest).join(version);
        fs::create_dir_all(&dir).unwrap();
        let file = match version {
            "tpm2" => "tpm2-00.permall",
            _ => "tpm-00.permall",
        };
        fs::write(dir.join(file), STATE).unwrap();
    }

    /// Defines a guest as libvirt's files do, and gives its XML.
    fn define(&self, name: &str, uuid: &str, secret: SecretUuid) -> String {
        let xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><devices>\
             <tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
             <encryption secret='{secret}'/></backend></tpm></devices></domain>"
        );
        self.host.file(&format!("libvirt/qemu/{name}.xml"), &xml)
    }

    /// What the hook would do with this XML.
    fn judged(&self, xml: &str) -> Value {
        let replay = [
            "replay",
            xml,
            "--dry-run",
            "--no-secret",
            "--json",
            "--config",
        ];
        let ran = self.host.run(&[&replay[..], &[&self.config]].concat());
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
    }
}

#[track_caller]
fn assert_refused(outcome: &Value, code: &str, hint: &str) {
    assert_eq!(outcome["code"], code, "{outcome:#}");
    let found = outcome["hint"].as_str().unwrap();
    assert!(found.contains(hint), "{hint:?} is not in {outcome:#}");
}

#[test]
fn the_key_of_a_copied_state_is_found_among_those_of_many_guests() {
    let elsewhere = Elsewhere::new();
    let host = &elsewhere.host;
    for _ in 0..100 {
        let guest = DomainUuid::random().to_string();
        host.start_for_the_first_time(&guest, "nkp-a");
    }
    host.give_right_key(VM1);
    host.name_guest(VM1, "vm1");
    elsewhere.put_state(VM2, "tpm2");
    let xml = elsewhere.define("vm2", VM2, SecretUuid::random());
    let clone = format!("vtpm-guard key clone {VM1} vm2");
    assert_refused(&elsewhere.judged(&xml), "VG202", &clone);
    // By its name, once libvirt knows it.
    elsewhere.define("vm1", VM1, SecretUuid::random());
    let clone = "vtpm-guard key clone vm1 vm2";
    assert_refused(&elsewhere.judged(&xml), "VG202", clone);
    // Nobody's key opens it.
    host.run(&["key", "unbind", VM1]).succeeds();
    assert_refused(&elsewhere.judged(&xml), "VG202", clone);
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    let delete = "DELETE FROM key_ref WHERE resource_uuid = ?1";
    store.execute(delete, [VM1]).unwrap();
    drop(store);
    assert_refused(
        &elsewhere.judged(&xml),
        "VG202",
        "key import vm2 --from BACKUP",
    );
}

#[test]
fn a_guest_with_another_s_secret_is_not_a_new_one() {
    let elsewhere = Elsewhere::new();
    let secret = SecretUuid::random();
    // The store's row names no secret, as other tools leave it: libvirt's definition does.
    elsewhere.host.start_for_the_first_time(VM1, "nkp-a");
    let copy = elsewhere.define("vm2", VM2, secret);
    let alone = elsewhere.judged(&copy);
    assert_refused(&alone, "VG201", "vtpm-guard key bind vm2 --provider NAME");
    elsewhere.define("vm1", VM1, secret);
    assert_refused(&elsewhere.judged(&copy), "VG201", "key clone vm1 vm2");
    // libvirt knows the guest no more: a hint that needs it to says so.
    let xml = fs::read_to_string(&copy).unwrap();
    fs::remove_file(&copy).unwrap();
    let transient = elsewhere.host.file("transient.xml", &xml);
    assert_refused(&elsewhere.judged(&transient), "VG201", "define it first");
}

#[test]
fn an_unencrypted_guest_without_a_state_is_to_be_bound_and_not_encrypted() {
    let elsewhere = Elsewhere::with("[policy]\nunencrypted = \"deny\"\n");
    let xml = elsewhere.define("vm1", VM1, SecretUuid::random());
    let text = fs::read_to_string(&xml).unwrap();
    let (head, tail) = text.split_once("<encryption").unwrap();
    let (_, tail) = tail.split_once("/>").unwrap();
    fs::write(&xml, format!("{head}{tail}")).unwrap();
    let refused = elsewhere.judged(&xml);
    assert_refused(&refused, "VG502", "vtpm-guard key bind vm1 --provider NAME");
    assert_refused(&refused, "VG502", "<encryption secret='UUID'/>");
    assert!(
        !refused.to_string().contains("vtpm-guard encrypt"),
        "{refused}"
    );
    let captured = elsewhere
        .host
        .file("captured.xml", &fs::read_to_string(&xml).unwrap());
    fs::remove_file(&xml).unwrap();
    assert_refused(&elsewhere.judged(&captured), "VG502", "define it first");
}

#[test]
fn a_used_tpm_of_another_version_is_named() {
    let elsewhere = Elsewhere::new();
    elsewhere.host.give_right_key(VM1);
    let xml = elsewhere.define("vm1", VM1, SecretUuid::random());
    assert_refused(&elsewhere.judged(&xml), "VG205", "vtpm-guard reset vm1");
    elsewhere.put_state(VM1, "tpm1.2");
    assert_refused(&elsewhere.judged(&xml), "VG205", "version='1.2'");
}
