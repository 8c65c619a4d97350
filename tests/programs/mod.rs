//! Programs that tests write. Another process does it: one that is open for writing cannot be run, and what a test's
//! process has open, children of other tests may have open, too.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a program of this script.
pub(crate) fn write_program(path: &Path, script: &str) {
    let mut writes = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = writes.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    assert!(writes.wait().unwrap().success());
}

/// Copies a program.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let install = Command::new("install")
        .args(["-m", "755"])
        .args([from, to])
        .status();
    assert!(install.unwrap().success());
}

/// Puts a program somewhere, as a hard link to it where that can be.
pub(crate) fn link_program(program: &Path, to: &Path) {
    if fs::hard_link(program, to).is_err() {
        copy_program(program, to);
    }
}
