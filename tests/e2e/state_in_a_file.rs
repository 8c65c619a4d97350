//! `<source type='file'>`: a TPM state in swtpm's linear format. libvirt knows it since 10.10;
//! swtpm 0.7 cannot set one up, 0.10 can. `./dev e2e --suite forky` brings both.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::linear::read_permall;

use crate::guest::Guest;
use crate::host::{Host, Output, skipped};
use crate::state_trouble::wait_for;
use crate::tpm::{Identity, identity};

const STATE: &str = "/var/lib/tpms/vm1.state";

/// A host with a provider and a place for such states; `None` where there can be none.
fn host_with_such_states() -> Option<Host> {
    let host = Host::new();
    let (libvirt, swtpm) = (host.libvirt_version(), host.swtpm_version());
    if libvirt < (10, 10) || swtpm < (0, 10) {
        skipped("it needs libvirt 10.10 and swtpm 0.10");
        return None;
    }
    host.create_provider("nkp-a");
    // swtpm_setup removes the file and creates it again.
    host.run(&[
        "install",
        "-d",
        "-o",
        "tss",
        "-g",
        "tss",
        "-m",
        "0711",
        "/var/lib/tpms",
    ])
    .ok();
    Some(host)
}

fn guest() -> Guest {
    Guest {
        name: "vm1".to_owned(),
        uuid: DomainUuid::random(),
        secret: SecretUuid::random(),
    }
}

fn xml(guest: &Guest, encryption: &str) -> String {
    let (name, uuid) = (&guest.name, guest.uuid);
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>{encryption}\
         <source type='file' path='{STATE}'/></backend></tpm></devices></domain>"
    )
}

fn encryption(guest: &Guest) -> String {
    format!("<encryption secret='{}'/>", guest.secret)
}

fn define(host: &Host, guest: &Guest, encryption: &str) {
    host.write("/run/vm1.xml", xml(guest, encryption));
    host.virsh(&["define", "/run/vm1.xml"]).ok();
}

fn create(host: &Host, guest: &Guest) -> Output {
    host.write("/run/vm1.xml", xml(guest, &encryption(guest)));
    host.virsh(&["create", "/run/vm1.xml"])
}

fn file(host: &Host) -> Vec<u8> {
    fs::read(host.path(STATE)).unwrap()
}

