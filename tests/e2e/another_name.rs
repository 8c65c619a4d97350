//! The TPM is there, under another name: the refusal names it, and its hint, carried out, leads
//! to a start with the same TPM.

use std::fs;

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};
use crate::tpm::{Identity, identity};

/// Which TPM the guest has.
fn tpm_of(host: &Host, guest: &Guest) -> Identity {
    let rows = host.key_refs(guest);
    let row = rows.iter().find(|row| row.retired_at.is_none()).unwrap();
    let dek = row.dek(guest, &host.kek("nkp-a"));
    identity(&host.tpm_state(guest), Some(dek.expose()))
}

/// The hint's first command, as a shell would run it.
#[track_caller]
fn follow(host: &Host, refused: &Output) {
    let (_, line) = refused.stderr.split_once("vtpm-guard: VG").unwrap();
    let (_, hint) = line
        .lines()
        .next()
        .unwrap()
        .split_once("vtpm-guard ")
        .unwrap();
    let command = hint.split(';').next().unwrap();
    host.run(&["sh", "-euxc", &format!("vtpm-guard {command}")])
        .ok();
}

/// The same guest, undefined and defined again under a new UUID; its TPM's state is kept.
fn under_a_new_uuid(host: &Host, guest: &Guest, secret: SecretUuid) -> Guest {
    host.virsh(&["undefine", &guest.name, "--keep-tpm"]).ok();
    let renewed = Guest {
        uuid: DomainUuid::random(),
        ..guest.clone()
    };
    host.redefine_guest(renewed, Tpm::Encrypted(secret))
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_under_a_new_uuid_gets_its_own_tpm_back() {
    let (host, old) = Host::with_used_guest();
    let ek = tpm_of(&host, &old);
    let guest = under_a_new_uuid(&host, &old, old.secret);
    for policy in ["", "[policy]\nauto_bind = \"nkp-a\"\n"] {
        host.configure(policy);
        let refused = host.start(&guest).refused_with("VG201");
        assert!(
            refused.stderr.contains(&old.uuid.to_string()),
            "{refused:?}"
        );
        assert!(host.key_refs(&guest).is_empty() && !host.has_tpm_state(&guest));
    }
    let refused = host.start(&guest).refused_with("VG201");
    follow(&host, &refused);
    host.start_and_stop(&guest);
    assert_eq!(tpm_of(&host, &guest), ek);
    let again = host
        .guard(&["key", "clone", &old.uuid.to_string(), "vm1"])
        .ok();
    assert!(again.stdout.contains("nothing changed"), "{again:?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_only_kept_its_name_is_known_too() {
    let (host, old) = Host::with_used_guest();
    let ek = tpm_of(&host, &old);
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    let guest = under_a_new_uuid(&host, &old, SecretUuid::random());
    let refused = host.start(&guest).refused_with("VG201");
    // The name is enough, although the new guest has it: the other one is meant.
    let old_uuid = old.uuid.to_string();
    assert!(
        refused
            .stderr
            .contains(&format!("key clone {old_uuid} vm1")),
        "{refused:?}"
    );
    host.guard(&["key", "clone", "vm1", "vm1"]).ok();
    host.start_and_stop(&guest);
    assert_eq!(tpm_of(&host, &guest), ek);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn where_its_state_is_gone_too_nothing_is_promised() {
    let (host, old) = Host::with_used_guest();
    host.virsh(&["undefine", "vm1"]).ok();
    assert!(!host.has_tpm_state(&old), "libvirt kept it");
    let renewed = Guest {
        uuid: DomainUuid::random(),
        ..old.clone()
    };
    let guest = host.redefine_guest(renewed, Tpm::Encrypted(old.secret));
    let refused = host.start(&guest).refused_with("VG201");
    assert!(refused.stderr.contains("for a new guest: "), "{refused:?}");
    let refused = host.guard(&["key", "clone", &old.uuid.to_string(), "vm1"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("no TPM state"), "{refused:?}");
    host.guard(&["key", "bind", "vm1", "--provider", "nkp-a"])
        .ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_copied_with_its_tpm_is_told_whose_key_opens_it() {
    let (host, original) = Host::with_used_guest();
    let ek = tpm_of(&host, &original);
    let copy = host.define_guest("vm2", Tpm::Encrypted(SecretUuid::random()));
    let dir = |guest: &Guest| format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
    host.run(&["cp", "-a", &dir(&original), &dir(&copy)]).ok();
    let refused = host.start(&copy).refused_with("VG202");
    assert!(refused.stderr.contains("key clone vm1 vm2"), "{refused:?}");
    follow(&host, &refused);
    host.start_and_stop(&copy);
    assert_eq!(tpm_of(&host, &copy), ek);

    // Copied over the TPM of a guest that has a key.
    let other = host.define_bound_guest("vm3", "nkp-a");
    host.start_and_stop(&other);
    let own = host.tpm_state(&other);
    host.set_tpm_state(&other, &host.tpm_state(&original));
    let refused = host.start(&other).refused_with("VG204");
    follow(&host, &refused);
    host.start_and_stop(&other);
    assert_eq!(tpm_of(&host, &other), ek);
    // Its own key is retired, and named when its own state comes back.
    host.set_tpm_state(&other, &own);
    let refused = host.start(&other).refused_with("VG204");
    assert!(refused.stderr.contains("key use"), "{refused:?}");
    follow(&host, &refused);
    host.start_running(&other);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_retired_key_of_its_own_is_named() {
    let (host, guest) = Host::with_used_guest();
    let made = host.tpms_made(&guest);
    host.guard(&["key", "unbind", "vm1"]).ok();
    let refused = host.start(&guest).refused_with("VG202");
    follow(&host, &refused);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), made);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_that_only_a_backup_has_is_imported_into_a_store_that_is_in_order() {
    let (host, guest) = Host::with_used_guest();
    let made = host.tpms_made(&guest);
    host.guard(&["store", "backup", "/run/store.backup"]).ok();
    host.delete_key_refs(&guest);
    let refused = host.start(&guest).refused_with("VG202");
    assert!(!refused.stderr.contains("store restore"), "{refused:?}");
    assert!(
        refused.stderr.contains("key import vm1 --from BACKUP"),
        "{refused:?}"
    );
    host.guard(&["key", "import", "vm1", "--from", "/run/store.backup"])
        .ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), made);
}

/// Replaces a part of the guest's definition.
fn edit(host: &Host, guest: &Guest, from: &str, to: &str) {
    let xml = host
        .virsh(&["dumpxml", "--inactive", &guest.name])
        .ok()
        .stdout;
    let edited = xml.replace(from, to);
    assert_ne!(edited, xml);
    host.write("/run/edited.xml", edited);
    host.virsh(&["define", "/run/edited.xml"]).ok();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn another_tpm_version_in_the_xml_does_not_lose_the_tpm() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    edit(&host, &guest, "tpm-crb", "tpm-tis");
    edit(&host, &guest, "version='2.0'", "version='1.2'");
    let refused = host.start(&guest).refused_with("VG205");
    assert!(refused.stderr.contains("tpm2-00.permall"), "{refused:?}");
    let reset = host.guard(&["reset", "vm1"]);
    assert_eq!(reset.status, 1, "{reset:?}");
    assert!(reset.stderr.contains("tpm2-00.permall"), "{reset:?}");
    assert_eq!(host.tpm_state(&guest), state);
    edit(&host, &guest, "version='1.2'", "version='2.0'");
    host.start_and_stop(&guest);

    // Or a new TPM is meant: the state is moved away first.
    edit(&host, &guest, "version='2.0'", "version='1.2'");
    let file = host.tpm_state_file(&guest);
    fs::rename(&file, file.with_file_name("of-before")).unwrap();
    host.guard(&["reset", "vm1"]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_was_undefined_on_purpose_is_told_what_became_of_its_tpm() {
    let (host, guest) = Host::with_used_guest();
    host.virsh(&["undefine", "vm1"]).ok();
    let secret = guest.secret;
    let guest = host.redefine_guest(guest, Tpm::Encrypted(secret));
    let refused = host.start(&guest).refused_with("VG205");
    assert!(refused.stderr.contains("--keep-tpm"), "{refused:?}");
    follow(&host, &refused);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_renamed_guest_has_its_former_history() {
    let (host, guest) = Host::with_used_guest();
    host.virsh(&["domrename", "vm1", "web"]).ok();
    let told = host.guard(&["history", "web"]).ok();
    assert!(told.stdout.contains("vm1"), "{told:?}");
    assert!(
        told.stderr.contains("also listed: its other names vm1"),
        "{told:?}"
    );
    let shown = host.guard(&["key", "show", "web"]).ok();
    assert!(shown.stdout.contains("proven"), "{shown:?}");
    let renamed = Guest {
        name: "web".to_owned(),
        ..guest
    };
    host.start_running(&renamed);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn binding_says_what_libvirt_has_and_who_else_uses_it() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    let guest = host.define_guest("vm1", Tpm::Encrypted(secret));
    host.define_secret(secret, "vm1", Some("a value of somebody's"));
    let bind = ["key", "bind", "vm1", "--provider", "nkp-a"];
    let bound = host.guard(&bind).ok();
    let adopt = "vtpm-guard adopt vm1 --provider nkp-a";
    assert!(bound.stderr.contains(adopt), "{bound:?}");
    host.run(&["sh", "-c", adopt]).ok();
    host.start_and_stop(&guest);

    let other = host.define_guest("vm2", Tpm::Encrypted(secret));
    let bound = host
        .guard(&["key", "bind", "vm2", "--provider", "nkp-a"])
        .ok();
    assert!(bound.stderr.contains("vm1 names the secret"), "{bound:?}");
    for command in [&["check", "--all"][..], &["doctor"]] {
        let told = host.guard(command);
        let told = format!("{}{}", told.stdout, told.stderr);
        assert!(told.contains("vm1, vm2 name the libvirt secret"), "{told}");
    }
    host.redefine_guest(other, Tpm::Encrypted(SecretUuid::random()));
    let told = host.guard(&["check", "--all"]);
    assert!(!told.stderr.contains("name the libvirt secret"), "{told:?}");
    let unknown = DomainUuid::random().to_string();
    let bound = host
        .guard(&["key", "bind", &unknown, "--provider", "nkp-a"])
        .ok();
    assert!(bound.stderr.contains("libvirt does not know"), "{bound:?}");
}
