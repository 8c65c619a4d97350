//! The programs of kms/ and stores/ dump no core, in which a key could be.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::built::built;

/// A signal that dumps a core ends each of these programs without one, whatever limit whoever started it has set.
#[test]
fn no_program_dumps_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let start = |program: &Path| {
        Command::new("prlimit")
            .args(["--core=unlimited:unlimited", "--"])
            .arg(program)
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let abort = |mut child: Child| {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGABRT).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
        let files = fs::read_dir(&dir).unwrap().count();
        (status.core_dumped(), files)
    };
    let other = start(Path::new("/usr/bin/cat"));
    std::thread::sleep(Duration::from_millis(200));
    if abort(other) == (false, 0) {
        // As a machine is set up whose cores go to a program that is not here.
        let _ = writeln!(std::io::stderr(), "\nleft out: this machine dumps no cores");
        return;
    }
    let cores = fs::read_dir(&dir).unwrap().flatten();
    cores.for_each(|core| fs::remove_file(core.path()).unwrap());
    for name in [
        "kms-exec",
        "kms-kmip",
        "kms-pkcs11",
        "kms-transit",
        "store-postgresql",
    ] {
        let mut child = start(&built(name));
        // An answer says that it has begun.
        let status = br#"{"op":"status","deadline_ms":1}"#;
        let length = u32::try_from(status.len()).unwrap().to_be_bytes();
        let frame = [&length[..], status].concat();
        child.stdin.as_mut().unwrap().write_all(&frame).unwrap();
        let mut length = [0; 4];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut length)
            .unwrap();
        assert_eq!(abort(child), (false, 0), "{name}");
    }
}
