//! A start asks libvirt without the helper, which commands need; and it needs one where libvirt is not as
//! expected.

use std::process::Child;
use std::time::Duration;

use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::host::poll;

use crate::guest::Guest;
use crate::host::{Host, Output, skipped};

const HELPER: &str = "/usr/sbin/vtpm-guard-libvirt";

/// Where the helper leaves a note when it is started.
const NOTE: &str = "/run/helper-was-started";

/// A host whose helper leaves a note, and a guest that has used its TPM.
fn host_with_watched_helper() -> (Host, Guest) {
    let (host, guest) = Host::with_used_guest();
    host.run(&["cp", HELPER, "/run/helper"]).ok();
    host.run(&["umount", HELPER]).ok();
    host.run(&["rm", HELPER]).ok();
    let script = format!("#!/bin/sh\n: >{NOTE}\nexec /run/helper \"$@\"\n");
    host.write_program(HELPER, &script);
    (host, guest)
}

impl Host {
    /// Whether the helper was started since this was last asked.
    fn helper_was_started(&self) -> bool {
        self.run(&["rm", NOTE]).status == 0
    }

    /// Restarts the daemon that has the secrets with one more line in its configuration. Returns what it
    /// says.
    fn configure_secrets_daemon(&self, line: &str) -> Output {
        let daemon = self.secrets_daemon();
        self.write(
            &format!("/etc/libvirt/{daemon}.conf"),
            format!("unix_sock_rw_perms = \"0777\"\n{line}\n"),
        );
        self.end(daemon, "KILL");
        self.run(&[daemon, "-d"])
    }

    /// What the hook says to a start, past libvirtd.
    fn prepare(&self, guest: &Guest, xml: &str) -> Output {
        self.hook(&guest.name, &["prepare", "begin", "-"], xml)
    }

    /// Puts itself before the daemon that has the secrets, and answers the first call of a procedure by
    /// nonsense, or not at all; the daemon gets the call.
    fn spoil_answer(&self, procedure: u32, answer: &str) -> Spoiler {
        let daemon = self.secrets_daemon().replace("libvirtd", "libvirt");
        let socket = format!("/run/libvirt/{daemon}-sock");
        let spoiler = ["python3", "-c", SPOILER, &socket];
        let procedure = procedure.to_string();
        let process = self
            .command(&[&spoiler[..], &[&procedure, answer]].concat())
            .spawn()
            .unwrap();
        let behind = self.path(&format!("{socket}.behind"));
        let there = poll::poll(
            Duration::from_millis(10),
            Deadline::after(Duration::from_secs(20)),
            || (behind.exists() && self.path(&socket).exists()).then_some(()),
        );
        assert!(there.is_some(), "it does not listen");
        Spoiler(process)
    }
}

struct Spoiler(Child);

impl Drop for Spoiler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon between libvirt's and its clients: SOCKET PROCEDURE ANSWER.
const SPOILER: &str = r#"
import os, socket, struct, sys, threading
path, procedure, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
spoilt = threading.Event()
listener = socket.socket(socket.AF_UNIX)
listener.bind(path + ".new")
os.chmod(path + ".new", 0o777)
listener.listen(50)
os.rename(path, path + ".behind")
os.rename(path + ".new", path)

def message(stream):
    length = stream.recv(4, socket.MSG_WAITALL)
    rest = stream.recv(struct.unpack(">I", length)[0] - 4, socket.MSG_WAITALL) if len(length) == 4 else b""
    return length + rest

def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_RDWR)

def serve(client):
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(path + ".behind")
    if spoilt.is_set():
        threading.Thread(target=pass_on, args=(daemon, client), daemon=True).start()
        return pass_on(client, daemon)
    while call := message(client):
        daemon.sendall(call)
        reply = message(daemon)
        if struct.unpack(">I", call[12:16])[0] == procedure:
            spoilt.set()
            client.sendall(answer)
            return client.close()
        client.sendall(reply)
    client.close()

