//! `check`, `repair` and `replay`: what a start would find, and what it does about it.

use super::Answers;
use super::hosts::runs_elsewhere;
use super::site::{ENCRYPTED, PASSPHRASE, PLAIN, Site, secret};

/// A state of a newer format than this program knows.
const NEWER: &[u8] = &[3, 3, 0, 10, 0, 0, 0, 0, 0, 10];

/// A row like the guest's first, with these columns instead.
fn row_like_the_first(site: &Site, columns: &str) {
    site.sql(&format!(
        "INSERT INTO key_ref (resource_uuid, secret_uuid, provider_uuid, provider_name, \
         key_version, kek_ref, wrapped_dek, algorithm, first_used_at) \
         SELECT resource_uuid, secret_uuid, provider_uuid, provider_name, {columns} \
         FROM key_ref WHERE id = 1"
    ));
}

/// What is wrong with a guest's rows, and what a start repairs.
fn repairable() -> Vec<(&'static str, Site)> {
    let mut all = Vec::new();
    let mut with = |case, change: &dyn Fn(&Site)| {
        let site = Site::with_guest();
        change(&site);
        all.push((case, site));
    };
    with("it runs on another host", &|site| {
        site.configure("[fleet]\nstore = \"test://there\"");
        runs_elsewhere(site);
    });
    with("a placeholder beside the key", &|site| {
        row_like_the_first(site, "NULL, NULL, NULL, NULL, NULL");
    });
    with("the same key twice", &|site| {
        let columns = "key_version, kek_ref, wrapped_dek, algorithm, first_used_at";
        row_like_the_first(site, columns);
    });
    with("another row that opens nothing", &|site| {
        row_like_the_first(site, "key_version, kek_ref, X'00', algorithm, NULL");
    });
    with("a row that lacks values", &|site| {
        site.sql(&format!(
            "UPDATE key_ref SET key_version = NULL, kek_ref = NULL, secret_uuid = '{}'",
            secret(9)
        ));
    });
    with("the provider came back under another UUID", &|site| {
        site.export("a", "a.recovery");
        site.did("provider delete a --force");
        let (file, passphrase) = (site.path("a.recovery"), site.passphrase());
        site.did(&format!(
            "provider import {file} --passphrase-file {passphrase}"
        ));
    });
    with("the state is gone, and a copy is kept", &|site| {
        let (xml, copy) = (site.path("bin/libvirt/qemu/vm1.xml"), site.path("vm1.xml"));
        std::fs::rename(&xml, &copy).unwrap();
        site.did(&format!(
            "replay {copy} --operation release --sub-operation end --no-secret"
        ));
        std::fs::rename(&copy, &xml).unwrap();
        site.lose_state(1);
    });
    with("the state is damaged, and a copy is kept", &|site| {
        let (xml, copy) = (site.path("bin/libvirt/qemu/vm1.xml"), site.path("vm1.xml"));
        std::fs::rename(&xml, &copy).unwrap();
        site.did(&format!(
            "replay {copy} --operation release --sub-operation end --no-secret"
        ));
        std::fs::rename(&copy, &xml).unwrap();
        site.state(1, b"damaged");
    });
    let site = Site::new();
    site.define("vm1", 1, true);
    site.did("key bind vm1");
    all.push(("a key is to be made", site));
    let site = Site::new();
    site.define("vm1", 1, true);
    site.configure("auto_bind = \"a\"");
    all.push(("the guest is to be bound, and a key to be made", site));
    let site = Site::new();
    site.define("vm1", 1, true);
    site.did("key bind vm1");
    site.give_secret(1, "a value of somebody's");
    all.push(("libvirt's value is to become the key", site));
    let site = Site::with_guest();
    site.give_secret(1, "a value of somebody's");
    all.push(("libvirt has another value", site));
    all
}

