//! Live migrations of guests whose TPM states are in a directory that both hosts share: one that libvirt
//! does not know to be shared, and one that it does.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::clusters::STATES;
use crate::guest::Guest;
use crate::host::{Host, Output, skipped};
use crate::moves::{PATIENCE, WAYS, prepared};
use crate::pair::{HERE, Pair, THERE};
use crate::state_trouble::wait_for_long;
use crate::tpm::Identity;

/// libvirt asks a file system's type whether it is shared; of FUSE it knows `GlusterFS` by this name.
const AS_GLUSTERFS: &str = "subtype=glusterfs,allow_other";

/// A directory that two hosts share, and that libvirt may know to be shared.
struct Shared {
    files: TempDir,
    /// Where the files are seen through FUSE.
    mount: Option<TempDir>,
}

impl Shared {
    fn unknown_to_libvirt() -> Self {
        Self {
            files: tempfile::tempdir().unwrap(),
            mount: None,
        }
    }

    /// Before the hosts are up, which see what is mounted then. None where FUSE or `bindfs` is missing.
    fn as_glusterfs() -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let mount = tempfile::tempdir().unwrap();
        let mounted = Command::new("bindfs")
            .args(["-o", AS_GLUSTERFS])
            .args([files.path(), mount.path()])
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self {
            files,
            mount: Some(mount),
        })
    }

    fn path(&self) -> &Path {
        self.mount.as_ref().unwrap_or(&self.files).path()
    }

    /// Both hosts have the states of the first here from now on.
    fn hold_states(&self, pair: &Pair, guest: &Guest) {
        let state = pair.here.tpm_state_file(guest);
        let directory = state.parent().unwrap().parent().unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .args([directory, self.path()])
            .status();
        assert!(copied.unwrap().success());
        for host in [&pair.here, &pair.there] {
            host.share_states(self.path());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(mount) = &self.mount {
            let unmounted = Command::new("umount").arg("-l").arg(mount.path()).status();
            assert!(unmounted.unwrap().success());
        }
    }
}

/// The destination's swtpm finds the lock held, and libvirt then deletes the TPM state that the guest is
/// running with, also one that is to persist.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_move_over_a_shared_directory_costs_no_tpm_state() {
    for (is_transient, persists) in [(false, false), (true, false), (true, true)] {
        let (pair, guest) = prepared();
        let shared = Shared::unknown_to_libvirt();
        shared.hold_states(&pair, &guest);
        if persists {
            let xml = pair.here.xml(&guest);
            let persistent = "type='emulator' persistent_state='yes'";
            let xml = xml.replacen("type='emulator'", persistent, 1);
            pair.here.write("/run/persistent.xml", xml);
            pair.here.virsh(&["define", "/run/persistent.xml"]).ok();
        }
        if is_transient {
            pair.here.make_transient(&guest);
        } else {
            pair.here.start_running(&guest);
        }
        let tpm = pair.here.tpm(&guest);
        let output = pair.here.migrate(&guest, THERE, &[]);
        let (now, other) = if output.status == 0 {
            (&pair.there, &pair.here)
        } else {
            (&pair.here, &pair.there)
        };
        let message = output.stderr.trim();
        eprintln!("transient {is_transient}, to persist {persists}: {message}");
        wait_for_long(PATIENCE, || !other.is_running(&guest));
        // What libvirt has deleted is put back once it is done.
        wait_for_long(Duration::from_secs(20), || now.has_tpm_state(&guest));
        now.runs_with(&guest, &tpm);
        // It goes on being written there: the next start has it.
        let saved = now.tpm_state(&guest);
        sleep(Duration::from_millis(500));
        assert!(now.tpm_state(&guest) == saved);
        assert!(!now.has_secret(guest.secret) && !other.has_secret(guest.secret));
    }
}