/// The TPM in the file; `with_key` tells that the guest's key in use opens it.
fn tpm(host: &Host, guest: &Guest, with_key: bool) -> Identity {
    let state = fs::File::open(host.path(STATE)).unwrap();
    let state = read_permall(state).unwrap().unwrap();
    let rows = host.key_refs(guest).into_iter();
    let mut in_use = rows.filter(|row| row.retired_at.is_none());
    let dek = with_key.then(|| in_use.next().unwrap().dek(guest, &host.kek("nkp-a")));
    identity(&state, dek.as_ref().map(Dek::expose))
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_in_a_file_is_proven_and_missed() {
    let Some(host) = host_with_such_states() else {
        return;
    };
    let guest = guest();
    define(&host, &guest, &encryption(&guest));
    host.bind(&guest, "nkp-a");
    host.start_running(&guest);
    let running = host.guard(&["check", "vm1"]).ok();
    assert!(
        running.stdout.contains("the key opens the TPM state"),
        "{running:?}"
    );
    let in_use = host.guard(&["key", "renew", "vm1"]);
    assert_eq!(in_use.status, 1, "{in_use:?}");
    host.stop(&guest);
    let made = file(&host);

    // One wrong bit in the state, and the key does not open it.
    let mut foreign = made.clone();
    foreign[1000] ^= 1;
    fs::write(host.path(STATE), &foreign).unwrap();
    host.start(&guest).refused_with("VG204");
    fs::write(host.path(STATE), &made[..1000]).unwrap();
    host.start(&guest).refused_with("VG207");
    // Over another file swtpm would make a new, empty TPM.
    fs::write(host.path(STATE), b"another file").unwrap();
    host.start(&guest).refused_with("VG207");
    fs::remove_file(host.path(STATE)).unwrap();
    host.start(&guest).refused_with("VG205");

    fs::write(host.path(STATE), &made).unwrap();
    host.run(&["chown", "tss:tss", STATE]).ok();
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
    // A transient guest with the same file: libvirt deletes it with that guest, under the TPM that
    // runs, and the guard puts the very same file back.
    let inode = || fs::metadata(host.path(STATE)).map(|meta| meta.ino()).ok();
    let before = inode();
    let other = Guest {
        name: "vm2".to_owned(),
        ..self::guest()
    };
    create(&host, &other).refused_with("VG208");
    wait_for(|| inode() == before && !host.path("/var/lib/tpms/.vtpm-guard.vm1.state").exists());
    host.stop(&guest);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_in_a_file_is_encrypted_and_gets_new_keys_and_the_tpm_stays() {
    let Some(host) = host_with_such_states() else {
        return;
    };
    let guest = guest();
    define(&host, &guest, "");
    host.start_and_stop(&guest);
    let before = (
        tpm(&host, &guest, false),
        fs::metadata(host.path(STATE)).unwrap(),
    );
    let plain = file(&host);
    host.guard(&["encrypt", "vm1", "--provider", "nkp-a"]).ok();
    let kept = format!("/var/lib/vtpm-guard/plain-state/{}/vm1.state", guest.uuid);
    assert_eq!(fs::read(host.path(&kept)).unwrap(), plain);

    let mut renewed = 0;
    loop {
        assert_eq!(tpm(&host, &guest, true), before.0);
        let after = fs::metadata(host.path(STATE)).unwrap();
        let owner = |meta: &fs::Metadata| (meta.ino(), meta.uid(), meta.gid(), meta.mode());
        assert_eq!(owner(&after), owner(&before.1));
        // Nothing of the plain state is left in the file.
        let (file, old) = (file(&host), &plain[192..]);
        let mut blocks = old
            .chunks_exact(32)
            .filter(|block| block.iter().any(|&byte| byte != 0));
        assert!(!blocks.any(|block| file.windows(32).any(|found| found == block)));
        // swtpm writes its state into the file as it was left.
        host.start_and_stop(&guest);
        assert_eq!(tpm(&host, &guest, true), before.0);
        if renewed == 3 {
            break;
        }
        host.guard(&["key", "renew", "vm1"]).ok();
        renewed += 1;
    }
    assert_eq!(host.tpms_made(&guest), 1);
    assert!(!host.path(&kept).exists());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_keeps_its_state_in_a_file() {
    let Some(host) = host_with_such_states() else {
        return;
    };
    let guest = guest();
    let uuid = guest.uuid.to_string();
    host.guard(&["key", "bind", &uuid, "--provider", "nkp-a"])
        .ok();
    create(&host, &guest).ok();
    let state = file(&host);
    for _ in 0..2 {
        host.stop(&guest);
        create(&host, &guest).ok();
        assert_eq!(file(&host), state);
    }
    host.stop(&guest);
    // A start that is refused takes nothing away for good.
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    host.write("/run/vm1.xml", xml(&guest, ""));
    assert_eq!(host.virsh(&["create", "/run/vm1.xml"]).status, 1);
    create(&host, &guest).ok();
    assert_eq!(file(&host), state);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// A block device behind the path of the state, as long as this value lives.
struct BlockDevice(String);

impl BlockDevice {
    fn behind_the_state(host: &Host) -> Option<Self> {
        host.run(&["truncate", "--size=1M", "/run/disk"]).ok();
        let attached = host.run(&["losetup", "--find", "--show", "/run/disk"]);
        if attached.status != 0 {
            skipped("there are no loop devices here");
            return None;
        }
        let device = attached.stdout.trim().to_owned();
        let numbers = host.run(&["stat", "--format=%Hr %Lr", &device]).ok().stdout;
        let numbers: Vec<_> = numbers.split_whitespace().collect();
        // libvirt deletes the node with the guest: not that of this machine.
        host.run(&["mknod", STATE, "b", numbers[0], numbers[1]])
            .ok();
        host.run(&["chown", "tss:tss", STATE]).ok();
        Some(Self(device))
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        let mut detach = std::process::Command::new("losetup");
        let _ = detach.args(["-d", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_on_a_block_device_is_proven_and_never_rewritten() {
    let Some(host) = host_with_such_states() else {
        return;
    };
    let Some(_device) = BlockDevice::behind_the_state(&host) else {
        return;
    };
    let guest = guest();
    define(&host, &guest, &encryption(&guest));
    host.bind(&guest, "nkp-a");
    host.start_and_stop(&guest);
    let checked = host.guard(&["check", "vm1"]).ok();
    assert!(
        checked.stdout.contains("the key opens the TPM state"),
        "{checked:?}"
    );
    let before = (file(&host), host.key_refs(&guest));
    let refused = host.guard(&["key", "renew", "vm1"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("block device"), "{refused:?}");
    assert_eq!((file(&host), host.key_refs(&guest)), before);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_tpm_with_a_profile_is_encrypted_renewed_and_keeps_it() {
    let host = Host::new();
    if host.libvirt_version() < (10, 10) || host.swtpm_version() < (0, 10) {
        skipped("it needs libvirt 10.10 and swtpm 0.10");
        return;
    }
    host.create_provider("nkp-a");
    for profile in ["null", "default-v1"] {
        let guest = Guest {
            name: format!("with-{profile}"),
            ..guest()
        };
        let profile = format!("<profile source='{profile}'/>");
        let source = format!("<source type='file' path='{STATE}'/>");
        host.write("/run/vm1.xml", xml(&guest, "").replace(&source, &profile));
        host.virsh(&["define", "/run/vm1.xml"]).ok();
        host.start_and_stop(&guest);
        let xml = host.xml(&guest);
        let profile = |xml: &str| {
            let line = xml.lines().find(|line| line.contains("<profile "));
            line.map(str::to_owned)
        };
        let before = (profile(&xml), identity(&host.tpm_state(&guest), None));
        assert!(before.0.is_some(), "{xml}");
        host.guard(&["encrypt", &guest.name, "--provider", "nkp-a"])
            .ok();
        host.start_and_stop(&guest);
        host.guard(&["key", "renew", &guest.name]).ok();
        host.start_and_stop(&guest);
        let rows = host.key_refs(&guest).into_iter();
        let mut in_use = rows.filter(|row| row.retired_at.is_none());
        let dek = in_use.next().unwrap().dek(&guest, &host.kek("nkp-a"));
        let after = identity(&host.tpm_state(&guest), Some(dek.expose()));
        assert_eq!((profile(&host.xml(&guest)), after), before);
        assert_eq!(host.tpms_made(&guest), 1);
    }
}