while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"#;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_and_a_stop_need_no_helper_and_leave_no_word_in_libvirts_log() {
    let (host, guest) = host_with_watched_helper();
    let log = || {
        let log = format!("/var/log/libvirt/{}.log", host.secrets_daemon());
        let lost = ["End of file", "Cannot write", "Cannot read"];
        let lines = host.run(&["cat", &log]).stdout;
        lines
            .lines()
            .filter(|line| lost.iter().any(|words| line.contains(words)))
            .count()
    };
    let before = log();
    // Each of four starts provides the secret, and the two of them that do not keep it drop it.
    let connections = 6;
    for lifetime in ["start", "run", "keep"] {
        host.configure(&format!("[secret]\nlifetime = \"{lifetime}\"\n"));
        host.start_running(&guest);
        assert_eq!(host.has_secret(guest.secret), lifetime != "start");
        host.stop(&guest);
        assert_eq!(host.has_secret(guest.secret), lifetime == "keep");
    }
    host.start_and_stop(&guest);
    assert!(!host.helper_was_started());
    // The hook waits only for a moment until the daemon has closed: a busy one may be slower now and then.
    let lost = log() - before;
    assert!(lost < connections, "{lost} that the daemon has lost");
    assert_eq!(host.tpms_made(&guest), 1);
    // The note works.
    host.guard(&["check", "vm1"]).ok();
    assert!(host.helper_was_started());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn root_needs_no_helper_where_polkit_asks_everybody_else() {
    let (host, guest) = host_with_watched_helper();
    host.configure_secrets_daemon("auth_unix_rw = \"polkit\"")
        .ok();
    host.start_and_stop(&guest);
    assert!(!host.helper_was_started());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_daemon_that_wants_authentication_is_left_to_the_helper_whose_words_are_told() {
    let (host, guest) = host_with_watched_helper();
    let xml = host.xml(&guest);
    let started = host.configure_secrets_daemon("auth_unix_rw = \"sasl\"");
    if started.stderr.contains("unsupported auth sasl") {
        return skipped("this daemon was built without SASL");
    }
    started.ok();
    let refused = host.prepare(&guest, &xml);
    assert_eq!(refused.status, 1, "{refused:#?}");
    assert!(
        refused.stderr.contains("authentication failed"),
        "{refused:#?}"
    );
    assert!(host.helper_was_started());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_mode_in_libvirts_configuration_is_left_to_the_helper() {
    let (host, guest) = host_with_watched_helper();
    let mode = if host.is_modular() {
        "direct"
    } else {
        "legacy"
    };
    host.write(
        "/etc/libvirt/libvirt.conf",
        format!("remote_mode = \"{mode}\"\n"),
    );
    host.start_and_stop(&guest);
    assert!(host.helper_was_started());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_goes_on_with_the_helper_wherever_libvirts_answer_is_spoilt() {
    let (host, guest) = host_with_watched_helper();
    let xml = host.xml(&guest);
    // Authentication, opening, look-up, definition, value.
    for procedure in [66, 1, 141, 142, 144] {
        for answer in ["", "HTTP/1.1 400 Bad Request"] {
            let spoiler = host.spoil_answer(procedure, answer);
            let allowed = host.prepare(&guest, &xml);
            assert_eq!(allowed.status, 0, "{procedure} {answer:?}: {allowed:#?}");
            assert!(host.helper_was_started(), "{procedure} {answer:?}");
            drop(spoiler);
            let daemon = host.secrets_daemon().replace("libvirtd", "libvirt");
            let socket = format!("/run/libvirt/{daemon}-sock");
            host.run(&["mv", &format!("{socket}.behind"), &socket]).ok();
            // What libvirt has opens the TPM.
            host.start_and_stop(&guest);
            assert!(!host.has_secret(guest.secret));
            assert!(!host.helper_was_started());
        }
    }
}
