//! The daemon that calls this process, and whether it is starting: a daemon starts its drivers,
//! and with them the guests that start with it, before it answers clients.

use std::fmt;
use std::fs::{self, DirEntry};
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use super::daemons::Daemons;
use crate::host::dirs::{LibvirtDirs, PROC};
use crate::host::text;

/// The thread in which a daemon starts its drivers; it ends when clients are accepted
/// (`daemonStateInit` in libvirt's `src/remote/remote_daemon.c`, 9.0 and 11.3).
const INITIALISING: &str = "daemon-init";

/// Both kinds of daemons. A process has one's name, or its name contains that (NixOS:
/// `.libvirtd-wrapped`).
const BOTH: [Daemons; 2] = [Daemons::Monolithic, Daemons::Modular];

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

/// Returns of which kind the daemon is that started this process, if it is still starting. A libvirtd
/// takes no secret then; while virtqemud starts its guests, virtsecretd does. If /proc does not show
/// the daemon, libvirt is asked as usual.
#[must_use]
pub fn called_by_starting_daemon() -> Option<Daemons> {
    starting_above(Path::new(PROC), process::id())
}

fn starting_above(proc: &Path, pid: u32) -> Option<Daemons> {
    let found = daemon_above(proc, pid)?;
    let directory = proc.join(found.daemon.pid.to_string());
    has_thread(&directory, INITIALISING).then_some(found.kind)
}

/// The nearest daemon among a process's ancestors.
pub(super) struct DaemonAbove {
    pub(super) daemon: Process,
    kind: Daemons,
    /// Its child that is the process, or an ancestor of it.
    pub(super) child: u32,
}

pub(super) fn daemon_above(proc: &Path, mut pid: u32) -> Option<DaemonAbove> {
    for _ in 0..GENERATIONS {
        let parent = Stat::of(proc, pid)?.parent;
        let name = name(&proc.join(parent.to_string())).unwrap_or_default();
        if let Some(kind) = BOTH
            .into_iter()
            .find(|kind| name.contains(kind.of_guests()))
        {
            let started = Stat::of(proc, parent)?.started;
            let daemon = Process {
                pid: parent,
                started,
            };
            return Some(DaemonAbove {
                daemon,
                kind,
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
        Self::parse(&text::read(&proc.join(pid.to_string()).join("stat")).ok()?)
    }

    /// Returns `None` if it does not say.
    fn parse(stat: &str) -> Option<Self> {
        // The second field is a name in parentheses, with any characters.
        let (_, behind_name) = stat.rsplit_once(')')?;
        let mut fields = behind_name.split_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        // Fields 5 to 21 are skipped.
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, started })
    }
}

/// What `/proc/PID/stat` and `status` say, for fuzzing: the number of the parent and the start time; whether the process
/// has ended, and whether it is root's alone.
#[cfg(feature = "internals")]
#[must_use]
pub fn process_says(stat: &str, status: &str) -> (Option<(u32, u64)>, bool, bool) {
    let read = Stat::parse(stat).map(|stat| (stat.parent, stat.started));
    (read, says_ended(stat), says_root(status))
}

fn has_thread(process: &Path, wanted: &str) -> bool {
    let threads = process.join("task").read_dir().into_iter().flatten();
    threads
        .flatten()
        .any(|thread| name(&thread.path()).is_some_and(|name| name == wanted))
}

/// Returns whether this daemon runs, as its pid file says: a file that is left of one that was killed
/// names nobody, or somebody else.
#[must_use]
pub fn daemon_runs(dirs: &LibvirtDirs, daemon: &str) -> bool {
    runs_in(Path::new(PROC), &dirs.pid_file(daemon), daemon)
}

pub(super) fn runs_in(proc: &Path, pid_file: &Path, daemon: &str) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap_or_default();
    let process = proc.join(pid.trim());
    !pid.is_empty() && is_one(&process, daemon)
}

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
    // /proc has more than processes, and SELinux does not let everyone look into all of it.
    let is_process = |entry: &DirEntry| {
        let name = entry.file_name();
        name.to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let is_one = |process: &Path| {
        let mut kinds = BOTH.iter();
        kinds.any(|kind| is_one(process, kind.of_secrets()))
    };
    let mut processes = processes.flatten().filter(is_process);
    processes.any(|process| is_one(&process.path()))
}

/// Returns whether this process is the system's daemon of this name, and has not ended.
fn is_one(process: &Path, daemon: &str) -> bool {
    name(process).is_some_and(|name| name.contains(daemon))
        && is_roots(process)
        && !has_ended(process)
}

/// Returns whether a process is root's and nobody else's: a plain user's session daemon (GNOME Boxes) has
/// the same name, and anybody may call a program so. The owner of `/proc/PID` does not tell: it is root
/// wherever a process has forbidden its dumps (proc(5)).
fn is_roots(process: &Path) -> bool {
    says_root(&text::read(&process.join("status")).unwrap_or_default())
}

fn says_root(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, and that of its file accesses.
    ids.is_some_and(|ids| ids.split_whitespace().eq(["0"; 4]))
}

