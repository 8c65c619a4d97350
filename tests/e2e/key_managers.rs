//! Real guests whose provider key a key manager has: while it answers, while it is down, and across a reboot. What is
//! asked when, is shown with a command as key manager (`kms-exec`); then each kind has its turn, with its real server.

use std::fs;
use std::path::Path;

use vtpm_guard::internals::verdict::code::Code;

use crate::guest::Guest;
use crate::host::{Host, skipped};

/// Turns one bit of each byte, unless it is down, and writes down that it was asked.
const BOX: &str = "#!/bin/sh\n[ ! -e /run/box-is-down ] || { echo 'the box is down' >&2; exit 1; }\n\
                   echo asked >>/run/box-asked\n\
                   exec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n";
const SECTION: &str = "[kms.box]\nkind = \"exec\"\nwrap = [\"/usr/sbin/box\"]\n\
                       unwrap = [\"/usr/sbin/box\"]\n";

impl Host {
    fn with_box(cache: &str) -> (Self, Guest) {
        let host = Self::new();
        host.write_program("/usr/sbin/box", BOX);
        host.install_plugin("exec");
        host.configure(&format!("[provider]\ncache = \"{cache}\"\n{SECTION}"));
        host.guard(&["provider", "create", "nkp-a", "--slot", "box:one"])
            .ok();
        let guest = host.define_bound_guest("vm1", "nkp-a");
        host.start_and_stop(&guest);
        (host, guest)
    }

    fn install_plugin(&self, kind: &str) {
        self.install_program(&format!("kms-{kind}"));
    }

    fn box_is_down(&self, is_down: bool) {
        if is_down {
            self.write("/run/box-is-down", "");
        } else {
            let _ = fs::remove_file(self.path("/run/box-is-down"));
        }
    }

    /// How often the key manager was asked since the last time.
    fn box_was_asked(&self) -> usize {
        let log = self.path("/run/box-asked");
        let asked = fs::read_to_string(&log).unwrap_or_default().lines().count();
        let _ = fs::remove_file(log);
        asked
    }

    /// What a reboot leaves of this program's directory on tmpfs: nothing.
    fn lose_tmpfs(&self) {
        let _ = fs::remove_dir_all(self.path("/run/vtpm-guard"));
    }

    fn sealed(&self, place: &str) -> usize {
        let keys = fs::read_dir(self.path(place));
        keys.map_or(0, |keys| {
            keys.flatten().filter(|key| is_key(&key.path())).count()
        })
    }
}

fn is_key(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.len() == 32)
}

/// The hint of VG105, followed.
pub(crate) fn opened_after_a_reboot() {
    let (host, guest) = Host::with_box("boot");
    host.lose_tmpfs();
    let hint = host.refused(&guest, Code::KekNotHere);
    host.follow(&hint, "vtpm-guard open nkp-a", &[]).ok();
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// The hint of VG104, followed: a sealed key that was never exported, and that a key manager opens.
pub(crate) fn opened_after_damage() {
    let (host, guest) = Host::with_box("sealed");
    let (_, key_id) = host.provider("nkp-a");
    host.write(&format!("{DISK}/{key_id}"), "nonsense");
    let hint = host.refused(&guest, Code::ProviderSealed);
    host.follow(&hint, "vtpm-guard open nkp-a", &[]).ok();
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// The hint of VG106, followed.
pub(crate) fn opened_again() {
    let (host, guest) = Host::with_box("sealed");
    host.configure(&format!("[provider]\nmax_age = \"1h\"\n{SECTION}"));
    let late = "UPDATE kek_slot SET verified_at = verified_at - 3601000";
    host.store().execute(late, []).unwrap();
    let hint = host.refused(&guest, Code::KekExpired);
    host.follow(&hint, "vtpm-guard open nkp-a", &[]).ok();
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// `open` after a power failure of a whole fleet, one host after the other: how often the key managers are asked.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_fleet_asks_its_key_manager_once_for_each_host_and_key() {
    let hosts = std::env::var("HOSTS").map_or(20, |hosts| hosts.parse().unwrap());
    let (host, _) = Host::with_box("boot");
    host.guard(&["provider", "create", "nkp-b", "--slot", "box:two"])
        .ok();
    host.box_was_asked();
    for _ in 0..hosts {
        host.lose_tmpfs();
        // The unit, and an administrator who is in a hurry.
        host.guard(&["open"]).ok();
        host.guard(&["open"]).ok();
    }
    let asked = host.box_was_asked();
    eprintln!("{hosts} hosts with two provider keys each: {asked} questions");
    assert_eq!(asked, 2 * hosts);
}

const DISK: &str = "/var/lib/vtpm-guard/keys";
const TMPFS: &str = "/run/vtpm-guard/keys";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_starts_whether_its_key_manager_answers_or_not() {
    let (host, guest) = Host::with_box("sealed");
    host.box_was_asked();
    host.start_and_stop(&guest);
    assert_eq!(host.box_was_asked(), 0, "a start asks no key manager");
    host.box_is_down(true);
    host.start_and_stop(&guest);
    host.lose_tmpfs();
    host.start_and_stop(&guest);
    assert_eq!(
        host.guard(&["provider", "slot", "verify", "nkp-a"]).status,
        4
    );
    assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (1, 0));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_boot_a_guest_starts_after_a_reboot_once_its_key_manager_has_answered() {
    let (host, guest) = Host::with_box("boot");
    assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (0, 1));
    host.box_is_down(true);
    host.start_and_stop(&guest);
    host.lose_tmpfs();
    let refused = host.start(&guest).refused_with("VG105");
    assert!(
        refused.stderr.contains("vtpm-guard open nkp-a"),
        "{refused:?}"
    );
    assert_eq!(host.guard(&["open"]).status, 4);
    let last = host.guard(&["provider", "slot", "remove", "nkp-a", "box:one"]);
    assert_eq!(last.status, 1, "{last:?}");

    host.box_is_down(false);
    host.box_was_asked();
    host.guard(&["open"]).ok();
    host.guard(&["open"]).ok();
    assert_eq!(
        host.box_was_asked(),
        1,
        "one question for each host and key"
    );
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_leaves_the_disk_only_when_its_key_manager_has_opened_it() {
    let (host, guest) = Host::with_box("sealed");
    host.configure(&format!("[provider]\ncache = \"boot\"\n{SECTION}"));
    host.box_is_down(true);
    assert_eq!(host.guard(&["open"]).status, 4);
    assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (1, 0));
    host.start_and_stop(&guest);
    host.box_is_down(false);
    host.guard(&["open"]).ok();
    assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (0, 1));
    host.start_and_stop(&guest);
    // And back.
    host.configure(&format!("[provider]\ncache = \"sealed\"\n{SECTION}"));
    host.box_is_down(true);
    host.guard(&["open"]).ok();
    assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (1, 0));
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

