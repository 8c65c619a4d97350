//! The daemon that calls this process, and whether it is starting: a libvirtd starts its drivers,
//! and with them the guests that start with it, before it answers clients.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use crate::host::dirs::PROC;

/// The monolithic daemon's name, or a part of it (NixOS: `.libvirtd-wrapped`). Not the modular
/// daemons: while virtqemud starts its guests, virtsecretd answers.
const MONOLITHIC: &str = "libvirtd";

/// The thread in which a daemon starts its drivers; it ends when clients are accepted
/// (`daemonStateInit` in libvirt's `src/remote/remote_daemon.c`, 9.0 and 11.3).
const INITIALISING: &str = "daemon-init";

/// The parts of the names of daemons that run guests.
const DAEMONS: [&str; 2] = [MONOLITHIC, "virtqemud"];

/// How many ancestors are searched for the daemon: a hook may be called through a script.
const GENERATIONS: usize = 4;

/// A process, identified by its number and its start time: numbers are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), field 22 of `stat`).
    pub started: u64,
}

impl Process {
    /// Returns whether it still runs.
    #[must_use]
    pub fn lives(self) -> bool {
        Stat::of(Path::new(PROC), self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

/// `PID START-TIME`
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

/// Returns the libvirtd or virtqemud that started this process; `None` if /proc shows none, as for a
/// hook that a person calls.
#[must_use]
pub fn calling_daemon() -> Option<Process> {
    daemon_above(Path::new(PROC), process::id()).map(|found| found.daemon)
}

/// Returns whether this process was started by a libvirtd that is still starting. If /proc does not
/// show it, the answer is no, and libvirt is asked as usual.
#[must_use]
pub fn called_by_starting_libvirtd() -> bool {
    is_child_of_starting_libvirtd(Path::new(PROC), process::id())
}

fn is_child_of_starting_libvirtd(proc: &Path, pid: u32) -> bool {
    daemon_above(proc, pid).is_some_and(|found| {
        let directory = proc.join(found.daemon.pid.to_string());
        found.name.contains(MONOLITHIC) && has_thread(&directory, INITIALISING)
    })
}

/// The nearest daemon among a process's ancestors.
pub(super) struct DaemonAbove {
    pub(super) daemon: Process,
    name: String,
    /// Its child that is the process, or an ancestor of it.
    pub(super) child: u32,
}

pub(super) fn daemon_above(proc: &Path, mut pid: u32) -> Option<DaemonAbove> {
    for _ in 0..GENERATIONS {
        let parent = Stat::of(proc, pid)?.parent;
        let name = name(&proc.join(parent.to_string()));
        if let Some(name) = name.filter(|name| DAEMONS.iter().any(|known| name.contains(known))) {
            let started = Stat::of(proc, parent)?.started;
            let daemon = Process {
                pid: parent,
                started,
            };
            return Some(DaemonAbove {
                daemon,
                name,
                child: pid,
            });
        }
        pid = parent;
    }
    None
}

/// What `/proc/PID/stat` says about a process (proc(5)).
struct Stat {
    parent: u32,
    started: u64,
}

impl Stat {
    /// Returns `None` if there is no such process.
    fn of(proc: &Path, pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
        // The second field is a name in parentheses, with any characters.
        let (_, behind_name) = stat.rsplit_once(')')?;
        let mut fields = behind_name.split_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        // Fields 5 to 21 are skipped.
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, started })
    }
}

fn has_thread(process: &Path, wanted: &str) -> bool {
    let threads = process.join("task").read_dir().into_iter().flatten();
    threads
        .flatten()
        .any(|thread| name(&thread.path()).is_some_and(|name| name == wanted))
}

/// The daemon of a modular libvirt that has its secrets.
const MODULAR: &str = "virtsecretd";

/// Returns whether a daemon that may have secrets runs on this host. This does not connect to it: if
/// none runs, systemd listens on its socket, would start it, and let the caller wait.
#[must_use]
pub fn a_daemon_runs() -> bool {
    daemon_in(Path::new(PROC))
}

fn daemon_in(proc: &Path) -> bool {
    let Ok(processes) = proc.read_dir() else {
        // Unknown, so assume that one runs.
        return true;
    };
    let is_one = |process: &Path| {
        let name = name(process).unwrap_or_default();
        (name.contains(MONOLITHIC) || name.contains(MODULAR)) && !has_ended(process)
    };
    processes.flatten().any(|process| is_one(&process.path()))
}

/// Returns whether a process has ended, but was not reaped by its parent: the third field of
/// `/proc/PID/stat` (proc(5)).
fn has_ended(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, behind_name)| {
        let mut words = behind_name.split_whitespace();
        words.next()
    });
    matches!(state, Some("Z" | "X") | None)
}

