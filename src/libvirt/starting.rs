//! The window in which a libvirtd is up and answers nobody: it starts its drivers, and with
//! them the guests that start with it, and only then lets clients in.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use super::files::secret_on_disk;
use crate::clock::Deadline;
use crate::host::dirs::PROC;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::{HostSecrets, LibvirtSecret, Provided, SecretError, SecretValue};
use crate::verdict::Over;

/// What the monolithic daemon is called, or a part of it (NixOS: `.libvirtd-wrapped`). The
/// modular ones are not meant: while virtqemud starts its guests, virtsecretd answers.
const MONOLITHIC: &str = "libvirtd";

/// The thread in which a daemon starts its drivers; it ends when clients are let in
/// (`daemonStateInit` in libvirt's `src/remote/remote_daemon.c`, 9.0 and 11.3).
const INITIALISING: &str = "daemon-init";

/// The parts of a name by which a daemon that runs guests is known.
const DAEMONS: [&str; 2] = [MONOLITHIC, "virtqemud"];

/// How many generations up the daemon is looked for: a hook may be called through a script.
const GENERATIONS: usize = 4;

/// A process, told apart from a later one of the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the boot (proc(5), field 22 of `stat`).
    pub started: u64,
}

impl Process {
    /// Whether it still lives.
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

/// The libvirtd or virtqemud that started this process; `None` where /proc shows none, as for
/// a hook that a person calls.
#[must_use]
pub fn calling_daemon() -> Option<Process> {
    daemon_above(Path::new(PROC), process::id()).map(|found| found.daemon)
}

/// Whether this process was started by a libvirtd that is still starting itself. Where /proc
/// does not tell, it was not, and libvirt is asked as ever.
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

/// The nearest daemon among the ancestors of a process.
pub(super) struct DaemonAbove {
    pub(super) daemon: Process,
    name: String,
    /// Its child that leads to the process, or is it.
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

/// What `/proc/PID/stat` says of a process (proc(5)).
struct Stat {
    parent: u32,
    started: u64,
}

impl Stat {
    /// `None` where there is no such process.
    fn of(proc: &Path, pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
        // The second field is a name that may hold anything, in parentheses.
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

/// The daemon of a modular libvirt that holds its secrets.
const MODULAR: &str = "virtsecretd";

/// Whether a daemon that may hold secrets runs on this host. Nobody connects to it to find out:
/// where none runs, systemd listens in its place, and would start it and let the caller wait.
#[must_use]
pub fn a_daemon_runs() -> bool {
    daemon_in(Path::new(PROC))
}

fn daemon_in(proc: &Path) -> bool {
    let Ok(processes) = proc.read_dir() else {
        // Nobody knows, and a daemon that runs must not be taken for one that does not.
        return true;
    };
    let is_one = |process: &Path| {
        let name = name(process).unwrap_or_default();
        (name.contains(MONOLITHIC) || name.contains(MODULAR)) && !has_ended(process)
    };
    processes.flatten().any(|process| is_one(&process.path()))
}

/// Whether a process has ended, and only its parent has not heard of it yet: the third word of
/// `/proc/PID/stat` (proc(5)).
fn has_ended(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, behind_name)| {
        let mut words = behind_name.split_whitespace();
        words.next()
    });
    matches!(state, Some("Z" | "X") | None)
}

/// The name of a process or a thread, cut to 15 bytes by the kernel.
fn name(task: &Path) -> Option<String> {
    let comm = fs::read_to_string(task.join("comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

/// The secrets of a libvirtd that is still starting: those of its files, and no others, for it
/// keeps no ephemeral ones over its end. It takes none, and drops none.
pub struct StartingLibvirtd<P>(pub P);

impl<P: AsRef<Path>> HostSecrets for StartingLibvirtd<P> {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        _deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        secret_on_disk(self.0.as_ref(), secret)
    }

    /// Only a guest that has the very value of what was laid out for another one needs nothing.
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        _deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        if over == Over::TheSame {
            return Ok(Provided::LeftAsIs);
        }
        let Some(found) = secret_on_disk(self.0.as_ref(), secret)? else {
            return Err(SecretError::Starting);
        };
        match (found.definition.guards_domain(), &found.value) {
            (Some(_), SecretValue::Disclosed(value)) if value.same_as(dek) => {
                Ok(Provided::LeftAsIs)
            }
            (Some(other), _) if other != domain => Err(SecretError::OfGuest(other)),
            _ => Err(SecretError::Starting),
        }
    }

    /// What is left is dropped by `unstage`, when libvirtd is up.
    fn drop_own(
        &self,
        _secret: SecretUuid,
        _domain: DomainUuid,
        _deadline: Deadline,
    ) -> Result<bool, SecretError> {
        Ok(false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A `/proc` of these processes: pid, parent, name, names of threads.
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
    fn a_daemon_is_known_by_its_process_and_not_by_its_socket() {
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
    fn a_script_between_them_hides_nothing() {
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
    fn the_daemon_above_a_hook_is_told_apart_by_its_start() {
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
    fn a_process_lives_until_it_has_ended() {
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
    fn where_proc_does_not_tell_libvirt_is_asked() {
        let proc = proc(&[(7, 5, "vtpm-guard-hook", &[])]);
        assert!(!is_child_of_starting_libvirtd(proc.path(), 7));
        assert!(!is_child_of_starting_libvirtd(proc.path(), 9));
        assert!(!called_by_starting_libvirtd());
    }
}
