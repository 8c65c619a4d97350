//! Post-copy: the guest runs at the destination before its memory is there.

use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::host::{Host, skipped};
use crate::moves::prepared;
use crate::pair::{Pair, THERE};

/// Post-copy needs the kernel's userfaultfd, which `vm.unprivileged_userfaultfd = 0`, the default, leaves
/// to root.
const MAY_USE_USERFAULTFD: &str =
    "user = \"root\"\ngroup = \"root\"\nclear_emulator_capabilities = 0\n";

const DISK: &str = "/var/lib/libvirt/busy.img";

/// A boot sector that writes half a megabyte of memory over and over, so that there is always more to send.
const BUSY: [u8; 26] = [
    0xba, 0x00, 0x10, // mov dx, 0x1000
    0x8e, 0xc2, // mov es, dx
    0x31, 0xff, // xor di, di
    0xb9, 0x00, 0x80, // mov cx, 0x8000
    0x43, // inc bx
    0x89, 0xd8, // mov ax, bx
    0xfc, // cld
    0xf3, 0xab, // rep stosw
    0x80, 0xc6, 0x10, // add dh, 0x10
    0x80, 0xfe, 0x90, // cmp dh, 0x90
    0x72, 0xeb, // jb to: mov es, dx
    0xeb, 0xe6, // jmp to the beginning
];

impl Host {
    fn write_busy_disk(&self) {
        let mut disk = vec![0; 1 << 20];
        disk[..BUSY.len()].copy_from_slice(&BUSY);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        self.write(DISK, disk);
    }

    fn boot_busy_disk(&self, guest: &Guest) {
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{DISK}'/><target dev='vda' bus='virtio'/></disk></devices>"
        );
        let xml = self.virsh(&["dumpxml", "--inactive", &guest.name]).ok();
        self.write("/run/busy.xml", xml.stdout.replace("</devices>", &disk));
        self.virsh(&["define", "/run/busy.xml"]).ok();
        self.start_running(guest);
        let patience = Instant::now() + Duration::from_secs(60);
        let has_read = || {
            let counts = self.virsh(&["domblkstat", &guest.name, "vda"]).ok().stdout;
            !counts.contains("rd_req 0\n")
        };
        while !has_read() {
            assert!(Instant::now() < patience, "it does not boot");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Two hosts where post-copy is possible, and a guest here that boots the busy disk.
fn busy() -> (Pair, Guest) {
    let (pair, guest) = prepared();
    for host in [&pair.here, &pair.there] {
        host.configure_qemu(MAY_USE_USERFAULTFD);
        host.write_busy_disk();
    }
    pair.here.boot_busy_disk(&guest);
    (pair, guest)
}

/// As soon as it migrates, and not after the first pass: a guest that has little of the processor may have nothing
/// left to send then.
const SWITCH: &str =
    "exec timeout 60 sh -c 'until virsh migrate-postcopy vm1; do sleep 0.05; done' 2>/dev/null";

/// The disk is said to be a shared one.
const OPTIONS: [&str; 6] = [
    "--persistent",
    "--undefinesource",
    "--unsafe",
    "--postcopy",
    "--bandwidth",
    "1",
];

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_moves_by_post_copy_where_qemu_can() {
    let (pair, guest) = busy();
    let tpm = pair.here.tpm(&guest);
    let watch = "exec timeout 60 virsh event --event lifecycle --loop >/run/events";
    let mut watches = pair.here.command(&["sh", "-c", watch]).spawn().unwrap();
    let mut switches = pair.here.command(&["sh", "-c", SWITCH]).spawn().unwrap();
    let output = pair.here.migrate(&guest, THERE, &OPTIONS);
    for helper in [&mut watches, &mut switches] {
        helper.kill().unwrap();
        helper.wait().unwrap();
    }
    if output.stderr.contains("Postcopy is not supported") {
        pair.here.runs_with(&guest, &tpm);
        skipped(&format!("no post-copy here: {}", output.stderr.trim()));
        return;
    }
    output.ok();
    let events = pair.here.read("/run/events");
    assert!(events.contains("Suspended Post-copy"), "{events}");
    pair.there.runs_with(&guest, &tpm);
    pair.here.has_nothing_left_of(&guest);
}

/// libvirt's job is the migration still when its guest ends there, which has run with the TPM since.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_that_ends_in_the_post_copy_phase_has_its_tpm() {
    let (pair, guest) = busy();
    let tpm = pair.here.tpm(&guest);
    let mut switches = pair.here.command(&["sh", "-c", SWITCH]).spawn().unwrap();
    let slowly = [&OPTIONS[..], &["--postcopy-bandwidth", "1"]].concat();
    let output = std::thread::scope(|scope| {
        let migrates = scope.spawn(|| pair.here.migrate(&guest, THERE, &slowly));
        let is_between = || {
            let state = pair.there.virsh(&["domstate", "--reason", &guest.name]);
            state.stdout.contains("post-copy")
        };
        while !migrates.is_finished() && !is_between() {
            std::thread::sleep(Duration::from_millis(50));
        }
        if !migrates.is_finished() {
            pair.there.virsh(&["destroy", &guest.name]).ok();
        }
        migrates.join().unwrap()
    });
    switches.kill().unwrap();
    switches.wait().unwrap();
    if output.stderr.contains("Postcopy is not supported") {
        skipped(&format!("no post-copy here: {}", output.stderr.trim()));
        return;
    }
    assert_ne!(output.status, 0, "it was over before it ended: {output:?}");
    eprintln!("{}", output.stderr.trim());
    assert!(pair.there.has_tpm_state(&guest), "the TPM is gone");
    pair.there.virsh(&["start", &guest.name]).ok();
    pair.there.runs_with(&guest, &tpm);
}
