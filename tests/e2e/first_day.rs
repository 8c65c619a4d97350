//! docs/install.md and docs/first-day.md, played word for word: a host whose guests libvirt alone
//! has kept comes under the guard, and no key in clear is left.

use std::fs;

use vtpm_guard::internals::ids::SecretUuid;

use crate::adopting::{ORDINARY, PRIVATE, assert_no_trace, define_used_guest, files_with_the_key};
use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};
use crate::page;

/// There is no systemd in the host: this one reloads the daemon, whichever the host has, shows the drop-in and
/// writes down the rest.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
"reload libvirtd") kill -HUP "$(cat PID_FILE)" ;;
"cat libvirtd.service") cat /etc/systemd/system/libvirtd.service.d/*.conf ;;
"--root=/ is-enabled "*) grep -q "^enable --now $3\$" /run/systemctl && echo enabled || echo disabled ;;
*) echo "$*" >>/run/systemctl ;;
esac
"#;

struct Day {
    host: Host,
    win11: Guest,
    mail: Guest,
    files: Guest,
}

impl Day {
    /// Guests that have run under libvirt alone; then the guard is installed by hand.
    fn breaks() -> Self {
        let host = Host::new();
        fs::remove_file(host.path("/etc/libvirt/hooks/qemu.d/50-vtpm-guard")).unwrap();
        host.restart_libvirtd();
        let win11 = define_used_guest(&host, "win11", ORDINARY);
        let mail = define_used_guest(&host, "mail", PRIVATE);
        let files = host.define_guest("files", Tpm::Plain);
        host.start_and_stop(&files);
        host.autostart(&mail);
        host.start_running(&mail);

        let pid_file = Host::pid_file(host.guests_daemon());
        let systemctl = SYSTEMCTL.replace("PID_FILE", &pid_file);
        host.write_program("/usr/sbin/systemctl", &systemctl);
        host.attach_backup_disk();
        let [_, install] = &page::blocks("install.md", "By hand")[..] else {
            panic!("the second block is what the programs need beside them")
        };
        let checkout = format!("cd '{}'\n", env!("CARGO_MANIFEST_DIR"));
        host.play(&(checkout + install)).ok();
        Self {
            host,
            win11,
            mail,
            files,
        }
    }

    fn play(&self, heading: &str) -> Output {
        let commands = page::blocks("first-day.md", heading).concat();
        self.host.play(&commands).ok()
    }

    fn guests(&self) -> [&Guest; 3] {
        [&self.win11, &self.mail, &self.files]
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn guests_that_libvirt_kept_come_under_the_guard() {
    let day = Day::breaks();
    let host = &day.host;
    let seen = day.play("Take stock").stdout;
    assert!(seen.contains("3 guests: 3 would start"), "{seen}");
    let in_clear = seen
        .matches(".base64 holds a vTPM's key in plaintext")
        .count();
    assert_eq!(in_clear, 2, "{seen}");
    assert_ne!(files_with_the_key(host), "");

    day.play("Create a provider and its recovery file");
    let adopted = day.play("Take over libvirt's keys").stdout;
    assert!(adopted.contains("2 guests: 2 adopted"), "{adopted}");
    assert_eq!(host.state(&day.mail), "running");
    assert_no_trace(host);

    day.play("Encrypt unencrypted vTPMs");
    assert_eq!(host.tpm_state(&day.files)[5] & 1, 1, "it is not encrypted");
    let plain = host.path("/var/lib/vtpm-guard/plain-state");
    assert_eq!(plain.read_dir().unwrap().count(), 0);

    day.play("Guests that autostart with libvirtd");
    day.play("Nightly check");
    let asked = host.read("/run/systemctl");
    assert!(asked.ends_with("enable --now vtpm-guard-check.timer\n"));
    host.path("/etc/systemd/system/vtpm-guard-check.timer")
        .metadata()
        .unwrap();

    let well = day.play("Verify, and back up").stdout;
    assert!(well.contains("3 guests: 3 would start"), "{well}");
    assert!(well.contains("\nnothing found\n"), "{well}");

    for guest in day.guests() {
        if host.state(guest) == "running" {
            host.stop(guest);
        }
    }
    host.boot_libvirtd();
    assert_eq!(host.state(&day.mail), "running");
    host.stop(&day.mail);
    for guest in day.guests() {
        host.start_running(guest);
        assert_eq!(host.tpms_made(guest), 1, "libvirt made a new TPM");
        assert_eq!(host.only_key_ref(guest).provider_name, "nkp-a");
    }
    assert_no_trace(host);
    assert_eq!(host.virsh(&["secret-list"]).ok().stdout.lines().count(), 3);

    host.define_guest("db", Tpm::Encrypted(SecretUuid::random()));
    day.play("Add a new guest");
}