pub(super) fn check(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "the key opens the TPM", "vm1");
    answers.ask(&site, "all guests, for a monitor", "--all --nagios");
    for (case, site) in repairable() {
        answers.ask(&site, case, "vm1");
    }
    site.define("vm2", 2, true);
    answers.ask(&site, "no key, no secret", "vm2");
    site.state(2, ENCRYPTED);
    answers.ask(&site, "a key of another guest opens its TPM", "vm2");
    site.give_secret(2, PASSPHRASE);
    answers.ask(&site, "libvirt's own secret", "vm2");
    site.give_secret(2, "another value");
    answers.ask(&site, "libvirt's own secret has another value", "vm2");
    site.define("vm3", 3, false);
    answers.ask(&site, "no encryption, no state", "vm3");
    site.state(3, ENCRYPTED);
    answers.ask(&site, "no encryption, an encrypted state", "vm3");
    site.define("vm4", 4, true);
    site.state(4, PLAIN);
    answers.ask(&site, "encryption, a plain state", "vm4");
    answers.ask(&site, "all guests", "--all");
    answers.ask(&site, "all guests, for a monitor", "--all --nagios");
    answers.ask(&site, "there is no fleet", "--fleet");
    answers.ask(&super::fleet::joined(), "guests of the fleet", "--fleet");
    answers.ask(&site, "an unknown guest", "vm9");
    answers.ask(&site, "an unknown guest, for a monitor", "vm9 --nagios");
    devices(answers, &site);
    site.define("vm5", 5, true);
    site.define_secret(5, "yes", "yes");
    site.give_value(5, "?");
    answers.ask(&site, "whoever starts it brings its key", "vm5");
    site.define("vm6", 6, true);
    site.define_secret(6, "no", "yes");
    site.give_value(6, "?");
    site.did("key bind vm6");
    answers.ask(&site, "libvirt does not disclose its secret", "vm6");
    site.state(6, NEWER);
    answers.ask(&site, "a state of a newer format", "vm6");
    site.define("vm7", 7, true);
    site.did("key bind vm7");
    site.did(&format!("replay {}", site.path("bin/libvirt/qemu/vm7.xml")));
    site.state(7, NEWER);
    answers.ask(&site, "a key, and a state of a newer format", "vm7");
    site.state(7, ENCRYPTED);
    answers.ask(&site, "a key that does not open the TPM", "vm7");
    site.give_secret(7, PASSPHRASE);
    answers.ask(&site, "a key that does not, and libvirt's that does", "vm7");
    secrets(answers);
    site.lose_state(1);
    answers.ask(&site, "the state is gone", "vm1");
    site.configure("missing_state = \"allow\"");
    answers.ask(&site, "the state is gone, and a new TPM is allowed", "vm1");
    site.configure("unencrypted = \"deny\"\nunmanaged = \"deny\"");
    site.lose_state(3);
    answers.ask(&site, "the policy wants encryption", "vm3");
    answers.ask(&site, "the policy wants keys of the guard", "vm5");
    site.state(1, ENCRYPTED);
    site.did("provider delete a --force");
    answers.ask(&site, "the provider is gone", "vm1");
    site.give_secret(1, PASSPHRASE);
    answers.ask(
        &site,
        "the provider is gone, and libvirt has the secret",
        "vm1",
    );
    site.configure("nonsense = 1");
    answers.ask(&site, "the configuration is broken", "vm1");
    site.spoil("vm1");
    answers.ask(&site, "its XML cannot be read", "vm1");
}

/// A key beside a secret of libvirt's, and what else a run may rest on.
fn secrets(answers: &mut Answers) {
    let site = Site::with_guest();
    site.define_secret(1, "yes", "yes");
    site.give_value(1, "?");
    answers.ask(&site, "a proven key, and a client's", "vm1");
    site.define_secret(1, "no", "yes");
    answers.ask(&site, "a proven key, and a private secret", "vm1");
    site.keep_copy();
    site.lose_state(1);
    site.configure("transient_state = \"fresh\"");
    let transient = site.path("transient.xml");
    std::fs::remove_file(site.path("bin/libvirt/qemu/vm1.xml")).unwrap();
    answers.ask(
        &site,
        "each run has a new TPM",
        &format!("--xml {transient}"),
    );
    let site = Site::with_guest();
    site.sql("UPDATE key_ref SET wrapped_dek = X'00'");
    answers.ask(&site, "the key is corrupt", "vm1");
    site.give_secret(1, PASSPHRASE);
    answers.ask(&site, "the key is corrupt, libvirt's opens the TPM", "vm1");
    site.file(
        "state/store.db",
        "not a database, but longer than its header",
    );
    answers.ask(&site, "the store is corrupt", "vm1");
}

/// Guests as XML files, with every kind of TPM.
fn devices(answers: &mut Answers, site: &Site) {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/domain-xml");
    for (case, vector) in [
        ("no TPM", "prepare-no-tpm"),
        ("a passthrough TPM", "prepare-passthrough"),
        ("an external TPM", "prepare-external"),
        ("a TPM 1.2", "prepare-tpm12"),
        ("XML that cannot be read", "doctype-bomb"),
    ] {
        let xml = std::fs::read_to_string(format!("{vectors}/{vector}.xml")).unwrap();
        let file = site.file("device.xml", &xml);
        answers.ask(site, case, &format!("--xml {file}"));
    }
}

pub(super) fn repair(answers: &mut Answers) {
    for (case, site) in repairable() {
        answers.ask(&site, case, "vm1");
    }
    let (case, site) = repairable().remove(0);
    answers.ask(&site, case, "vm1 --dry-run");
    site.define("vm2", 2, true);
    answers.ask(&site, "a guest that would not start", "--all");
    answers.ask(&site, "for a monitor", "--all --nagios");
    answers.ask(&site, "an unknown guest", "vm9");
}

pub(super) fn replay(answers: &mut Answers) {
    let (case, site) = repairable().remove(0);
    let xml = site.path("bin/libvirt/qemu/vm1.xml");
    answers.ask(&site, "what would be done", &format!("{xml} --dry-run"));
    answers.ask(&site, case, &xml);
    answers.ask(&site, "the key opens the TPM", &xml);
    answers.ask(&site, "without libvirt", &format!("{xml} --no-secret"));
    answers.ask(
        &site,
        "not a start",
        &format!("{xml} --operation reconnect"),
    );
    site.lose_state(1);
    answers.ask(&site, "the state is gone", &xml);
    site.capture("vm1");
    answers.ask(&site, "a captured XML", "--capture 1 --dry-run");
    answers.ask(&site, "no such capture", "--capture 9");
    answers.ask(&site, "no such file", &site.path("nowhere.xml"));
}
