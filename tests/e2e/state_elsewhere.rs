//! `<source type='dir'>`: a TPM state that the XML puts somewhere else. libvirt knows it since
//! 10.10; `./dev e2e --suite trixie` brings one that does.

use std::fs;

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::Guest;
use crate::host::{Host, skipped};

const STATE_DIR: &str = "/var/lib/tpms/vm1";

/// Defines a bound guest whose TPM state lies in [`STATE_DIR`]. `None`: this libvirt is too old
/// and takes no notice of the place.
fn guest_with_state_elsewhere(host: &Host) -> Option<Guest> {
    let guest = Guest {
        name: "vm1".to_owned(),
        uuid: DomainUuid::random(),
        secret: SecretUuid::random(),
    };
    let (uuid, secret) = (guest.uuid, guest.secret);
    host.write(
        "/run/vm1.xml",
        format!(
            "<domain type='qemu'><name>vm1</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
             <encryption secret='{secret}'/><source type='dir' path='{STATE_DIR}'/>\
             </backend></tpm></devices></domain>"
        ),
    );
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    host.bind(&guest, "nkp-a");
    let known = host.xml(&guest).contains(STATE_DIR);
    assert_eq!(known, host.libvirt_version() >= (10, 10));
    if !known {
        skipped("libvirt before 10.10 does not know <source>");
    }
    known.then_some(guest)
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_in_a_directory_of_its_own_is_proven_and_missed() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let Some(guest) = guest_with_state_elsewhere(&host) else {
        return;
    };
    host.start_and_stop(&guest);
    assert!(
        !host.has_tpm_state(&guest),
        "it is in libvirt's own directory"
    );
    let state = host.path(&format!("{STATE_DIR}/tpm2-00.permall"));
    let made = fs::read(&state).unwrap();

    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);

    // One wrong bit, and the key does not open it.
    let mut foreign = made.clone();
    let last = foreign.len() - 1;
    foreign[last] ^= 1;
    fs::write(&state, &foreign).unwrap();
    host.start(&guest).refused_with("VG204");
    fs::remove_file(&state).unwrap();
    host.start(&guest).refused_with("VG205");

    fs::write(&state, &made).unwrap();
    host.run(&[
        "chown",
        "--reference",
        STATE_DIR,
        &format!("{STATE_DIR}/tpm2-00.permall"),
    ])
    .ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_that_the_xml_names_no_more_is_named() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let Some(guest) = guest_with_state_elsewhere(&host) else {
        return;
    };
    host.start_and_stop(&guest);
    let xml = host.virsh(&["dumpxml", "--inactive", "vm1"]).ok().stdout;
    let without: String = xml
        .lines()
        .filter(|line| !line.contains("<source type='dir'"))
        .fold(String::new(), |xml, line| xml + line + "\n");
    assert_ne!(without, xml);
    host.write("/run/without.xml", without);
    host.write("/run/with.xml", xml);
    host.virsh(&["define", "/run/without.xml"]).ok();
    let refused = host.start(&guest).refused_with("VG205");
    assert!(refused.stderr.contains(STATE_DIR), "{refused:?}");
    assert!(!host.has_tpm_state(&guest), "libvirt made a new TPM");
    let shown = host.guard(&["key", "show", "vm1"]).ok();
    assert!(shown.stdout.contains("proven"), "{shown:?}");
    assert_eq!(host.guard(&["reset", "vm1"]).status, 1);
    host.virsh(&["define", "/run/with.xml"]).ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}
