//! What the program asks of the operating system; the one address of unsafe code.

use std::io;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps the keys in this process's memory out of core dumps, and the memory itself out of
/// reach of other processes of the same user (ptrace, /proc/PID/mem).
///
/// The size limit alone is not enough: a core dump that goes to a program (`core_pattern`
/// with a pipe, as systemd-coredump has it) ignores it; one of a process that is not dumpable
/// is not made at all (core(5), `PR_SET_DUMPABLE` in prctl(2)). Children do not inherit the
/// latter, for exec resets it, but they inherit the limit.
pub fn protect_process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::child;
    use crate::clock::Deadline;

    #[test]
    #[ignore = "changes its own process: run by the test below in one of its own"]
    fn protects_this_process() {
        protect_process().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<_> = core.split_whitespace().collect();
        assert_eq!(words, ["Max", "core", "file", "size", "0", "0", "bytes"]);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }

    #[test]
    fn a_protected_process_dumps_no_core() {
        let output = child::run(
            &std::env::current_exe().unwrap(),
            &["--exact", "--ignored", "sys::tests::protects_this_process"],
            b"",
            1 << 16,
            Deadline::after(Duration::from_secs(20)),
        )
        .unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && words.contains("1 passed"),
            "{words}"
        );
    }
}
