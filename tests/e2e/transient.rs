//! Transient guests (`virsh create`), whose TPM state libvirt deletes when their start fails
//! and when they stop: the guard keeps it.

use std::fs;
use std::path::PathBuf;

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::Guest;
use crate::host::{Host, Output};
use crate::state_trouble::wait_for;

/// A device that QEMU does not know.
const FAILS_IN_QEMU: &str = "<qemu:commandline><qemu:arg value='-no-such-option'/>\
                             </qemu:commandline>";

impl Host {
    /// A provider `nkp-a`, exported, and a transient guest `vm1` bound to it, not started yet.
    pub(crate) fn with_transient_guest() -> (Self, Guest) {
        let host = Self::new();
        host.create_provider("nkp-a");
        let guest = Guest {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            secret: SecretUuid::random(),
        };
        let uuid = guest.uuid.to_string();
        host.guard(&["key", "bind", &uuid, "--provider", "nkp-a"])
            .ok();
        (host, guest)
    }

    /// The same, and it has run once, and its state lies in libvirt's place: as where a host
    /// went down with its guests.
    pub(crate) fn with_transient_state() -> (Self, Guest, Vec<u8>) {
        let (host, guest) = Self::with_transient_guest();
        host.create_running(&guest);
        let state = host.tpm_state(&guest);
        host.stop(&guest);
        host.guard(&["state", "restore", &guest.uuid.to_string()])
            .ok();
        assert!(host.tpm_state(&guest) == state);
        for copy in host.copies(&guest) {
            fs::remove_file(copy).unwrap();
        }
        (host, guest, state)
    }

    pub(crate) fn create(&self, guest: &Guest) -> Output {
        self.create_with(guest, "")
    }

    /// Starts a transient guest with this at the end of its XML.
    fn create_with(&self, guest: &Guest, more: &str) -> Output {
        self.write("/run/transient.xml", xml(guest, "", more));
        self.virsh(&["create", "/run/transient.xml"])
    }

    #[track_caller]
    pub(crate) fn create_running(&self, guest: &Guest) {
        self.create(guest).ok();
        assert_eq!(self.state(guest), "running");
    }

    /// A start that fails in QEMU. libvirt deletes the state then, and the guard puts it back.
    #[track_caller]
    fn fail_in_qemu(&self, guest: &Guest) {
        let (had_state, had_copy) = (self.has_tpm_state(guest), !self.copies(guest).is_empty());
        let failed = self.create_with(guest, FAILS_IN_QEMU);
        assert_eq!(failed.status, 1, "{failed:#?}");
        // QEMU's own words, or libvirt's where it was too fast for them.
        let words = ["no-such-option", "closed the monitor"];
        let is_qemus = words.iter().any(|words| failed.stderr.contains(words));
        assert!(is_qemus, "{failed:#?}");
        // Or it was restored for this start.
        if had_state || had_copy {
            self.has_state_again(guest);
        } else {
            assert!(!self.has_tpm_state(guest));
        }
    }

    /// What libvirt has deleted after a start that failed is back, and needs no copy.
    #[track_caller]
    pub(crate) fn has_state_again(&self, guest: &Guest) {
        wait_for(|| self.has_tpm_state(guest) && self.copies(guest).is_empty());
    }

    /// A run, after which there is only a copy of the state.
    #[track_caller]
    fn run_and_stop(&self, guest: &Guest) {
        self.create_running(guest);
        self.stop(guest);
        assert!(!self.has_tpm_state(guest), "libvirt deletes it");
        assert_eq!(self.copies(guest).len(), 1);
    }

    /// The manifests of the guest's copies.
    pub(crate) fn copies(&self, guest: &Guest) -> Vec<PathBuf> {
        let directory = format!("/var/lib/vtpm-guard/tpm-state/{}", guest.uuid);
        let Ok(entries) = fs::read_dir(self.path(&directory)) else {
            return Vec::new();
        };
        let files = entries.map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .filter(|path| !path.ends_with("run.json"))
            .collect()
    }
}

