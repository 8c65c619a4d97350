//! What a running process has given up, as the kernel reports it to others in `/proc` (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

/// A group that is not root's, and that every distribution has: libvirt asks for its name.
const GROUP: &str = "1";

/// `CAP_IPC_LOCK` of capabilities(7): it may lock more memory than its limit says.
pub(crate) const IPC_LOCK: u64 = 1 << 14;

/// What a process is to itself in `/proc/PID`.
pub(crate) struct Process(PathBuf);

impl Process {
    pub(crate) fn of(pid: u32) -> Self {
        Self::at(Path::new("/proc"), &pid.to_string())
    }

    /// One of a process namespace of its own, whose `/proc` this is.
    pub(crate) fn at(proc: &Path, pid: &str) -> Self {
        Self(proc.join(pid))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// A line of `status`, of each of its threads.
    pub(crate) fn status(&self, key: &str) -> Vec<String> {
        let threads = fs::read_dir(self.0.join("task")).unwrap().flatten();
        // One may have ended meanwhile.
        let texts =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
        let value = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let value = line.and_then(|rest| rest.strip_prefix(':'));
            value
                .unwrap_or_else(|| panic!("no {key} in {text}"))
                .trim()
                .to_owned()
        };
        let values: Vec<_> = texts.map(value).collect();
        assert!(!values.is_empty(), "{} has ended", self.0.display());
        values
    }

    /// A set of capabilities, of all its threads together.
    pub(crate) fn capabilities(&self, set: &str) -> u64 {
        let sets = self.status(set).into_iter();
        sets.map(|set| u64::from_str_radix(&set, 16).unwrap())
            .fold(0, |all, one| all | one)
    }

    /// A limit, soft and hard.
    pub(crate) fn limit(&self, name: &str) -> [String; 2] {
        let limits = self.read("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line
            .unwrap_or_else(|| panic!("no {name} in {limits}"))
            .split_whitespace();
        [(); 2].map(|()| words.next().unwrap().to_owned())
    }

    /// What it does not keep from others of what is in its memory.
    pub(crate) fn exposed(&self) -> Vec<String> {
        let mut exposed = Vec::new();
        let mut demand = |is_so: bool, what: String| {
            if !is_so {
                exposed.push(what);
            }
        };
        // What belongs to the process is root's alone where it is not dumpable (proc(5)).
        let owner = fs::metadata(self.0.join("environ")).unwrap();
        let is_dumpable = (owner.uid(), owner.gid()) != (0, 0);
        demand(!is_dumpable, "it is dumpable".to_owned());
        let core = self.limit("Max core file size");
        demand(core == ["0", "0"], format!("cores: {core:?}"));
        let umask = self.status("Umask");
        demand(
            umask.iter().all(|it| it == "0077"),
            format!("umask: {umask:?}"),
        );
        let locked = self.status("VmLck");
        let is_locked = locked.iter().all(|it| it != "0 kB");
        demand(is_locked || !self.may_lock(), format!("locked: {locked:?}"));
        exposed
    }

    /// Whether it may lock all its memory: with a capability of the machine's own root, or without a limit.
    fn may_lock(&self) -> bool {
        let map = self.read("uid_map");
        let is_own_root = map.split_whitespace().eq(["0", "0", "4294967295"]);
        let is_capable = self.capabilities("CapEff") & IPC_LOCK != 0;
        is_own_root && is_capable || self.limit("Max locked memory") == ["unlimited", "unlimited"]
    }
}

/// What starts a program so that [`Process::exposed`] sees what is its own: as root, its group is another one than root's.
/// Its cores and files are for everybody unless it changes that.
pub(crate) fn open_to_all() -> Vec<&'static str> {
    let mut words = Vec::new();
    if geteuid().is_root() {
        words.extend(["setpriv", "--clear-groups", "--regid", GROUP]);
    }
    let open = "umask 000; ulimit -c unlimited || :; exec \"$0\" \"$@\"";
    words.extend(["sh", "-c", open]);
    words
}

/// A command of these words.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Waits until a program, which has just been started, has closed all that it closes; what is still exposed after ten
/// seconds fails the test.
#[track_caller]
pub(crate) fn closes(process: &Process) {
    let end = Instant::now() + Duration::from_secs(10);
    while !process.exposed().is_empty() {
        assert!(Instant::now() < end, "{:?}", process.exposed());
        thread::sleep(Duration::from_millis(10));
    }
}
