//! `doctor` on a host that is in order, and on hosts that are not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::Host;

const LINK: &str = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";

/// What doctor found, `severity: what` for each. Its exit status must be this one.
#[track_caller]
fn found(host: &Host, arguments: &[&str], status: i32) -> Vec<String> {
    let answer = host.guard(&[&["--json", "doctor"], arguments].concat());
    assert_eq!(answer.status, status, "{answer:#?}");
    let documents: Value = serde_json::from_str(&answer.stdout).unwrap();
    let findings = documents.as_array().unwrap().iter();
    findings
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap();
            assert!(!text("why").is_empty() && !text("command").is_empty());
            format!("{}: {}", text("severity"), text("what"))
        })
        .collect()
}

#[track_caller]
fn finds(host: &Host, status: i32, words: &str) {
    let found = found(host, &[], status);
    assert!(
        found.len() == 1 && found[0].contains(words),
        "{words:?}: {found:#?}"
    );
}

/// A host with a guest whose key was used, and whose TPM state survives an undefine.
fn in_order() -> (Host, Guest) {
    let (host, guest) = Host::with_used_guest();
    host.guard(&["state", "persist", "vm1"]).ok();
    (host, guest)
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_host_in_order_has_nothing() {
    let (host, _guest) = in_order();
    let answer = host.guard(&["doctor"]).ok();
    assert_eq!(answer.stdout, "nothing found\n");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn what_libvirt_deletes_although_it_is_needed_is_reported_with_what_keeps_it() {
    let (host, guest) = Host::with_used_guest();
    finds(&host, 0, "note: libvirt deletes the TPM state of vm1 when");
    let persist = "vtpm-guard state persist vm1";
    for command in [&["doctor"][..], &["status"], &["check", "--all"]] {
        let answer = host.guard(command).ok();
        let said = answer.stdout + &answer.stderr;
        assert!(said.contains(persist), "{command:?}: {said}");
    }
    host.start_running(&guest);
    host.virsh(&["undefine", "vm1"]).ok();
    finds(
        &host,
        0,
        "advice: libvirt deletes the TPM state of vm1 at each stop",
    );
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    let running = host.guard(&["state", "persist", "vm1"]).ok().stdout;
    assert!(running.contains("is running"), "{running}");
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);
    host.stop(&guest);
    host.virsh(&["undefine", "vm1"]).ok();
    assert!(host.has_tpm_state(&guest), "libvirt keeps it");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_hook_must_exist_and_run_and_be_noticed() {
    let (host, guest) = in_order();
    let link = host.path(LINK);
    fs::remove_file(&link).unwrap();
    finds(
        &host,
        1,
        "fault: /etc/libvirt/hooks/qemu.d/50-vtpm-guard does not exist",
    );
    host.run(&["ln", "-s", "/nowhere", LINK]).ok();
    finds(&host, 1, "is a link without a target");
    host.run(&["cp", "/usr/sbin/vtpm-guard-hook", "/usr/sbin/other-hook"])
        .ok();
    host.run(&["ln", "-sf", "/usr/sbin/other-hook", LINK]).ok();
    let hook = host.path("/usr/sbin/other-hook");
    fs::set_permissions(&hook, Permissions::from_mode(0o600)).unwrap();
    finds(&host, 1, "is not executable");
    fs::set_permissions(&hook, Permissions::from_mode(0o700)).unwrap();
    finds(&host, 1, "cannot be executed by plain users");
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    finds(
        &host,
        0,
        &format!(
            "advice: {} was started before the hook's link was made",
            host.guests_daemon()
        ),
    );
    host.run(&["ln", "-sf", "/usr/sbin/vtpm-guard-hook", LINK])
        .ok();
    host.start_and_stop(&guest);
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_hook_may_be_the_only_one_that_an_old_libvirt_runs() {
    let (host, guest) = in_order();
    fs::remove_file(host.path(LINK)).unwrap();
    let only = "/etc/libvirt/hooks/qemu";
    host.run(&["ln", "-s", "/usr/sbin/vtpm-guard-hook", only])
        .ok();
    host.restart_libvirtd();
    host.start_running(&guest);
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);
    let status = host.guard(&["status"]).ok().stdout;
    assert!(status.contains("installed (/etc/libvirt/hooks/qemu)"));
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn what_is_wrong_with_store_keys_and_configuration_is_reported() {
    let (host, guest) = in_order();
    host.configure("[policy]\ndegrade = 'allow'\n");
    finds(&host, 1, "the configuration cannot be used");
    host.configure("");

    host.update_key_refs(&guest, "provider_uuid = NULL, provider_name = 'nkp-b'");
    finds(&host, 1, "provider \"nkp-b\" not found");
    host.update_key_refs(&guest, "provider_name = 'nkp-a'");

    let sql = "UPDATE key_provider SET exported_at = NULL";
    host.store().execute(sql, []).unwrap();
    finds(&host, 1, "fault: provider \"nkp-a\" was never exported");
    let sql = "UPDATE key_provider SET exported_at = 1700000000000";
    host.store().execute(sql, []).unwrap();
    finds(&host, 0, "advice: provider \"nkp-a\" was last exported on");
    let sql = "UPDATE key_provider SET exported_at = unixepoch() * 1000";
    host.store().execute(sql, []).unwrap();

    let sql = "UPDATE event SET at = at + 86400000";
    host.store().execute(sql, []).unwrap();
    finds(&host, 0, "advice: the last decision is from");
    host.store().execute("DELETE FROM event", []).unwrap();

    let (_, key_id) = host.provider("nkp-a");
    let key = host.path(&format!("/var/lib/vtpm-guard/keys/{key_id}"));
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let words = found(&host, &[], 1).join("\n");
    assert!(
        words.contains(&format!(
            "/keys/{key_id} is not trusted: others have access to it (mode 0644)"
        )),
        "{words}"
    );
    assert!(
        words.contains("the key of provider \"nkp-a\" does not open"),
        "{words}"
    );
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn what_a_rotation_and_an_encryption_leave_for_a_while_is_a_warning() {
    let (host, _guest) = in_order();
    let plain = host.define_guest("vm2", Tpm::Plain);
    host.start_and_stop(&plain);
    host.guard(&["encrypt", "vm2", "--persistent-state"]).ok();
    finds(&host, 0, "advice: the unencrypted TPM state of");
    host.start_and_stop(&plain);

    host.guard(&["provider", "rotate", "nkp-a"]).ok();
    let sql = "UPDATE key_provider SET exported_at =
                   CASE name WHEN 'nkp-a' THEN unixepoch() * 1000 END";
    host.store().execute(sql, []).unwrap();
    finds(&host, 0, "advice: provider \"nkp-a/");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn keys_in_plaintext_full_disks_and_deaf_daemons_are_reported() {
    let (host, _guest) = in_order();
    let secret = SecretUuid::random();
    host.define_secret(secret, "by-hand", Some("a key in clear"));
    finds(
        &host,
        0,
        &format!("advice: /etc/libvirt/secrets/{secret}.base64 holds"),
    );
    // As doctor says: no guest names it.
    let undefine = format!("virsh secret-undefine {secret}");
    assert!(host.guard(&["doctor"]).stdout.contains(&undefine));
    host.run(&["sh", "-c", &undefine]).ok();
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);

    let place = "/var/lib/libvirt/swtpm";
    host.run(&["mount", "-t", "tmpfs", "-o", "size=1m", "none", place])
        .ok();
    let words = found(&host, &[], 1).join("\n");
    for found in ["has 1024 KiB left", "is on a file system in memory"] {
        let named = format!("{place} {found}");
        assert!(words.contains(&named), "{words}");
    }
    assert!(words.contains("vm1 would not start: VG205 "), "{words}");
    host.run(&["umount", place]).ok();

    host.end(host.secrets_daemon(), "KILL");
    finds(&host, 1, "libvirt's secret driver does not answer");
}

/// Of a diskless host, or one whose disk is not mounted.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_store_in_memory_is_reported_before_the_next_boot_loses_it() {
    let host = Host::new();
    let place = "/var/lib/vtpm-guard";
    host.run(&["mount", "-t", "tmpfs", "-o", "mode=0700", "none", place])
        .ok();
    host.create_provider("nkp-a");
    finds(
        &host,
        1,
        "fault: /var/lib/vtpm-guard is on a file system in memory",
    );
    host.run(&["umount", place]).ok();
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn without_systemd_what_does_not_run_is_said_once() {
    let (host, guest) = in_order();
    host.run(&["rm", "-r", "/run/systemd/system"]).ok();
    finds(
        &host,
        0,
        "note: systemd does not run on this host, and none of the guard's units does",
    );
    if !host.lacks_libvirtd() {
        host.autostart(&guest);
        finds(
            &host,
            0,
            "nobody may stage the key of \"vm1\", which libvirtd autostarts",
        );
    }
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn recovery_files_are_verified() {
    let (host, _guest) = in_order();
    let file = recovery_file("nkp-a");
    let with =
        |more: &[&str], status| found(&host, &[&["--recovery-file", &file], more].concat(), status);
    assert_eq!(with(&[], 0), [] as [&str; 0]);
    assert_eq!(
        with(&["--passphrase-file", PASSPHRASE_FILE], 0),
        [] as [&str; 0]
    );
    host.write("/run/wrong", "battery staple");
    let wrong = with(&["--passphrase-file", "/run/wrong"], 1);
    assert!(wrong[0].contains("the passphrase is wrong"), "{wrong:#?}");

    host.create_provider("nkp-b");
    let missing = with(&[], 1);
    assert_eq!(missing.len(), 1, "{missing:#?}");
    assert!(
        missing[0].contains("restores provider \"nkp-b\""),
        "{missing:#?}"
    );

    let whole = fs::read(host.path(&file)).unwrap();
    fs::write(host.path(&file), &whole[..whole.len() - 9]).unwrap();
    let damaged = with(&[], 1);
    assert!(damaged[0].contains("it is damaged"), "{damaged:#?}");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn copies_of_tpm_state_that_no_guest_needs_are_reported() {
    let (host, guest) = Host::with_used_guest();
    let xml = host.xml(&guest);
    host.virsh(&["undefine", "--keep-tpm", &guest.name]).ok();
    // libvirt no longer has a definition: a start of this XML is that of a transient guest.
    host.hook(&guest.name, &["prepare", "begin", "-"], &xml)
        .ok();
    assert_eq!(found(&host, &[], 0), [] as [&str; 0]);

    let place = format!("/var/lib/vtpm-guard/tpm-state/{}", guest.uuid);
    let age = format!("sed -i 's/\"kept_at\": *[0-9]*/\"kept_at\": 1700000000000/' {place}/*.json");
    host.run(&["sh", "-c", &age]).ok();
    finds(
        &host,
        0,
        "advice: the copy of the TPM state of vm1 was saved on 2023-11-",
    );
    host.run(&[
        "sh",
        "-c",
        &format!("echo damaged > {place}/$(basename {place}/*.state)"),
    ])
    .ok();
    finds(&host, 1, "fault: a saved copy of TPM state cannot be used");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn other_hooks_and_linked_states_are_notes_and_copies_of_hooks_are_warnings() {
    let (host, guest) = in_order();
    let hook = "#!/bin/sh\nexit 0\n";
    host.write_program("/etc/libvirt/hooks/qemu.d/10-before", hook);
    host.run(&["mv", "/var/lib/libvirt/swtpm", "/var/lib/libvirt/elsewhere"])
        .ok();
    host.run(&["ln", "-s", "elsewhere", "/var/lib/libvirt/swtpm"])
        .ok();
    host.start_and_stop(&guest);
    let facts = [
        "note: other hooks run before the guard: /etc/libvirt/hooks/qemu.d/10-before",
        "note: /var/lib/libvirt/swtpm is a link to elsewhere",
    ];
    assert_eq!(found(&host, &[], 0), facts);
    let answer = host.guard(&["doctor"]).ok();
    assert!(
        answer.stdout.starts_with("note     other hooks"),
        "{answer:?}"
    );
    assert!(answer.stdout.ends_with("\nnothing found\n"), "{answer:?}");

    host.write_program("/etc/libvirt/hooks/qemu.d/10-before.dpkg-old", hook);
    let found = found(&host, &[], 0);
    assert_eq!(
        found[0],
        "advice: /etc/libvirt/hooks/qemu.d/10-before.dpkg-old looks like a backup copy, and libvirt \
         runs it"
    );
    assert_eq!(found.len(), 3, "{found:#?}");
}
