//! A start that the guard let pass and that failed: history says so.

use crate::host::Host;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn history_tells_of_a_start_that_failed_after_it_was_allowed() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    let failures = || {
        let history = host.guard(&["history", "vm1", "--json"]).ok().stdout;
        history
            .matches("the start failed after it was allowed")
            .count()
    };
    host.fail_at("start");
    host.start_fails(&guest, "made-up failure");
    assert_eq!(failures(), 1);
    let history = host.guard(&["history", "vm1", "--json"]).ok().stdout;
    assert!(history.contains("swtpm: "), "it made a TPM: {history}");
    assert!(history.contains("\"operation\": \"stopped\""), "{history}");
    // One start, one row, with what it repaired.
    assert_eq!(history.matches("\"operation\"").count(), 1, "{history}");
    assert!(history.contains("create-key"), "{history}");

    // One that works is none, nor one that is refused, nor what comes after.
    host.fail_no_longer();
    host.start_and_stop(&guest);
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
    assert_eq!(failures(), 1);
    host.guard(&["reset", "vm1"]).ok();
    host.start_running(&guest);
    host.restart_libvirtd();
    host.stop(&guest);
    assert_eq!(failures(), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_that_is_refused_at_the_deadline_is_a_refusal_wherever_one_looks() {
    let (host, guest) = Host::with_used_guest();
    let log = "/var/log/guard.log";
    host.configure(&format!(
        "[hook]\ndeadline = \"1s\"\n[log]\ntarget = \"{log}\"\n"
    ));
    // Whoever opens this waits for a reader: the verdict is recorded, and then the hook hangs.
    let lock = format!("/run/vtpm-guard/secrets/{}.lock", guest.secret);
    let hang = format!("mkdir -p -m 0700 /run/vtpm-guard/secrets && rm -f {lock} && mkfifo {lock}");
    host.run(&["sh", "-c", &hang]).ok();
    let refused = host.start(&guest).refused_with("VG302");
    assert!(
        refused.stderr.contains("hook.deadline passed"),
        "{refused:#?}"
    );

    let history = host.guard(&["history", "vm1", "--code", "VG302", "--json"]);
    let found = history.ok().stdout;
    assert_eq!(
        found.matches("\"decision\": \"deny\"").count(),
        1,
        "{found}"
    );
    let all = host.guard(&["history", "vm1", "--json"]).ok().stdout;
    assert_eq!(
        all.matches("\"operation\"").count(),
        2,
        "one a start: {all}"
    );
    let captures = host.guard(&["history", "--captures"]).ok().stdout;
    assert!(captures.contains("VG302"), "{captures}");
    let lines = host.read(log);
    assert!(lines.contains("code=\"VG302\""), "{lines}");
    assert!(!lines.contains("decision=\"allow\""), "{lines}");

    host.run(&["rm", &lock]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_ran_unseen_is_no_failed_start() {
    let (host, guest) = Host::with_used_guest();
    // `started` is not heard of.
    let hook = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";
    host.run(&["mv", hook, "/run/hook"]).ok();
    host.write_program(
        hook,
        "#!/bin/sh\n[ \"$2\" = started ] || exec /usr/sbin/vtpm-guard-hook \"$@\"\n",
    );
    host.start_running(&guest);
    let state = host.tpm_state(&guest);
    host.stop(&guest);
    let history = host.guard(&["history", "vm1"]).ok().stdout;
    assert!(!history.contains("failed"), "{history}");
    assert!(host.tpm_state(&guest) == state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn swtpms_log_is_read_as_a_file_of_somebody_elses() {
    let (host, guest) = Host::with_used_guest();
    let log = "/var/log/swtpm/libvirt/qemu/vm1-swtpm.log";
    host.write("/etc/precious", "TOP-SECRET\n");
    host.fail_at("start");
    host.write_program(
        "/etc/libvirt/hooks/qemu.d/80-swap",
        &format!("#!/bin/sh\n[ \"$2\" != start ] || ln -sf /etc/precious {log}\n"),
    );
    host.start_fails(&guest, "made-up failure");
    let history = host.guard(&["history", "vm1"]).ok().stdout;
    assert!(history.contains("the start failed"), "{history}");
    assert!(!history.contains("TOP-SECRET"), "{history}");
}
