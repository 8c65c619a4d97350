//! docs/recovery.md, played word for word: after each loss its commands bring the guest back.

use std::fs;
use std::path::Path;

use vtpm_guard::internals::ids::DomainUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;
use crate::page;

const BACKUP: &str = "/mnt/backup";

fn commands_under(heading: &str) -> String {
    page::blocks("recovery.md", heading).concat()
}

/// A host with a guest that has run, everything backed up as the page says.
fn backed_up() -> (Host, Guest) {
    let (host, guest) = Host::with_used_guest();
    host.attach_backup_disk();
    host.play(&commands_under("What to back up")).ok();
    (host, guest)
}

/// Takes what `backed_up` backed up to another host.
fn copy_backup(from: &Host, to: &Host) {
    for file in [
        "passphrase",
        "nkp-a.recovery",
        "store.backup",
        "vm1.xml",
        "vm1-tpm.tar",
    ] {
        let path = format!("{BACKUP}/{file}");
        to.write(&path, fs::read(from.path(&path)).unwrap());
    }
}

#[track_caller]
fn refused(host: &Host, guest: &Guest, code: &str) {
    host.start(guest).refused_with(code);
}

/// The section brings the guest back with the TPM that it had.
#[track_caller]
fn brings_back(host: &Host, guest: &Guest, heading: &str) {
    let made = host.tpms_made(guest);
    host.play(&commands_under(heading)).ok();
    assert_eq!(host.state(guest), "running");
    assert_eq!(host.tpms_made(guest), made, "libvirt made a new TPM");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_provider_is_lost() {
    let (host, guest) = backed_up();
    host.delete_provider("nkp-a");
    refused(&host, &guest, "VG101");
    brings_back(&host, &guest, "A provider is lost");
    host.stop(&guest);

    let (_, key_id) = host.provider("nkp-a");
    host.write(&format!("/var/lib/vtpm-guard/keys/{key_id}"), "overwritten");
    refused(&host, &guest, "VG104");
    let import = commands_under("A provider is lost");
    let import = import.lines().next().unwrap();
    host.run(&["sh", "-c", import]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_host_is_lost() {
    let (lost, guest) = backed_up();
    let host = Host::new();
    host.attach_backup_disk();
    copy_backup(&lost, &host);
    drop(lost);
    brings_back(&host, &guest, "The host is lost");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_store_is_lost() {
    let (host, guest) = backed_up();
    let state_dir = Path::new("/var/lib/vtpm-guard");
    for file in ["store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(host.path(state_dir.join(file).to_str().unwrap()));
    }
    host.write("/var/lib/vtpm-guard/store.db", [7_u8; 8192]);
    refused(&host, &guest, "VG402");
    brings_back(&host, &guest, "The store is lost");
    host.stop(&guest);

    host.run(&["sh", "-c", "rm /var/lib/vtpm-guard/store.db*"])
        .ok();
    refused(&host, &guest, "VG202");
    brings_back(&host, &guest, "The store is lost");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_key_does_not_open_the_tpm() {
    let (host, guest) = backed_up();
    let right = host.only_key_ref(&guest);
    assert_eq!(right.id, 1, "the page names it");
    // A second key, made for a state that an administrator has since replaced by the first one.
    let state = host.tpm_state(&guest);
    host.guard(&["key", "unbind", &guest.name]).ok();
    host.bind(&guest, "nkp-a");
    host.remove_tpm_state(&guest);
    host.start_and_stop(&guest);
    host.set_tpm_state(&guest, &state);
    refused(&host, &guest, "VG204");
    brings_back(&host, &guest, "The key does not open the TPM");
}

/// The guest as a restore brings it back: its name, its secret, and a new UUID.
fn under_a_new_uuid(guest: &Guest) -> Guest {
    Guest {
        uuid: DomainUuid::random(),
        ..guest.clone()
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_comes_back_under_a_new_uuid() {
    let (host, guest) = backed_up();
    let tpm = host.tpm_state(&guest);
    // libvirt deletes the TPM's state.
    host.virsh(&["undefine", "vm1"]).ok();
    let guest = host.redefine_guest(under_a_new_uuid(&guest), Tpm::Encrypted(guest.secret));
    refused(&host, &guest, "VG201");
    brings_back(&host, &guest, "A guest comes back under a new UUID");
    host.stop(&guest);
    assert_eq!(host.tpm_state(&guest), tpm, "its TPM");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_comes_back_under_a_new_uuid_on_another_host() {
    let (first, guest) = backed_up();
    let host = Host::new();
    host.attach_backup_disk();
    copy_backup(&first, &host);
    drop(first);
    let guest = host.redefine_guest(under_a_new_uuid(&guest), Tpm::Encrypted(guest.secret));
    refused(&host, &guest, "VG201");
    brings_back(
        &host,
        &guest,
        "A guest comes back under a new UUID on another host",
    );
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_tpm_s_state_is_damaged() {
    let (host, guest) = backed_up();
    host.set_tpm_state(&guest, b"damaged");
    refused(&host, &guest, "VG207");
    brings_back(&host, &guest, "The TPM's state is damaged");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_tpm_s_state_is_behind_a_link() {
    let (host, guest) = backed_up();
    let state = format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
    host.run(&["mv", &state, "/var/lib/libvirt/moved"]).ok();
    host.run(&["ln", "-s", "/var/lib/libvirt/moved", &state])
        .ok();
    let words = host.start(&guest).refused_with("VG207").stderr;
    assert!(words.contains("is not read through a link"), "{words}");
    assert!(!words.contains("swtpm would reject"), "{words}");
    assert!(words.contains("bind-mounted"), "{words}");
    brings_back(&host, &guest, "The TPM's state is behind a link");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_tpm_s_state_is_out_of_reach() {
    let (host, guest) = backed_up();
    host.run(&["chmod", "0700", "/var/lib/libvirt/swtpm"]).ok();
    refused(&host, &guest, "VG209");
    brings_back(&host, &guest, "The TPM's state is in use, or out of reach");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_tpm_s_state_is_lost() {
    let (host, guest) = backed_up();
    host.remove_tpm_state(&guest);
    refused(&host, &guest, "VG205");
    brings_back(&host, &guest, "The TPM's state is lost");
    host.stop(&guest);

    host.remove_tpm_state(&guest);
    refused(&host, &guest, "VG205");
    let made = host.tpms_made(&guest);
    host.play(&commands_under("There is no backup of the TPM"))
        .ok();
    assert_eq!(host.state(&guest), "running");
    assert_eq!(host.tpms_made(&guest), made + 1);
}