/// Two hosts, of which libvirt knows that they share the directory of TPM states: by the file system's type,
/// or because its configuration says so, of which libvirt 9.0 knows nothing.
fn knowing() -> Option<(Pair, Guest, Shared)> {
    let shared = Shared::as_glusterfs();
    let (pair, guest) = prepared();
    if let Some(shared) = shared {
        shared.hold_states(&pair, &guest);
        return Some((pair, guest, shared));
    }
    if pair.here.libvirt_version() < (11, 3) {
        return None;
    }
    let shared = Shared::unknown_to_libvirt();
    shared.hold_states(&pair, &guest);
    for host in [&pair.here, &pair.there] {
        host.configure_qemu(&format!("shared_filesystems = [ \"{STATES}\" ]\n"));
    }
    Some((pair, guest, shared))
}

/// The destination's swtpm waits some seconds for the lock, which on a busy machine (load 12 on two cores) has
/// not always been enough.
fn swtpm_was_slow(migration: &Output) -> bool {
    migration.stderr.contains("failed with a TPM error 0x1f")
}

impl Host {
    /// Migrates the guest. It costs nothing if that fails; then it is tried again.
    #[track_caller]
    fn hand_over(&self, guest: &Guest, to: &str, options: &[&str], tpm: &Identity) {
        for _ in 0..3 {
            let output = self.migrate(guest, to, options);
            if !swtpm_was_slow(&output) {
                output.ok();
                return;
            }
            self.runs_with(guest, tpm);
        }
        panic!("swtpm did not hand the state over");
    }

    /// The guest has moved from here to there, and its state is where it was.
    #[track_caller]
    fn has_given(&self, there: &Host, guest: &Guest, tpm: &Identity) {
        there.runs_with(guest, tpm);
        self.has_forgotten_move_of(guest);
        assert!(!self.is_running(guest));
        assert!(!there.has_secret(guest.secret));
    }
}

/// libvirt hands the state over from swtpm to swtpm, which takes swtpm 0.8: no TPM is made, and none is
/// deleted. With an older one libvirt refuses to migrate.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_moves_over_a_directory_that_libvirt_knows_to_be_shared() {
    for way in WAYS {
        let Some((pair, guest, _shared)) = knowing() else {
            skipped("no FUSE, and a libvirt that cannot be told what is shared");
            return;
        };
        if way.is_transient {
            pair.here.make_transient(&guest);
        } else {
            pair.here.start_running(&guest);
        }
        let tpm = pair.here.tpm(&guest);
        let made = [&pair.here, &pair.there].map(|host| host.tpms_made(&guest));
        let output = pair.here.migrate(&guest, THERE, way.options);
        eprintln!("{:<42} {}", way.name, output.stderr.trim());
        if pair.here.swtpm_version() < (0, 8) {
            assert!(output.stderr.contains("shared storage"), "{output:?}");
            pair.here.runs_with(&guest, &tpm);
            pair.there.has_forgotten_move_of(&guest);
            continue;
        }
        if swtpm_was_slow(&output) {
            pair.here.runs_with(&guest, &tpm);
            pair.here.hand_over(&guest, THERE, way.options, &tpm);
        } else {
            output.ok();
        }
        pair.here.has_given(&pair.there, &guest, &tpm);
        // A migration that fails there deletes nothing.
        pair.here.delete_provider("nkp-a");
        let refused = pair.there.migrate(&guest, HERE, way.options);
        assert!(refused.stderr.contains("VG101"), "{refused:?}");
        pair.there.runs_with(&guest, &tpm);
        pair.here.import_provider("nkp-a", None);
        pair.there.hand_over(&guest, HERE, way.options, &tpm);
        pair.there.has_given(&pair.here, &guest, &tpm);
        // Nothing takes the state away from under it later either.
        sleep(Duration::from_secs(1));
        pair.here.runs_with(&guest, &tpm);
        assert_eq!(
            [&pair.here, &pair.there].map(|host| host.tpms_made(&guest)),
            made
        );
    }
}