/// Returns whether a process has ended, but was not reaped by its parent: the third field of
/// `/proc/PID/stat` (proc(5)).
fn has_ended(process: &Path) -> bool {
    says_ended(&text::read(&process.join("stat")).unwrap_or_default())
}

fn says_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, behind_name)| {
        let mut words = behind_name.split_whitespace();
        words.next()
    });
    matches!(state, Some("Z" | "X") | None)
}

/// Returns the name of a process or a thread, which the kernel cuts to 15 bytes.
fn name(task: &Path) -> Option<String> {
    let comm = text::read(&task.join("comm")).ok()?;
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
            fs::write(dir.join("status"), status("0\t0\t0\t0")).unwrap();
            for (number, thread) in threads.iter().enumerate() {
                let task = dir.join("task").join(number.to_string());
                fs::create_dir_all(&task).unwrap();
                fs::write(task.join("comm"), format!("{thread}\n")).unwrap();
            }
        }
        proc
    }

    /// A hook (8) that a script (7) runs, which this daemon (5) has started.
    fn proc_of_script(daemon: &str, threads: &[&str]) -> tempfile::TempDir {
        proc(&[
            (8, 7, "vtpm-guard-hook", &[]),
            (7, 5, "sh", &[]),
            (5, 1, daemon, threads),
        ])
    }

    fn status(ids: &str) -> String {
        format!("Name:\tlibvirtd\nUmask:\t0022\nUid:\t{ids}\nGid:\t0\t0\t0\t0\n")
    }

    #[test]
    fn a_daemon_of_a_plain_user_is_not_the_systems() {
        let proc = proc(&[(5, 1, "libvirtd", &[])]);
        let pid_file = proc.path().join("libvirtd.pid");
        fs::write(&pid_file, "5\n").unwrap();
        let found = || {
            let runs = runs_in(proc.path(), &pid_file, "libvirtd");
            [daemon_in(proc.path()), runs]
        };
        assert_eq!(found(), [true; 2]);
        // A session daemon's; one that a user has started with root's rights (sudo, by a link).
        for ids in [
            "1000\t1000\t1000\t1000",
            "1000\t0\t0\t0",
            "0\t1000\t0\t1000",
            "",
        ] {
            fs::write(proc.path().join("5/status"), status(ids)).unwrap();
            assert_eq!(found(), [false; 2], "{ids}");
        }
        fs::remove_file(proc.path().join("5/status")).unwrap();
        assert_eq!(found(), [false; 2], "it is gone");
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
        fs::create_dir(proc.path().join("pressure")).unwrap();
        fs::write(proc.path().join("pressure/comm"), "libvirtd").unwrap();
        fs::write(proc.path().join("pressure/stat"), "1 (libvirtd) S 1").unwrap();
        let status = status("0\t0\t0\t0");
        fs::write(proc.path().join("pressure/status"), status).unwrap();
        assert!(!daemon_in(proc.path()), "no process");
        assert!(daemon_in(&proc.path().join("nowhere")), "unknown");
    }

    const STARTING: &[&str] = &["libvirtd", "rpc-libvirtd", "daemon-init"];
    const UP: &[&str] = &["libvirtd", "rpc-libvirtd", "vm-daemon-init"];

    #[test]
    fn a_daemon_that_starts_its_drivers_is_starting() {
        for (name, threads, starting) in [
            ("libvirtd", STARTING, Some(Daemons::Monolithic)),
            ("libvirtd", UP, None),
            ("virtqemud", STARTING, Some(Daemons::Modular)),
            ("virtqemud", UP, None),
        ] {
            let proc = proc(&[(7, 5, "vtpm-guard-hook", &[]), (5, 1, name, threads)]);
            assert_eq!(starting_above(proc.path(), 7), starting, "{name}");
        }
    }

    #[test]
    fn a_daemon_is_found_above_a_process_whose_name_is_in_another_encoding() {
        let proc = proc_of_script("libvirtd", STARTING);
        let fields = "1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 700 0 0";
        let stat = [b"7 (pr\xfcfe) S 5 ", fields.as_bytes()].concat();
        fs::write(proc.path().join("7/stat"), stat).unwrap();
        fs::write(proc.path().join("7/comm"), b"pr\xfcfe\n").unwrap();
        let found = starting_above(proc.path(), 8);
        assert_eq!(found, Some(Daemons::Monolithic));
    }

    #[test]
    fn a_daemon_is_found_above_a_script() {
        let proc = proc_of_script("libvirtd", STARTING);
        assert_eq!(starting_above(proc.path(), 8), Some(Daemons::Monolithic));
    }

    #[test]
    fn the_daemon_above_a_hook_is_identified_by_its_start_time() {
        for daemon in ["libvirtd", "virtqemud", ".virtqemud-wrap"] {
            let proc = proc_of_script(daemon, UP);
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
        assert_eq!(starting_above(proc.path(), 7), None);
        assert_eq!(starting_above(proc.path(), 9), None);
        assert_eq!(called_by_starting_daemon(), None);
    }
}
