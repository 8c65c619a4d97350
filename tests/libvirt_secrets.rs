//! The helper, and a start's own connection, against a real libvirt: the rules that the fake libvirt follows,
//! too, and what they do when the daemon does not answer. These tests run as root in a host of their own, where
//! `secret:///system` is nobody else's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod libvirt_rules;
#[allow(dead_code, reason = "shared with tests of other programs")]
mod programs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libvirt_rules::{Daemon, for_each_rule};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use programs::write_program;
use tempfile::TempDir;
use virt::connect::Connect;
use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::host::dirs::LibvirtDirs;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::libvirt::secret::{HostSecrets, SecretError};
use vtpm_guard::internals::libvirt::{Libvirt, LibvirtClient};
use vtpm_guard::internals::verdict::Over;
use zeroize::Zeroizing;

const HELPER: &str = env!("CARGO_BIN_EXE_vtpm-guard-libvirt");

/// One libvirtd for all tests, so one test at a time: some stop it.
static LIBVIRTD: Mutex<()> = Mutex::new(());

/// How libvirt is asked for secrets.
#[derive(Clone, Copy)]
enum By {
    /// By the helper, as commands do.
    Helper,
    /// Without one, as a start does where it can.
    Itself,
}

/// The libvirtd of this host.
struct Libvirtd {
    by: By,
    /// With a helper in it that leaves a note when it is started.
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Libvirtd {
    fn new(by: By) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("asked");
        let script = format!("#!/bin/sh\n: >{}\nexec {HELPER} \"$@\"\n", note.display());
        let helper = dir.path().join("helper");
        write_program(&helper, &script);
        Self {
            by,
            dir,
            _turn: LIBVIRTD.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn client(&self, uri: &str) -> LibvirtClient {
        let client = LibvirtClient::at(uri);
        if uri != "secret:///system" {
            return client.with_helper(HELPER.into());
        }
        let client = client.with_helper(self.dir.path().join("helper"));
        match self.by {
            By::Helper => client,
            By::Itself => client.directly(),
        }
    }

    /// Whether the helper was asked about secrets.
    fn helper_was_asked(&self) -> bool {
        self.dir.path().join("asked").exists()
    }
}

/// The daemon that has the secrets.
fn daemon() -> &'static str {
    let is_modular = !Path::new("/usr/sbin/libvirtd").exists();
    if is_modular {
        "virtsecretd"
    } else {
        "libvirtd"
    }
}

/// Runs `work` while libvirtd is stopped.
fn stopped_during<T>(_libvirtd: &Libvirtd, work: impl FnOnce() -> T) -> T {
    let pid = std::fs::read_to_string(format!("/run/{}.pid", daemon())).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let result = work();
    kill(pid, Signal::SIGCONT).unwrap();
    result
}

impl Daemon for Libvirtd {
    fn connect(&self, uri: &str) -> Box<dyn Libvirt> {
        Box::new(self.client(uri))
    }

    fn define_secret(&self, xml: &str) -> bool {
        runs_virsh(&["secret-define", "/dev/stdin"], xml)
    }

    /// virsh takes no long ones.
    fn set_value(&self, secret: SecretUuid, value: &[u8]) {
        let connection = Connect::open(Some("secret:///system")).unwrap();
        let secret = connection.lookup_secret_by_uuid_string(&secret.to_string());
        secret.unwrap().set_value(value, 0).unwrap();
    }

    fn secrets_dir(&self) -> PathBuf {
        LibvirtDirs::default().secrets()
    }

    fn define_guest(&self, xml: &str) {
        virsh(&["define", "/dev/stdin"], xml);
    }

    fn undefine_guest(&self, name: &str) {
        virsh(&["undefine", name], "");
    }
}

fn virsh(args: &[&str], input: &str) {
    assert!(runs_virsh(args, input), "virsh {args:?}");
}

/// Runs virsh, and returns whether it succeeded.
fn runs_virsh(args: &[&str], input: &str) -> bool {
    let mut virsh = Command::new("timeout")
        .args(["10", "virsh", "--quiet", "--connect", "qemu:///system"])
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = virsh.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    virsh.wait().unwrap().success()
}

/// A rule holds without a helper. One case is the helper's: libvirt's library refuses what no daemon takes.
fn follow_rule(rule: fn(&dyn Daemon), name: &str) {
    let libvirtd = Libvirtd::new(By::Itself);
    rule(&libvirtd);
    let is_the_helpers = name == "a_value_that_libvirt_refuses_leaves_no_secret";
    assert_eq!(libvirtd.helper_was_asked(), is_the_helpers);
}

macro_rules! test_rules {
    ($($rule:ident)*) => {
        mod by_the_helper {
            $(
                #[test]
                #[ignore = "needs root and a private libvirtd: ./dev test runs it"]
                fn $rule() {
                    crate::libvirt_rules::$rule(&crate::Libvirtd::new(crate::By::Helper));
                }
            )*
        }

        mod without_a_helper {
            $(
                #[test]
                #[ignore = "needs root and a private libvirtd: ./dev test runs it"]
                fn $rule() {
                    crate::follow_rule(crate::libvirt_rules::$rule, stringify!($rule));
                }
            )*
        }
    };
}
for_each_rule!(test_rules);

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_libvirt_that_does_not_answer_is_unreachable_at_the_deadline() {
    for by in [By::Helper, By::Itself] {
        does_not_answer(&Libvirtd::new(by));
    }
}

fn does_not_answer(libvirtd: &Libvirtd) {
    let (client, secret) = (libvirtd.client("secret:///system"), SecretUuid::random());
    let asked = Instant::now();
    let (answer, waited) = stopped_during(libvirtd, || {
        let deadline = Deadline::after(Duration::from_millis(300));
        (client.inspect(secret, deadline), asked.elapsed())
    });
    assert!(matches!(answer, Err(SecretError::Unreachable(words)) if words.contains("in time")));
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    // It would be waited for once more at each question: one that was silent counts as silent.
    let asked = Instant::now();
    let next = client.inspect(secret, soon());
    assert!(matches!(next, Err(SecretError::Unreachable(words)) if words.contains("in time")));
    assert!(asked.elapsed() < Duration::from_secs(10));
    let next = libvirtd.client("secret:///system").inspect(secret, soon());
    assert!(next.unwrap().is_none(), "another command is answered");
}

#[test]
#[ignore = "needs root and a private libvirtd: ./dev test runs it"]
fn a_libvirt_that_stops_answering_between_two_questions_is_unreachable_too() {
    for by in [By::Helper, By::Itself] {
        stops_answering(&Libvirtd::new(by));
    }
}

fn stops_answering(libvirtd: &Libvirtd) {
    let (client, secret) = (libvirtd.client("secret:///system"), SecretUuid::random());
    assert!(client.inspect(secret, soon()).unwrap().is_none());
    let dek = Dek::from_bytes(Zeroizing::new(b"made-up key".to_vec()));
    let provided = stopped_during(libvirtd, || {
        let deadline = Deadline::after(Duration::from_millis(300));
        client.provide(
            secret,
            DomainUuid::random(),
            &dek,
            Over::GuardsOwn,
            deadline,
        )
    });
    assert!(
        matches!(provided, Err(SecretError::Unreachable(_))),
        "{provided:?}"
    );
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}