/// A real server of tests/kms/services in the host's own network, what speaks with it, and its key.
struct Server {
    service: &'static str,
    kind: &'static str,
    /// A command that prints the name of its key.
    key: &'static str,
}

const SERVERS: [Server; 4] = [
    Server {
        service: "openbao",
        kind: "transit",
        key: "echo vtpm",
    },
    Server {
        service: "softhsm",
        kind: "pkcs11",
        key: "echo vtpm",
    },
    Server {
        service: "pykmip",
        kind: "kmip",
        key: "echo vtpm",
    },
    Server {
        service: "tang",
        kind: "exec",
        key: "cat /var/lib/kms/thumbprint",
    },
];

/// Where it keeps its files.
const SERVER: &str = "/var/lib/kms";

impl Server {
    fn script(&self) -> String {
        format!(
            "{}/tests/kms/services/{}",
            env!("CARGO_MANIFEST_DIR"),
            self.service
        )
    }

    /// It takes connections and answers none; a token, which has no process, is pulled out.
    fn stop_answering(host: &Host, stops: bool) {
        let (signal, from, to) = if stops {
            ("STOP", "tokens", "pulled")
        } else {
            ("CONT", "pulled", "tokens")
        };
        let script = format!(
            "cd {SERVER}; if [ -e pid ]; then kill -{signal} -- -$(cut -d' ' -f1 pid); else mv {from} {to}; fi"
        );
        host.run(&["bash", "-c", &script]).ok();
    }

    fn configure(host: &Host, cache: &str) {
        let sections = host.read(&format!("{SERVER}/config.toml"));
        let sections = sections.replace("kind = ", "timeout = \"5s\"\nkind = ");
        host.configure(&format!("[provider]\ncache = \"{cache}\"\n{sections}"));
    }

    /// A guest whose provider key it has starts while it is up, and down, and down across a reboot.
    fn boots_a_guest(&self) {
        // The host's own network reaches no archive.
        let install = std::process::Command::new(self.script())
            .arg("install")
            .status();
        if !install.unwrap().success() {
            assert!(
                std::env::var_os("VTPM_GUARD_EVERY_KMS").is_none(),
                "{}",
                self.service
            );
            skipped(&format!("{} cannot be had here", self.service));
            return;
        }
        let host = Host::new();
        host.install_plugin(self.kind);
        host.run(&["ip", "link", "set", "lo", "up"]).ok();
        host.run(&[&self.script(), "up", SERVER]).ok();
        Self::configure(&host, "sealed");
        let key = host.run(&["sh", "-c", self.key]).ok().stdout;
        let slot = format!("{}:{}", self.service, key.trim());
        host.guard(&["provider", "create", "nkp-a", "--slot", &slot])
            .ok();
        let guest = host.define_bound_guest("vm1", "nkp-a");
        host.start_and_stop(&guest);
        Self::stop_answering(&host, true);
        host.start_and_stop(&guest);
        host.lose_tmpfs();
        host.start_and_stop(&guest);

        Self::stop_answering(&host, false);
        Self::configure(&host, "boot");
        host.guard(&["open"]).ok();
        assert_eq!((host.sealed(DISK), host.sealed(TMPFS)), (0, 1));
        Self::stop_answering(&host, true);
        host.start_and_stop(&guest);
        host.lose_tmpfs();
        host.start(&guest).refused_with("VG105");
        assert_eq!(host.guard(&["open"]).status, 4);
        Self::stop_answering(&host, false);
        host.guard(&["open"]).ok();
        host.start_and_stop(&guest);
        assert_eq!(host.tpms_made(&guest), 1);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn openbao_boots_a_guest() {
    SERVERS[0].boots_a_guest();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn softhsm_boots_a_guest() {
    SERVERS[1].boots_a_guest();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn pykmip_boots_a_guest() {
    SERVERS[2].boots_a_guest();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn tang_boots_a_guest() {
    SERVERS[3].boots_a_guest();
}
