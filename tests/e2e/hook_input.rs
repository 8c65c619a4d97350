//! What reaches the hook on stdin, whatever libvirt accepts and other hooks do with it: no guest
//! without an emulated TPM is ever refused for it.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::Tpm;
use crate::host::{Host, finish};

const STRICT: &str = "[policy]\nunencrypted = \"deny\"\n";

/// A guest without a TPM, with this name and this beside its devices.
fn domain(name: &str, inside: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{}</uuid>{inside}\
         <memory unit='MiB'>16</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         </domain>",
        DomainUuid::random()
    )
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_libvirt_accepts_starts_under_the_strictest_policy() {
    const MIB: usize = 1 << 20;
    let host = Host::new();
    host.configure(STRICT);
    let metadata = |inside: &str| {
        let inside = format!("<metadata><x:a xmlns:x='urn:x'>{inside}</x:a></metadata>");
        domain("vm", &inside)
    };
    let text = "d".repeat(2 * MIB);
    let cases = [
        ("del", domain("de\x7fl", "")),
        ("U+0085", domain("ne\u{85}l", "")),
        ("CR", domain("c&#13;r", "")),
        ("blank", domain(" ", "")),
        ("U+202E", domain("ev\u{202e}il", "")),
        ("a long name", domain(&"x".repeat(200), "")),
        (
            "description",
            domain("vm", &format!("<description>{text}</description>")),
        ),
        (
            "quotes",
            domain(
                "vm",
                &format!("<description>{}</description>", "\"'".repeat(MIB)),
            ),
        ),
        ("metadata text", metadata(&text)),
        ("metadata attribute", metadata(&format!("<b c='{text}'/>"))),
        ("metadata CDATA", metadata(&format!("<![CDATA[{text}]]>"))),
        ("metadata comment", metadata(&format!("<!--{text}-->"))),
        (
            "element name",
            metadata(&format!("<{}/>", "e".repeat(1100))),
        ),
        (
            "nesting",
            metadata(&format!("{}{}", "<b>".repeat(200), "</b>".repeat(200))),
        ),
    ];
    for (what, xml) in cases {
        let uuid = xml.split("uuid>").nth(1).unwrap().trim_end_matches("</");
        host.write("/run/case.xml", &xml);
        let created = host.virsh(&["create", "/run/case.xml"]);
        // What libvirt itself does not start is no case; the guard must not be the reason.
        assert!(
            !created.stderr.contains("vtpm-guard"),
            "{what}: {created:#?}"
        );
        assert_eq!(created.status, 0, "{what}: {created:#?}");
        host.virsh(&["destroy", uuid]).ok();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_encrypted_vtpm_is_judged_whatever_the_guest_is_called_and_described_as() {
    let (host, guest) = Host::with_used_guest();
    for renamed in ["de\x7fl", " ", "ne\u{85}l"] {
        host.virsh(&["domrename", &guest.uuid.to_string(), renamed])
            .ok();
        host.remove_tpm_state(&guest);
        host.virsh(&["start", &guest.uuid.to_string()])
            .refused_with("VG205");
        host.guard(&["reset", &guest.uuid.to_string()]).ok();
        host.virsh(&["start", &guest.uuid.to_string()]).ok();
        host.virsh(&["destroy", &guest.uuid.to_string()]).ok();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn where_another_hook_has_read_stdin_libvirts_own_file_tells() {
    let (host, guest) = Host::with_used_guest();
    let plain = host.define_guest("vm2", Tpm::Plain);
    let without = host.define_guest("vm3", Tpm::None);
    // A dispatcher that runs all hooks with what the first has left of stdin.
    std::fs::remove_file(host.path("/etc/libvirt/hooks/qemu.d/50-vtpm-guard")).unwrap();
    host.write_program(
        "/etc/libvirt/hooks/qemu.d/50-dispatcher",
        "#!/bin/sh\ncat >/dev/null\nexec /usr/sbin/vtpm-guard-hook \"$@\"\n",
    );
    for guest in [&guest, &plain, &without] {
        host.start_and_stop(guest);
    }
    assert_eq!(host.tpms_made(&guest), 1);
    let log = host.read("/var/log/vtpm-guard.log");
    let said = "stdin was empty: does another hook read it before this one?";
    assert!(
        log.contains(said) && log.contains("/etc/libvirt/qemu/vm1.xml"),
        "{log}"
    );

    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
    host.configure(STRICT);
    host.start(&plain).refused_with("VG502");
    host.start_running(&without);

    // Of a transient guest there is no file: it passes, as one whose XML cannot be read.
    host.configure("");
    let secret = SecretUuid::random();
    let transient = host.define_guest("vm4", Tpm::Encrypted(secret));
    host.virsh(&["undefine", "vm4"]).ok();
    let created = host.virsh(&["create", "/run/vm4.xml"]);
    assert!(created.stderr.contains("Secret not found"), "{created:#?}");
    assert!(!created.stderr.contains("vtpm-guard:"), "{created:#?}");
    assert!(!host.has_tpm_state(&transient));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guard_that_is_called_twice_for_each_operation_changes_nothing() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    for dispatcher in [
        // stdin handed to each of them whole, and eaten by the first.
        "#!/bin/sh\nxml=$(cat)\nfor hook in /etc/libvirt/hooks/qemu.d/*; do\n  \
         printf '%s' \"$xml\" | \"$hook\" \"$@\" || exit 1\ndone\n",
        "#!/bin/sh\nfor hook in /etc/libvirt/hooks/qemu.d/*; do\n  \
         \"$hook\" \"$@\" || exit 1\ndone\n",
    ] {
        host.write_program("/etc/libvirt/hooks/qemu", dispatcher);
        host.start_and_stop(&guest);
        host.start_running(&guest);
        host.virsh(&["managedsave", "vm1"]).ok();
        assert_eq!(host.state(&guest), "shut off");
        let made = host.tpms_made(&guest);
        assert_eq!(made, 1);
        host.virsh(&["managedsave-remove", "vm1"]).ok();
        host.start_and_stop(&guest);
        assert_eq!(host.key_refs(&guest).len(), 1);
        assert!(!host.has_secret(guest.secret));
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_stdin_that_trickles_does_not_outlive_the_deadline() {
    let host = Host::new();
    host.configure("[hook]\ndeadline = \"1s\"\n");
    for operation in ["prepare", "started"] {
        let call = ["/usr/sbin/vtpm-guard-hook", "vm1", operation, "begin", "-"];
        let mut hook = host
            .command(&call)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = hook.stdin.take().unwrap();
        let started = Instant::now();
        // Until the hook has closed its end.
        while stdin.write_all(b" ").is_ok() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let took = started.elapsed();
        let answer = finish(hook);
        assert_eq!(answer.status, 0, "{answer:#?}");
        // The clock begins before the programs that lead into the host.
        assert!(took < Duration::from_secs(5), "{operation}: {took:?}");
    }
}
