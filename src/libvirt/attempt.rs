//! To which attempt to start a guest a call of the hook belongs.
//!
//! libvirt announces state that will arrive (`restore begin`, `migrate begin`) and prepares the
//! start (`prepare begin`) during one call of a client, which one thread of the daemon serves
//! from beginning to end (`qemuDomainRestoreInternal`, `qemuDomainObjRestore`,
//! `qemuMigrationDstPrepareAny`; seen on libvirt 9.0 and 11.3).

use std::fs;
use std::path::Path;
use std::process;

use super::daemon::{Process, daemon_above};
use crate::host::dirs::PROC;

/// Returns the attempt to which this call of the hook belongs: the daemon and its thread, `PID
/// START-TIME THREAD`; without the thread if the kernel does not list children
/// (`CONFIG_PROC_CHILDREN`). Empty if /proc shows no daemon, as for a hook that a person calls.
#[must_use]
pub fn calling_attempt() -> String {
    attempt(Path::new(PROC), process::id())
}

fn attempt(proc: &Path, pid: u32) -> String {
    let Some((daemon, child)) = daemon_above(proc, pid).map(|found| (found.daemon, found.child))
    else {
        return String::new();
    };
    match parent_thread(proc, daemon, child) {
        Some(thread) => format!("{daemon} {thread}"),
        None => daemon.to_string(),
    }
}

/// Returns the thread of a process that started this child.
fn parent_thread(proc: &Path, parent: Process, child: u32) -> Option<String> {
    let threads = proc.join(parent.pid.to_string()).join("task").read_dir();
    let child = child.to_string();
    threads.ok()?.flatten().find_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).ok()?;
        let is_its = children.split_ascii_whitespace().any(|it| it == child);
        is_its.then(|| thread.file_name().to_string_lossy().into_owned())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Makes a `/proc` with a daemon 5, whose thread 6 started a script 7, which started the hook 8.
    fn proc() -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent, name) in [(8, 7, "vtpm-guard-hook"), (7, 5, "sh"), (5, 1, "virtqemud")] {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            let fields = "1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0";
            let stat = format!("{pid} ({name}) S {parent} {fields} {pid}00 0 0");
            fs::write(dir.join("stat"), stat).unwrap();
            fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
        }
        for (thread, children) in [(5, "9 "), (6, "17 7 ")] {
            let task = proc.path().join(format!("5/task/{thread}"));
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("children"), children).unwrap();
        }
        proc
    }

    #[test]
    fn an_attempt_is_a_thread_of_a_daemon() {
        let proc = proc();
        for hook in [8, 7] {
            assert_eq!(attempt(proc.path(), hook), "5 500 6");
        }
    }

    #[test]
    fn without_lists_of_children_an_attempt_is_the_daemon() {
        let proc = proc();
        fs::remove_file(proc.path().join("5/task/6/children")).unwrap();
        assert_eq!(attempt(proc.path(), 8), "5 500");
    }

    #[test]
    fn without_a_daemon_there_is_no_attempt() {
        let proc = proc();
        fs::write(proc.path().join("5/comm"), "bash\n").unwrap();
        assert_eq!(attempt(proc.path(), 8), "");
        assert_eq!(calling_attempt(), "");
    }
}
