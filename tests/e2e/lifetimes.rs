//! `secret.lifetime`: how long libvirt has the secret, seen through `virsh secret-list` at each
//! stage of a guest's life.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;

/// What happens to a guest, one thing after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Started,
    Crashed,
    Destroyed,
    Saved,
    Restored,
    /// It goes on running.
    DaemonRestarted,
    /// While the daemon was down.
    CrashedUnseen,
    StartedWithTheDaemon,
    /// When its TPM was up already.
    StartFailed,
}

use Stage::*;

const LIFE: [Stage; 15] = [
    Started,
    Crashed,
    Started,
    Destroyed,
    Started,
    Saved,
    Restored,
    DaemonRestarted,
    Destroyed,
    Started,
    CrashedUnseen,
    StartedWithTheDaemon,
    DaemonRestarted,
    Destroyed,
    StartFailed,
];

impl Host {
    fn live_through(&self, guest: &Guest, stage: Stage) {
        let name = guest.name.as_str();
        match stage {
            Started | Restored => self.start_running(guest),
            Crashed => {
                self.kill_qemu(guest);
                self.wait_until_shut_off(guest);
            }
            Destroyed => self.stop(guest),
            Saved => {
                self.virsh(&["managedsave", name]).ok();
            }
            DaemonRestarted => {
                self.restart_libvirtd();
                assert_eq!(self.state(guest), "running");
            }
            CrashedUnseen => {
                self.stop_libvirtd();
                self.kill_qemu(guest);
                self.start_libvirtd();
                self.wait_until_shut_off(guest);
            }
            StartedWithTheDaemon => {
                self.virsh(&["autostart", name]).ok();
                self.stop_libvirtd();
                self.guard(&["stage"]).ok();
                self.start_libvirtd();
                self.guard(&["unstage"]).ok();
                assert_eq!(self.state(guest), "running");
            }
            StartFailed => {
                let failing = "#!/bin/sh\n[ \"$2\" != start ]\n";
                self.write_program("/etc/libvirt/hooks/qemu.d/90-failing", failing);
                assert_ne!(self.start(guest).status, 0);
            }
        }
    }

    fn kill_qemu(&self, guest: &Guest) {
        let pid = self.read(&format!("/run/libvirt/qemu/{}.pid", guest.name));
        self.run(&["kill", "-KILL", pid.trim()]).ok();
    }

    fn wait_until_shut_off(&self, guest: &Guest) {
        let wait = format!(
            "until [ \"$(virsh domstate {})\" = 'shut off' ]; do sleep 0.05; done",
            guest.name
        );
        self.run(&["timeout", "20", "sh", "-c", &wait]).ok();
        // `release` comes after the state; the guest's lock is free once it has ended.
        self.virsh(&["dominfo", &guest.name]).ok();
    }

    /// A life under this lifetime: the stages after which libvirt has the secret.
    fn stages_with_secret(lifetime: &str) -> Vec<(usize, Stage)> {
        let (host, guest) = Self::with_used_guest();
        host.configure(&format!("[secret]\nlifetime = \"{lifetime}\"\n"));
        let mut with_secret = Vec::new();
        for (number, stage) in LIFE.into_iter().enumerate() {
            host.live_through(&guest, stage);
            if host.has_secret(guest.secret) {
                with_secret.push((number, stage));
            }
        }
        assert_eq!(host.tpms_made(&guest), 1);
        with_secret
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_start_libvirt_has_the_secret_after_no_stage() {
    assert_eq!(Host::stages_with_secret("start"), []);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_run_libvirt_has_the_secret_while_the_guest_runs_but_not_past_its_own_end() {
    assert_eq!(
        Host::stages_with_secret("run"),
        [
            (0, Started),
            (2, Started),
            (4, Started),
            (6, Restored),
            (9, Started),
            (11, StartedWithTheDaemon),
        ]
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_keep_only_the_end_of_the_daemon_takes_the_secret() {
    assert_eq!(
        Host::stages_with_secret("keep"),
        [
            (0, Started),
            (1, Crashed),
            (2, Started),
            (3, Destroyed),
            (4, Started),
            (5, Saved),
            (6, Restored),
            (9, Started),
            (11, StartedWithTheDaemon),
            (14, StartFailed),
        ]
    );
}

/// libvirt gives a usage name to one secret only, and the guard's is the same for both UUIDs.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_secret_that_is_kept_gives_way_when_the_xml_names_another_uuid() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[secret]\nlifetime = \"keep\"\n");
    host.start_and_stop(&guest);
    assert!(host.has_secret(guest.secret));
    let before = guest.secret;
    let guest = host.redefine_guest(guest, Tpm::Encrypted(SecretUuid::random()));
    host.start_and_stop(&guest);
    assert!(host.has_secret(guest.secret) && !host.has_secret(before));
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_replay_leaves_no_secret_for_a_start_that_does_not_follow() {
    let (host, guest) = Host::with_used_guest();
    host.write("/run/vm1.captured.xml", host.xml(&guest));
    let replay = || {
        let answer = host.guard(&["--json", "replay", "/run/vm1.captured.xml"]);
        assert!(
            answer.stdout.contains("\"action\": \"defined\""),
            "{answer:?}"
        );
        assert_eq!((answer.status, answer.stderr.as_str()), (0, ""));
    };
    for lifetime in ["start", "run"] {
        host.configure(&format!("[secret]\nlifetime = \"{lifetime}\"\n"));
        replay();
        assert!(!host.has_secret(guest.secret), "{lifetime}");
    }
    // A guest that is active may be starting, and needs it.
    host.configure("");
    host.start_running(&guest);
    replay();
    assert!(host.has_secret(guest.secret));
    host.stop(&guest);
    assert!(!host.has_secret(guest.secret));
    host.configure("[secret]\nlifetime = \"keep\"\n");
    replay();
    assert!(host.has_secret(guest.secret));
}
