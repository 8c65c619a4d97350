//! Post-copy: the guest runs at the destination before its memory is there.

use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::host::{Host, Output, skipped};
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

/// Done beside a migration, on the host where the guest arrives: ends it as soon as it is in the post-copy phase.
const END: &str = "exec timeout 60 sh -c 'until virsh domstate --reason vm1 | grep -q post-copy; do sleep 0.02; done; \
                   virsh destroy vm1' >/dev/null 2>&1";

/// Migrates it, while these scripts run on the hosts.
fn migrate_beside(
    pair: &Pair,
    guest: &Guest,
    options: &[&str],
    scripts: &[(&Host, &str)],
) -> Output {
    let start = |(host, script): &(&Host, &str)| host.command(&["sh", "-c", script]).spawn();
    let mut helpers: Vec<_> = scripts.iter().map(start).map(Result::unwrap).collect();
    let output = pair.here.migrate(guest, THERE, options);
    for helper in &mut helpers {
        helper.kill().unwrap();
        helper.wait().unwrap();
    }
    output
}

/// How often it is tried: on a busy machine, a migration may be over before anybody has switched to post-copy.
const TRIES: usize = 3;

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_moves_by_post_copy_where_qemu_can() {
    for _ in 0..TRIES {
        let (pair, guest) = busy();
        let tpm = pair.here.tpm(&guest);
        let watch = "exec timeout 60 virsh event --event lifecycle --loop >/run/events";
        let scripts = [(&pair.here, watch), (&pair.here, SWITCH)];
        let output = migrate_beside(&pair, &guest, &OPTIONS, &scripts);
        if output.stderr.contains("Postcopy is not supported") {
            pair.here.runs_with(&guest, &tpm);
            skipped(&format!("no post-copy here: {}", output.stderr.trim()));
            return;
        }
        output.ok();
        let events = pair.here.read("/run/events");
        pair.there.runs_with(&guest, &tpm);
        pair.here.has_nothing_left_of(&guest);
        if events.contains("Suspended Post-copy") {
            return;
        }
        eprintln!("not by post-copy: {events}");
    }
    panic!("it was over before, each time");
}

/// libvirt's job is the migration still when its guest ends there, which has run with the TPM since.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_that_ends_in_the_post_copy_phase_has_its_tpm() {
    let slowly = [&OPTIONS[..], &["--postcopy-bandwidth", "1"]].concat();
    for _ in 0..TRIES {
        let (pair, guest) = busy();
        let tpm = pair.here.tpm(&guest);
        let scripts = [(&pair.here, SWITCH), (&pair.there, END)];
        let output = migrate_beside(&pair, &guest, &slowly, &scripts);
        if output.stderr.contains("Postcopy is not supported") {
            skipped(&format!("no post-copy here: {}", output.stderr.trim()));
            return;
        }
        if output.status == 0 {
            eprintln!("it was over before it ended");
            continue;
        }
        eprintln!("{}", output.stderr.trim());
        assert!(pair.there.has_tpm_state(&guest), "the TPM is gone");
        pair.there.virsh(&["start", &guest.name]).ok();
        pair.there.runs_with(&guest, &tpm);
        return;
    }
    panic!("it was over before it ended, each time");
}
