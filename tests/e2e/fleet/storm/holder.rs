//! Reports who has the store's lock when somebody waits too long for it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The byte of the index of a write-ahead log that its only writer locks (SQLite, "WAL-mode File Format", 2.3).
const WRITER: u64 = 120;

/// What the processes are doing that have the lock of this store's writer. Nothing where the kernel names none: it lists
/// the locks in pieces, and skips some that change meanwhile.
pub(super) fn holder(store: &Path) -> String {
    let index = store.with_extension("db-shm");
    let inode = fs::metadata(&index).unwrap().ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut said = String::new();
    for pid in locks.lines().filter_map(|line| writer(line, inode)) {
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        writeln!(said, "process {pid}: {}", cmdline.replace('\0', " ")).unwrap();
        for what in ["status", "syscall", "stack"] {
            let text = fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let state = |line: &&str| what != "status" || line.starts_with("State:");
            for line in text.lines().filter(state) {
                writeln!(said, "  {what}: {line}").unwrap();
            }
        }
    }
    said
}

/// The process of a line of `/proc/locks`, if it has this lock and does not only wait for it:
/// `1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 121`. What one process has side by side is one lock.
fn writer(line: &str, inode: u64) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, "POSIX", _, "WRITE", pid, file, first, last] = words[..] else {
        return None;
    };
    let of_this_file = file.rsplit(':').next()? == inode.to_string();
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (of_this_file && (first..=last).contains(&WRITER)).then_some(pid)
}
