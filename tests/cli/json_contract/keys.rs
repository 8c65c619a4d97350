//! `key …`

use super::Answers;
use super::site::{ENCRYPTED, PLAIN, Site, guest};

pub(super) fn bind(answers: &mut Answers) {
    let site = Site::with_guest();
    site.did("provider create b");
    site.define("vm2", 2, true);
    answers.ask(&site, "a placeholder is made", "vm2 --provider a");
    answers.ask(&site, "it is there", "vm2 --provider a");
    answers.ask(&site, "it moves", "vm2 --provider b");
    answers.ask(&site, "a guest that has a key", "vm1 --provider a");
    answers.ask(
        &site,
        "another provider than that of its key",
        "vm1 --provider b",
    );
    answers.ask(&site, "an unknown provider", "vm2 --provider x");
    site.export("a", "a.recovery");
    site.did("provider delete a --force");
    let (file, passphrase) = (site.path("a.recovery"), site.passphrase());
    site.did(&format!(
        "provider import {file} --passphrase-file {passphrase}"
    ));
    answers.ask(&site, "its provider came back", "vm1 --provider a");
}

pub(super) fn import(answers: &mut Answers) {
    let site = Site::with_guest();
    let copy = site.path("copy.db");
    site.did(&format!("store backup {copy}"));
    let words = format!("vm1 --from {copy}");
    answers.ask(&site, "it is here", &words);
    site.sql("DELETE FROM key_ref");
    answers.ask(&site, "it is gone here", &words);
    site.define("vm2", 2, true);
    let words = format!("vm2 --from {copy} --as vm1");
    answers.ask(&site, "under another UUID", &words);
    let words = format!("vm2 --from {copy} --as vm9");
    answers.ask(&site, "a guest that the backup does not know", &words);
}

pub(super) fn list(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    let site = Site::with_guest();
    site.define("vm2", 2, true);
    site.did("key bind vm2 --provider a");
    answers.ask(&site, "a key and a placeholder", "");
    answers.ask(&site, "of one guest", "vm1");
}

pub(super) fn metadata(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "for a file", "vm1");
    answers.ask(&site, "written", "vm1 --write");
    answers.ask(&site, "it is there", "vm1 --write");
    site.file(&format!("bin/libvirt/{}.busy", guest(1)), "");
    site.sql("UPDATE key_ref SET wrapped_dek = CAST(wrapped_dek || X'00' AS BLOB)");
    answers.ask(
        &site,
        "a key that the host does not have, and a busy guest",
        "vm1 --write",
    );
    site.sql("UPDATE key_ref SET wrapped_dek = X'00'");
    answers.ask(&site, "a key that does not travel", "vm1");
    site.define("vm2", 2, true);
    answers.ask(&site, "no key", "vm2");
    site.define_with_metadata(
        "vm1",
        1,
        "<vg:vtpm xmlns:vg='urn:vtpm-guard:domain:1'></vg:vtpm>",
    );
    site.sql("DELETE FROM key_ref");
    answers.ask(
        &site,
        "an element that cannot be read, of a guest without a key",
        "vm1 --write",
    );
}

pub(super) fn show(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "a key that opens the TPM", "vm1");
    site.sql(
        "INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek) \
         SELECT resource_uuid, 'lost', X'00' FROM key_ref; \
         INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name) \
         SELECT resource_uuid, provider_uuid, provider_name FROM key_ref WHERE id = 1",
    );
    answers.ask(&site, "one that does not open, and a placeholder", "vm1");
    site.did("key retire 1");
    answers.ask(&site, "its key is retired", "vm1");
    site.define("vm2", 2, true);
    site.did("key bind vm2 --provider a");
    site.did(&format!("replay {}", site.path("bin/libvirt/qemu/vm2.xml")));
    site.state(2, ENCRYPTED);
    answers.ask(&site, "a key that does not open the TPM", "vm2");
    site.state(2, PLAIN);
    answers.ask(&site, "a guest whose TPM is plain", "vm2");
    site.define("vm3", 3, true);
    answers.ask(&site, "a guest without a row", "vm3");
}

pub(super) fn unbind(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "a guest with a key", "vm1");
    answers.ask(&site, "nothing is bound", "vm1");
    site.define("vm2", 2, true);
    answers.ask(&site, "a guest without a row", "vm2");
}

pub(super) fn retire(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "it was in use", "1");
    answers.ask(&site, "it was retired", "1");
    answers.ask(&site, "an unknown one", "99");
}

pub(super) fn use_key(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "it is in use", "1");
    site.did("key retire 1");
    site.did("key bind vm1 --provider a");
    answers.ask(&site, "it was retired", "1");
    answers.ask(&site, "an unknown one", "99");
    site.define("vm2", 2, true);
    site.did("key bind vm2 --provider a");
    answers.ask(&site, "a placeholder", "3");
}

pub(super) fn renew(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "a stopped guest", "vm1");
    site.start("vm1");
    answers.ask(&site, "a running guest", "vm1");
    site.define("vm2", 2, false);
    answers.ask(&site, "its TPM is not encrypted", "vm2");
    site.define("vm3", 3, true);
    answers.ask(&site, "it has no state", "vm3");
    site.state(3, ENCRYPTED);
    answers.ask(&site, "no key opens it", "vm3");
    answers.ask(&site, "an unknown guest", "vm9");
}

pub(super) fn clone(answers: &mut Answers) {
    let site = Site::with_guest();
    site.define("vm2", 2, true);
    answers.ask(&site, "the clone has no state", "vm1 vm2");
    answers.ask(&site, "it is bound", "vm1 vm2");
    site.did("provider create b");
    site.did("key bind vm2 --provider b");
    answers.ask(&site, "it is bound to another provider", "vm1 vm2");
    site.state(2, ENCRYPTED);
    answers.ask(&site, "the clone has the state", "vm1 vm2");
    answers.ask(&site, "it has the key", "vm1 vm2");
    site.define("vm3", 3, false);
    answers.ask(&site, "the clone's TPM is not encrypted", "vm1 vm3");
    site.undefine("vm1");
    site.define("vm4", 4, true);
    answers.ask(
        &site,
        "libvirt has forgotten the original",
        &format!("{} vm4", guest(1)),
    );
}

pub(super) fn prune(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "libvirt knows every guest", "");
    // vm1 has state, vm2 was used elsewhere, vm3 is young, vm4 is old.
    site.undefine("vm1");
    for number in 2..5 {
        site.sql(&format!(
            "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name, key_version, \
             kek_ref, wrapped_dek, algorithm) SELECT '{}', provider_uuid, provider_name, \
             key_version, kek_ref, wrapped_dek, algorithm FROM key_ref WHERE id = 1",
            guest(number)
        ));
    }
    site.sql(&format!(
        "UPDATE key_ref SET first_used_at = 1, created_at = 1, updated_at = 1 \
         WHERE resource_uuid IN ('{}', '{}'); \
         UPDATE key_ref SET first_used_at = NULL WHERE resource_uuid = '{}'",
        guest(2),
        guest(4),
        guest(4)
    ));
    answers.ask(&site, "what would be removed", "--dry-run");
    answers.ask(&site, "old ones are removed", "");
    answers.ask(&site, "not an age", "--older-than x");
}