/// Returns the name of a process or a thread, which the kernel cuts to 15 bytes.
fn name(task: &Path) -> Option<String> {
    let comm = fs::read_to_string(task.join("comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Makes a `/proc` with these processes: pid, parent, name, names of threads.
    fn proc(processes: &[(u32, u32, &str, &[&str])]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent, name, threads) in processes {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir(&dir).unwrap();
            let fields = "1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0";
            let stat = format!("{pid} (a ) name) S {parent} {fields} {pid}00 0 0");
            fs::write(dir.join("stat"), stat).unwrap();
            fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
            for (number, thread) in threads.iter().enumerate() {
                let task = dir.join("task").join(number.to_string());
                fs::create_dir_all(&task).unwrap();
                fs::write(task.join("comm"), format!("{thread}\n")).unwrap();
            }
        }
        proc
    }

    #[test]
    fn a_running_daemon_is_found_by_its_process() {
        for (name, runs) in [
            ("libvirtd", true),
            (".libvirtd-wrapp", true),
            ("virtsecretd", true),
            ("vtpm-guard-libv", false),
            ("virtqemud", false),
            ("virtlogd", false),
        ] {
            let proc = proc(&[(1, 0, "init", &[]), (5, 1, name, &[])]);
            fs::write(proc.path().join("uptime"), "").unwrap();
            assert_eq!(daemon_in(proc.path()), runs, "{name}");
        }
        let proc = proc(&[(5, 1, "libvirtd", &[])]);
        fs::write(proc.path().join("5/stat"), "5 (libvirtd) Z 1 1 1 0 -1").unwrap();
        assert!(!daemon_in(proc.path()), "a zombie");
        assert!(daemon_in(&proc.path().join("nowhere")), "unknown");
    }

    const STARTING: &[&str] = &["libvirtd", "rpc-libvirtd", "daemon-init"];
    const UP: &[&str] = &["libvirtd", "rpc-libvirtd", "vm-daemon-init"];

    #[test]
    fn a_libvirtd_that_starts_its_drivers_is_starting() {
        let proc = proc(&[(7, 5, "vtpm-guard-hook", &[]), (5, 1, "libvirtd", STARTING)]);
        assert!(is_child_of_starting_libvirtd(proc.path(), 7));
    }

    #[test]
    fn a_libvirtd_that_is_up_is_not_starting() {
        let proc = proc(&[(7, 5, "vtpm-guard-hook", &[]), (5, 1, "libvirtd", UP)]);
        assert!(!is_child_of_starting_libvirtd(proc.path(), 7));
    }

    #[test]
    fn a_libvirtd_is_found_above_a_script() {
        let proc = proc(&[
            (8, 7, "vtpm-guard-hook", &[]),
            (7, 5, "sh", &[]),
            (5, 1, "libvirtd", STARTING),
        ]);
        assert!(is_child_of_starting_libvirtd(proc.path(), 8));
    }

    #[test]
    fn a_modular_daemon_has_its_secrets_elsewhere() {
        let proc = proc(&[
            (7, 5, "vtpm-guard-hook", &[]),
            (5, 1, "virtqemud", STARTING),
        ]);
        assert!(!is_child_of_starting_libvirtd(proc.path(), 7));
    }

    #[test]
    fn the_daemon_above_a_hook_is_identified_by_its_start_time() {
        for daemon in ["libvirtd", "virtqemud", ".virtqemud-wrap"] {
            let proc = proc(&[
                (8, 7, "vtpm-guard-hook", &[]),
                (7, 5, "sh", &[]),
                (5, 1, daemon, UP),
            ]);
            let found = daemon_above(proc.path(), 8).map(|found| found.daemon.to_string());
            assert_eq!(found.as_deref(), Some("5 500"), "{daemon}");
        }
        let proc = proc(&[(8, 7, "vtpm-guard-hook", &[]), (7, 1, "bash", &[])]);
        assert!(daemon_above(proc.path(), 8).is_none());
    }

    #[test]
    fn a_process_lives_until_it_ends() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = Stat::of(Path::new(PROC), child.id()).unwrap().started;
        let sleeping = Process {
            pid: child.id(),
            started,
        };
        assert!(sleeping.lives());
        let another = Process {
            started: started + 1,
            ..sleeping
        };
        assert!(!another.lives(), "of the same number, started later");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!sleeping.lives());
    }

    #[test]
    fn without_proc_libvirt_counts_as_started() {
        let proc = proc(&[(7, 5, "vtpm-guard-hook", &[])]);
        assert!(!is_child_of_starting_libvirtd(proc.path(), 7));
        assert!(!is_child_of_starting_libvirtd(proc.path(), 9));
        assert!(!called_by_starting_libvirtd());
    }
}
