//! The command, and the helper that asks libvirt for it, keep their memory and their files to themselves, as seen from outside:
//! no core, no other process that reads it, no swap, no file for others.

use std::process::{Child, Command, Stdio};

use crate::env::Host;
use crate::privileges::{Process, closes, command, open_to_all};

const HELPER: [&str; 2] = [
    env!("CARGO_BIN_EXE_vtpm-guard-libvirt"),
    "secret:///system?socket=/nowhere/sock",
];

/// A program that runs, and waits for its stdin.
struct Waiting(Child);

impl Waiting {
    fn start(command: &mut Command) -> Self {
        let streams = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(streams.spawn().unwrap())
    }

    fn process(&self) -> Process {
        Process::of(self.0.id())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_command_that_waits_for_a_passphrase_is_closed_to_others() {
    let host = Host::with_provider("nkp-a");
    let state = host.state_dir();
    let mut export = command(&open_to_all());
    export
        .arg(env!("CARGO_BIN_EXE_vtpm-guard"))
        .arg("--state-dir")
        .arg(&*state);
    export.args([
        "provider",
        "export",
        "nkp-a",
        "--passphrase-file",
        "-",
        "--output",
    ]);
    let export = Waiting::start(export.arg(host.path("recovery")));
    closes(&export.process());
}

#[test]
fn the_helper_that_gets_keys_for_libvirt_is_closed_to_others() {
    let helper = Waiting::start(command(&open_to_all()).args(HELPER));
    closes(&helper.process());
}