/// The XML of a guest, with more attributes for its TPM's backend, and more at the end.
fn xml(guest: &Guest, backend: &str, more: &str) -> String {
    let Guest { name, uuid, secret } = guest;
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0' {backend}>\
         <encryption secret='{secret}'/></backend></tpm></devices>{more}</domain>"
    )
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_that_is_unbound_while_it_runs_keeps_its_tpm() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    let (state, key_ref) = (host.tpm_state(&guest), host.only_key_ref(&guest));
    let uuid = guest.uuid.to_string();
    host.guard(&["key", "unbind", &uuid]).ok();
    host.stop(&guest);
    assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
    assert_eq!(host.copies(&guest).len(), 1);
    // What `key unbind` advises, and the next start.
    host.guard(&["key", "use", &key_ref.id.to_string()]).ok();
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    host.stop(&guest);

    // Nor does it lose it with a store from before its key.
    host.create_running(&guest);
    host.delete_key_refs(&guest);
    host.stop(&guest);
    assert_eq!(host.copies(&guest).len(), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_gets_its_state_back_at_every_start() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    assert_eq!(host.copies(&guest).len(), 0);
    let state = host.tpm_state(&guest);
    for _ in 0..2 {
        host.stop(&guest);
        assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
        assert_eq!(host.copies(&guest).len(), 1);
        host.create_running(&guest);
        assert!(host.tpm_state(&guest) == state);
        assert_eq!(host.copies(&guest).len(), 0);
    }
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_that_fails_in_qemu_costs_no_state() {
    let (host, guest, state) = Host::with_transient_state();
    for _ in 0..2 {
        host.fail_in_qemu(&guest);
    }
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_refusal_costs_no_state() {
    let (host, guest, state) = Host::with_transient_state();
    host.delete_provider("nkp-a");
    for _ in 0..2 {
        host.create(&guest).refused_with("VG101");
        host.has_state_again(&guest);
    }
    host.import_provider("nkp-a", None);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_killed_hook_costs_no_state() {
    let (host, guest, state) = Host::with_transient_state();
    host.write_program(
        "/etc/libvirt/hooks/qemu.d/50-vtpm-guard",
        "#!/bin/sh\n\
         if [ \"$2\" = prepare ] && [ -e /run/kill-the-hook ]; then\n\
             exec 3<&0\n\
             /usr/sbin/vtpm-guard-hook \"$@\" <&3 & hook=$!\n\
             sleep 1; kill -KILL $hook; exit 137\n\
         fi\n\
         exec /usr/sbin/vtpm-guard-hook \"$@\"\n",
    );
    // The helper that speaks with libvirt hangs, which leaves time for the kill.
    host.write_program("/run/hangs", "#!/bin/sh\nexec sleep 4\n");
    host.write("/run/kill-the-hook", "");
    host.run(&[
        "mount",
        "--bind",
        "/run/hangs",
        "/usr/sbin/vtpm-guard-libvirt",
    ])
    .ok();
    for _ in 0..2 {
        assert_eq!(host.create(&guest).status, 1);
        host.has_state_again(&guest);
    }
    host.run(&["umount", "/usr/sbin/vtpm-guard-libvirt"]).ok();
    fs::remove_file(host.path("/run/kill-the-hook")).unwrap();
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn failures_of_every_kind_in_a_row_cost_no_state() {
    let (host, guest, state) = Host::with_transient_state();
    host.fail_in_qemu(&guest);
    host.delete_provider("nkp-a");
    host.create(&guest).refused_with("VG101");
    host.has_state_again(&guest);
    host.import_provider("nkp-a", None);
    host.fail_in_qemu(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    host.stop(&guest);
    host.fail_in_qemu(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn owner_and_modes_come_back_with_the_state() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    let stat = |host: &Host| {
        let dir = format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
        let state = format!("{dir}/tpm2/tpm2-00.permall");
        let paths = [
            "/var/lib/libvirt/swtpm",
            &dir,
            &format!("{dir}/tpm2"),
            &state,
        ];
        host.run(&[&["stat", "-c", "%n %u:%g %a"], &paths[..]].concat())
            .ok()
            .stdout
    };
    let before = stat(&host);
    host.stop(&guest);
    let uuid = guest.uuid.to_string();
    host.guard(&["state", "restore", &uuid]).ok();
    assert_eq!(stat(&host), before);
    // As on a host on which no vTPM has run yet.
    host.run(&["rm", "-rf", "/var/lib/libvirt/swtpm"]).ok();
    host.guard(&["state", "restore", "vm1"]).ok();
    assert_eq!(stat(&host), before);
    let again = host.guard(&["--json", "state", "restore", "vm1"]).ok();
    assert!(again.stdout.contains("\"changed\": false"), "{again:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_fresh_policy_gives_each_run_a_new_tpm_and_a_failed_start_its_old_one() {
    let (host, guest, state) = Host::with_transient_state();
    host.configure("[policy]\ntransient_state = \"fresh\"\n");
    host.fail_in_qemu(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state, "a failed start is no end");

    host.stop(&guest);
    assert_eq!(host.copies(&guest).len(), 0);
    // A failure in between changes nothing of it.
    host.fail_in_qemu(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) != state);
    let key = host.only_key_ref(&guest);
    assert!(key.wrapped_dek.is_some() && key.retired_at.is_none());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_that_the_key_does_not_open_replaces_no_copy_that_it_opens() {
    let (host, guest, state) = Host::with_transient_state();
    host.run_and_stop(&guest);
    let foreign = {
        let other = host.define_bound_guest("vm2", "nkp-a");
        host.start_and_stop(&other);
        host.tpm_state(&other)
    };
    host.guard(&["state", "restore", "vm1"]).ok();
    let place = format!("/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall", guest.uuid);
    fs::write(host.path(&place), &foreign).unwrap();
    host.create(&guest).refused_with("VG204");
    // Both are there as before: who is right, nobody knows but the administrator.
    wait_for(|| host.has_tpm_state(&guest) && host.copies(&guest).len() == 1);
    assert!(host.tpm_state(&guest) == foreign);
    let list = host.guard(&["state", "list"]).ok().stdout;
    assert!(list.contains("vm1"), "{list}");
    host.remove_tpm_state(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_damaged_copy_is_not_put_back_and_the_start_is_refused() {
    let (host, guest, _) = Host::with_transient_state();
    host.run_and_stop(&guest);
    let [manifest] = &host.copies(&guest)[..] else {
        panic!("one copy")
    };
    let bytes = manifest.with_extension("state");
    let mut damaged = fs::read(&bytes).unwrap();
    damaged[100] ^= 1;
    fs::write(&bytes, &damaged).unwrap();
    host.create(&guest).refused_with("VG205");
    let list = host.guard(&["state", "list"]).ok();
    assert!(list.stderr.contains("damaged"), "{list:#?}");
    // It is root's to mend.
    damaged[100] ^= 1;
    fs::write(&bytes, &damaged).unwrap();
    host.create_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_copy_that_cannot_be_put_back_refuses_the_start() {
    let (host, guest, state) = Host::with_transient_state();
    host.run_and_stop(&guest);
    let full = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "mode=0711,nr_inodes=1",
        "full",
    ];
    let states = "/var/lib/libvirt/swtpm";
    host.run(&[&full[..], &[states]].concat()).ok();
    let refused = host.create(&guest).refused_with("VG205");
    let words = "could not be restored";
    assert!(refused.stderr.contains(words), "{refused:#?}");
    host.run(&["umount", states]).ok();
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_full_disk_stops_no_healthy_start() {
    let (host, guest, state) = Host::with_transient_state();
    let place = "/var/lib/vtpm-guard/tpm-state";
    host.run(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=4k,mode=0700",
        "full",
        place,
    ])
    .ok();
    let fill = format!("head -c 1M /dev/zero >{place}/filler; true");
    host.run(&["sh", "-c", &fill]).ok();
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    let log = host.read("/var/log/vtpm-guard.log");
    assert!(log.contains("no copy of the TPM state was saved"), "{log}");
    // No half of a copy is left behind.
    assert_eq!(host.copies(&guest).len(), 0);
    host.stop(&guest);
    assert_eq!(host.copies(&guest).len(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn reset_sets_the_copy_aside_for_a_new_tpm() {
    let (host, guest, state) = Host::with_transient_state();
    host.run_and_stop(&guest);
    host.guard(&["reset", "vm1"]).ok();
    let list = host.guard(&["state", "list"]).ok().stdout;
    assert!(list.contains("set aside"), "{list}");
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) != state);
    assert_eq!(host.copies(&guest).len(), 1, "it is still there");
    // The next end keeps the new one.
    let new = host.tpm_state(&guest);
    host.stop(&guest);
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == new);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_copy_is_not_put_back_under_a_running_guest_nor_over_a_state() {
    let (host, guest, _) = Host::with_transient_state();
    host.run_and_stop(&guest);
    host.guard(&["state", "restore", "vm1"]).ok();
    let place = format!("/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall", guest.uuid);
    fs::write(host.path(&place), "something else").unwrap();
    let refused = host.guard(&["state", "restore", "vm1"]);
    assert_eq!(refused.status, 1, "{refused:#?}");
    assert_eq!(host.read(&place), "something else");

    fs::remove_file(host.path(&place)).unwrap();
    host.create_running(&guest);
    host.stop(&guest);
    host.guard(&["state", "restore", "vm1"]).ok();
    host.create_running(&guest);
    let nothing_kept = host.guard(&["state", "restore", "vm1"]);
    assert_eq!(nothing_kept.status, 2, "{nothing_kept:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn persistent_guests_and_persistent_state_are_not_copied() {
    let (host, persistent) = Host::with_used_guest();
    host.delete_provider("nkp-a");
    host.start(&persistent).refused_with("VG101");
    assert_eq!(host.copies(&persistent).len(), 0);
    assert!(!host.path("/var/lib/vtpm-guard/tpm-state").exists());

    let (host, guest) = Host::with_transient_guest();
    host.write(
        "/run/persistent.xml",
        xml(&guest, "persistent_state='yes'", ""),
    );
    for _ in 0..2 {
        host.virsh(&["create", "/run/persistent.xml"]).ok();
        host.stop(&guest);
        assert!(host.has_tpm_state(&guest), "libvirt keeps it");
        assert_eq!(host.copies(&guest).len(), 0);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_hook_heeds_why_a_run_ended_where_libvirt_tells_it() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    let xml = host.xml(&guest);
    let release = |extra| host.hook("vm1", &["release", "end", extra], &xml).ok();
    // As libvirt 10.5 and later call it.
    release("migrated");
    assert_eq!(host.copies(&guest).len(), 0);
    // A replay is no start: the guest's end is one of a run.
    host.write("/run/running.xml", &xml);
    host.guard(&["replay", "/run/running.xml"]).ok();
    assert_eq!(host.copies(&guest).len(), 0);
    for extra in ["failed", "shutdown", "-"] {
        release(extra);
        assert_eq!(host.copies(&guest).len(), 1, "{extra}");
        fs::remove_file(&host.copies(&guest)[0]).unwrap();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_first_start_that_fails_leaves_nothing_in_the_way_of_the_next() {
    let (host, guest) = Host::with_transient_guest();
    for _ in 0..2 {
        host.fail_in_qemu(&guest);
        assert_eq!(host.copies(&guest).len(), 0);
    }
    host.create_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_a_start_would_put_back_is_foreseen() {
    let (host, guest, state) = Host::with_transient_state();
    host.run_and_stop(&guest);
    let xml = "/run/transient.xml";
    let foreseen = host.guard(&["--json", "check", "--xml", xml]);
    assert_eq!(foreseen.status, 3, "{foreseen:#?}");
    assert!(
        foreseen.stdout.contains("restore-tpm-state"),
        "{foreseen:#?}"
    );
    let replay = host.guard(&["--json", "replay", "--dry-run", xml]).ok();
    assert!(replay.stdout.contains("restore-tpm-state"), "{replay:#?}");
    assert!(!host.has_tpm_state(&guest), "both change nothing");

    // Once it is defined, `repair` puts the state back without a start.
    host.virsh(&["define", xml]).ok();
    host.guard(&["repair", "vm1"]).ok();
    assert!(host.tpm_state(&guest) == state);
    let nothing_left = host.guard(&["check", "vm1"]);
    assert_eq!(nothing_left.status, 0, "{nothing_left:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unmanaged_guests_state_comes_back_after_a_start_that_failed() {
    let (host, guest) = Host::with_transient_guest();
    let uuid = guest.uuid.to_string();
    host.guard(&["key", "unbind", &uuid]).ok();
    host.define_secret(guest.secret, "vm1", Some("a passphrase"));
    // libvirt keeps its state at the end of a run: so there is one before the next.
    host.write(
        "/run/persistent.xml",
        xml(&guest, "persistent_state='yes'", ""),
    );
    host.virsh(&["create", "/run/persistent.xml"]).ok();
    host.stop(&guest);
    let state = host.tpm_state(&guest);
    for _ in 0..2 {
        host.fail_in_qemu(&guest);
    }
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}

/// How often kills come at moments from the first to the last, and how far apart those are.
const SWEEPS: u32 = 7;
const STEP: f64 = 1.4;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_kill_at_any_moment_leaves_a_whole_copy_or_none_and_a_whole_state_or_none() {
    let (host, guest, state) = Host::with_transient_state();
    host.write("/run/transient.xml", xml(&guest, "", ""));
    let place = format!("/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall", guest.uuid);
    // Whether the call was killed before its end.
    let is_killed_after = |seconds: f64| {
        let call = format!(
            "timeout -s KILL {seconds:.4} /usr/sbin/vtpm-guard-hook vm1 prepare begin - \
             </run/transient.xml; echo $?"
        );
        let ended = host.run(&["sh", "-c", &call]);
        match ended.stdout.trim() {
            "137" => true,
            "0" => false,
            _ => panic!("{ended:?}"),
        }
    };
    let (mut kept, mut put_back) = (0, 0);
    // Each moment is somewhat later than the one before, until a call ends by itself, however slow this machine is;
    // then it begins again, at moments between those.
    let (mut sweep, mut seconds) = (0, 0.004);
    while sweep < SWEEPS {
        if is_killed_after(seconds) {
            seconds *= STEP;
        } else {
            sweep += 1;
            seconds = 0.004 * STEP.powf(f64::from(sweep) / f64::from(SWEEPS));
        }
        let list = host.guard(&["state", "list"]).ok();
        assert_eq!(list.stderr, "", "no half of a copy");
        match fs::read(host.path(&place)) {
            Ok(found) => assert!(found == state, "half of a state"),
            Err(_) => assert_eq!(host.copies(&guest).len(), 1),
        }
        // As libvirt does after a start that failed; the first kills come before the copy.
        if host.copies(&guest).len() == 1 {
            kept += 1;
            put_back += usize::from(host.has_tpm_state(&guest));
            host.run(&[
                "rm",
                "-rf",
                &format!("/var/lib/libvirt/swtpm/{}", guest.uuid),
            ])
            .ok();
        }
    }
    // At the end of each sweep at least.
    assert!(
        kept > 5 && put_back > 5,
        "{kept} copies, {put_back} put back"
    );
    host.create_running(&guest);
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unencrypted_vtpm_that_the_policy_refuses_keeps_its_state() {
    let (host, guest) = Host::with_transient_guest();
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    let plain = |backend| xml(&guest, backend, "").replace(&encryption, "");
    host.write("/run/persistent.xml", plain("persistent_state='yes'"));
    host.virsh(&["create", "/run/persistent.xml"]).ok();
    host.stop(&guest);
    let state = host.tpm_state(&guest);

    host.write("/run/plain.xml", plain(""));
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    for _ in 0..2 {
        host.virsh(&["create", "/run/plain.xml"])
            .refused_with("VG502");
        assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
    }
    host.configure("");
    host.virsh(&["create", "/run/plain.xml"]).ok();
    assert!(host.tpm_state(&guest) == state);
    assert_eq!(host.copies(&guest).len(), 0);
}
