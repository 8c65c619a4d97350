//! What libvirt and other callers may rely on, whatever happens: silence on stdout, a status,
//! an answer in time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output, finish};

const PREPARE: [&str; 3] = ["prepare", "begin", "-"];

/// A host with a guest whose start would be refused.
fn host_with_guest_without_key() -> (Host, Guest) {
    let host = Host::new();
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    (host, guest)
}

#[track_caller]
fn assert_passes_silently(answer: &Output) {
    assert_eq!(answer.status, 0, "{answer:#?}");
    assert_eq!(answer.stdout, "");
    assert_eq!(answer.stderr, "");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn only_prepare_refuses_and_nothing_writes_on_stdout() {
    let (host, guest) = host_with_guest_without_key();
    let xml = host.xml(&guest);
    for operation in [
        ["start", "begin", "-"],
        ["started", "begin", "-"],
        ["stopped", "end", "-"],
        ["release", "end", "failed"],
        ["migrate", "begin", "-"],
        ["restore", "begin", "-"],
        ["reconnect", "begin", "-"],
        ["attach", "begin", "-"],
        ["prepare", "end", "-"],
        ["no-such-operation", "begin", "-"],
    ] {
        assert_passes_silently(&host.hook("vm1", &operation, &xml));
        assert_passes_silently(&host.hook("vm1", &operation, "<nonsense"));
    }
    assert_passes_silently(&host.run(&["/usr/sbin/vtpm-guard-hook"]));

    // `migrate begin` has announced state by now; the start is refused all the same.
    let refused = host.hook("vm1", &PREPARE, &xml);
    assert_eq!(refused.status, 1);
    assert_eq!(refused.stdout, "");
    assert!(refused.stderr.starts_with("vtpm-guard: VG20"));
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unreadable_domain_xml_passes_unless_an_emulated_tpm_was_seen_and_the_policy_is_strict() {
    let host = Host::new();
    let seen = "<domain><name>vm</name><devices><tpm><backend type='emulator'>";
    assert_eq!(host.hook("vm1", &PREPARE, seen).status, 0);
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    host.hook("vm1", &PREPARE, seen).refused_with("VG501");
    for unseen in ["<domain><name>vm", "", "\n", "<domain><devices><tpm>"] {
        assert_eq!(host.hook("vm1", &PREPARE, unseen).status, 0, "{unseen:?}");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_plain_users_session_daemon_passes() {
    let (host, guest) = host_with_guest_without_key();
    let xml = host.xml(&guest);
    let as_nobody = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
    ];
    let call = ["/usr/sbin/vtpm-guard-hook", "vm1", "prepare", "begin", "-"];
    let command = [&as_nobody[..], &call].concat();
    assert_passes_silently(&host.run_with_input(&command, &xml));
    host.create_provider("nkp-a");
    assert_passes_silently(&host.run_with_input(&command, &xml));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_stdin_that_never_ends_does_not_hold_the_guests_lock_past_the_deadline() {
    let host = Host::new();
    host.configure("[hook]\ndeadline = \"1s\"\n");
    for operation in ["prepare", "started", "release"] {
        let call = ["/usr/sbin/vtpm-guard-hook", "vm1", operation, "begin", "-"];
        let mut command = host.command(&call);
        let started = Instant::now();
        let mut hook = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let open_end = hook.stdin.take();
        let answer = finish(hook);
        drop(open_end);
        assert!(started.elapsed() < Duration::from_secs(4), "{answer:#?}");
        assert_eq!(answer.status, 0, "{answer:#?}");
        assert_eq!(answer.stdout, "");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_refusal_stays_one_though_the_deadline_passes_while_it_is_told() {
    let host = Host::new();
    host.configure("[policy]\nunencrypted = \"deny\"\n[hook]\ndeadline = \"1s\"\n");
    // One piece after the other: stdin is never silent for long, and does not end in time.
    let trickle = "printf \"<domain><devices><tpm><backend type='emulator'>\"; \
                   for i in 0 1 2 3 4 5; do printf '<'; sleep 0.25; done";
    let call = "/usr/sbin/vtpm-guard-hook vm1 prepare begin -";
    for _ in 0..5 {
        host.run(&["bash", "-c", &format!("({trickle}) | {call}")])
            .refused_with("VG501");
    }
}

/// Listens where the daemon that has the secrets does.
struct InPlaceOfDaemon {
    socket: PathBuf,
    aside: PathBuf,
    listens: UnixListener,
}

impl InPlaceOfDaemon {
    fn of(host: &Host) -> Self {
        let name = match host.secrets_daemon() {
            "virtsecretd" => "virtsecretd-sock",
            _ => "libvirt-sock",
        };
        let socket = host.path(&format!("/run/libvirt/{name}"));
        let aside = socket.with_extension("aside");
        fs::rename(&socket, &aside).unwrap();
        let listens = UnixListener::bind(&socket).unwrap();
        listens.set_nonblocking(true).unwrap();
        Self {
            socket,
            aside,
            listens,
        }
    }

    fn was_asked(&self) -> bool {
        self.listens.accept().is_ok()
    }
}

impl Drop for InPlaceOfDaemon {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.socket).unwrap();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_deaf_libvirtd_is_an_answer_within_the_deadline() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[hook]\ndeadline = \"2s\"\n");
    let (xml, rows) = (host.xml(&guest), host.key_refs(&guest));
    host.signal_libvirtd("STOP");

    let started = Instant::now();
    host.hook("vm1", &PREPARE, &xml).refused_with("VG302");
    assert!(started.elapsed() < Duration::from_secs(4));
    // Nothing was provided, so nothing is asked afterwards: nobody connects.
    let listens = InPlaceOfDaemon::of(&host);
    for operation in ["stopped", "release"] {
        let answer = host.hook("vm1", &[operation, "end", "-"], &xml);
        assert_eq!(answer.status, 0);
    }
    assert!(!listens.was_asked());
    drop(listens);
    // Of what was provided, perhaps, it is; but for a moment only, whatever the deadline.
    host.configure("[hook]\ndeadline = \"20s\"\n");
    let asked = Instant::now();
    for operation in ["started", "stopped", "release"] {
        let sub = if operation == "started" {
            "begin"
        } else {
            "end"
        };
        let answer = host.hook("vm1", &[operation, sub, "-"], &xml);
        assert_eq!(answer.status, 0);
    }
    assert!(asked.elapsed() < Duration::from_secs(8));

    host.signal_libvirtd("CONT");
    assert_eq!(host.key_refs(&guest), rows);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_journald_that_takes_nothing_holds_up_no_start() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[hook]\ndeadline = \"2s\"\n");
    host.write(
        "/run/journald.py",
        "import os, socket, sys, time\n\
         os.makedirs('/run/systemd/journal', exist_ok=True)\n\
         path = '/run/systemd/journal/socket'\n\
         journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         journald.bind(path)\n\
         others = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         others.setblocking(False)\n\
         try:\n\
         \x20   while True: others.sendto(b'MESSAGE=words', path)\n\
         except BlockingIOError: print('full', flush=True)\n\
         sys.stdin.read()\n",
    );
    let mut journald = host
        .command(&["python3", "/run/journald.py"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(journald.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "full\n");

    host.start_running(&guest);
    drop(journald.stdin.take());
    journald.wait().unwrap();
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_guest_is_restored_with_its_tpm() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    assert_eq!(host.state(&guest), "shut off");
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_running_guest_survives_the_restart_of_its_daemon_without_its_provider() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    host.delete_provider("nkp-a");
    host.restart_libvirtd();
    assert_eq!(host.state(&guest), "running");
}

/// L3 of the audit: root is not let pass because somebody owns its directory.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn for_root_a_state_directory_of_somebody_elses_is_a_store_that_cannot_be_used() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[log]\ntarget = \"/var/log/guard.log\"\n");
    let xml = host.xml(&guest);
    host.run(&["chown", "65534", "/var/lib/vtpm-guard"]).ok();
    let refused = host.hook("vm1", &PREPARE, &xml);
    assert_eq!(refused.status, 1, "{refused:#?}");
    assert!(
        refused.stderr.starts_with("vtpm-guard: VG401"),
        "{refused:#?}"
    );
    assert!(host.read("/var/log/guard.log").contains("VG401"));

    // Plain users, and root of a namespace of theirs, are none of its business.
    for who in [
        &["setpriv", "--reuid", "65533", "--clear-groups"][..],
        &[
            "setpriv",
            "--reuid",
            "65533",
            "--clear-groups",
            "unshare",
            "-r",
        ],
    ] {
        let call = [who, &["/usr/sbin/vtpm-guard-hook", "vm1"], &PREPARE].concat();
        assert_passes_silently(&host.run_with_input(&call, &xml));
    }
    host.run(&["chown", "0", "/var/lib/vtpm-guard"]).ok();
    host.start_running(&guest);
}
