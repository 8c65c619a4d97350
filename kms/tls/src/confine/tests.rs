#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it has measured"
)]

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Uid, geteuid, getppid};
use tempfile::TempDir;
use vtpm_guard::internals::host::sys;

use super::*;

/// What a program reads and what it does not, where it connects to and where it does not.
struct World {
    home: TempDir,
    reachable: TcpListener,
    other: TcpListener,
}

impl World {
    fn new() -> Self {
        // As each program begins: its memory is locked.
        sys::protect_process().unwrap();
        let home = tempfile::tempdir().unwrap();
        for (dir, file) in [("its-own", "key.pem"), ("others", "secret")] {
            fs::create_dir(home.path().join(dir)).unwrap();
            fs::write(home.path().join(dir).join(file), file).unwrap();
        }
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            home,
            reachable: listen(),
            other: listen(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Confines this thread.
    fn confine(&self) -> Confined {
        let needs = Needs {
            files: vec![self.path("its-own/key.pem")],
            ports: vec![port(&self.reachable)],
        };
        needs.confine()
    }

    /// What a program does when all is well.
    fn works(&self) {
        assert_eq!(fs::read(self.path("its-own/key.pem")).unwrap(), b"key.pem");
        TcpStream::connect(self.reachable.local_addr().unwrap()).unwrap();
        assert!(("localhost", 1).to_socket_addrs().unwrap().count() > 0);
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
        // More than the limit on locked memory, which other programs of this user have.
        assert!(vec![1_u8; 64 << 20].iter().all(|byte| *byte == 1));
    }

    fn touches_other_files(&self) -> io::Result<()> {
        fs::read(self.path("others/secret")).map(drop)
    }

    fn connects_elsewhere(&self) -> io::Result<()> {
        TcpStream::connect(self.other.local_addr().unwrap()).map(drop)
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn runs_a_program() -> io::Result<()> {
    Command::new("/bin/true").status().map(drop)
}

#[track_caller]
fn denied(done: io::Result<()>) {
    assert_eq!(done.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[track_caller]
fn unknown<T: std::fmt::Debug>(done: Result<T, Errno>) {
    assert_eq!(done.unwrap_err(), Errno::ENOSYS);
}

/// The kernel says that it does not have these calls.
fn without(calls: &[i64]) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let no = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, no, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

/// What the page names: other programs and processes, their memory, root's keyrings, namespaces, `io_uring`, `bpf`. Written
/// out again, so that none is lost from the list of the program.
const MUST_BE_DENIED: &[(&str, i64)] = &[
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
    ("clone3", libc::SYS_clone3),
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    #[cfg(target_arch = "x86_64")]
    ("fork", libc::SYS_fork),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("keyctl", libc::SYS_keyctl),
    ("kill", libc::SYS_kill),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("ptrace", libc::SYS_ptrace),
    ("request_key", libc::SYS_request_key),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo),
    ("setns", libc::SYS_setns),
    ("tgkill", libc::SYS_tgkill),
    ("tkill", libc::SYS_tkill),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    #[cfg(target_arch = "x86_64")]
    ("vfork", libc::SYS_vfork),
];

/// More than [`MAX_MEMORY`] in one piece, and than what has been allocated already with it.
fn gets_too_much_memory() -> bool {
    [MAX_MEMORY, MAX_MEMORY - (1 << 20)].iter().any(|length| {
        let length = usize::try_from(*length).unwrap();
        Vec::<u8>::new().try_reserve_exact(length).is_ok()
    })
}

const NO_LANDLOCK: [i64; 3] = [
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

#[test]
#[ignore = "gives up rights: run by the test below in a process of its own"]
fn gives_up_what_it_does_not_need() {
    let world = World::new();
    let started = Instant::now();
    assert!(gets_too_much_memory());
    let confined = world.confine();
    eprintln!("given up in {:?}", started.elapsed());
    world.works();
    assert!(!gets_too_much_memory());
    for (name, call) in MUST_BE_DENIED {
        let made = sys::try_call(*call);
        let reason = made.as_ref().err().and_then(io::Error::raw_os_error);
        assert_eq!(reason, Some(libc::ENOSYS), "{name}: {made:?}");
    }
    assert!(confined.new_privileges && confined.calls && confined.capabilities);
    assert!(rustix::thread::no_new_privs().unwrap());
    assert!(
        (CapabilitySet::IPC_LOCK).contains(capabilities(None).unwrap().permitted),
        "{:?}",
        capabilities(None)
    );
    if geteuid().is_root() {
        let own = self::File::open(world.path("its-own/key.pem")).unwrap();
        let given = nix::unistd::fchown(&own, Some(Uid::from_raw(1)), None);
        assert_eq!(given, Err(Errno::EPERM));
    }

    let ran = runs_a_program().unwrap_err();
    assert_eq!(ran.raw_os_error(), Some(libc::ENOSYS));
    unknown(nix::sys::signal::kill(getppid(), None));
    unknown(nix::sched::unshare(CloneFlags::CLONE_NEWUSER));
    let raw = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        None,
    );
    unknown(raw);
    let found = sys::find_key(sys::USER_KEYRING, c"vtpm-guard");
    assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::ENOSYS));

    if confined.files == RulesetStatus::NotEnforced {
        return left_out("this kernel has no Landlock");
    }
    denied(world.touches_other_files());
    denied(fs::read_dir(world.path("others")).map(drop));
    denied(fs::read("/etc/passwd").map(drop));
    denied(fs::write(world.path("its-own/key.pem"), "another"));
    denied(fs::write(world.path("its-own/new.pem"), "new"));
    denied(fs::remove_file(world.path("its-own/key.pem")));
    denied(fs::create_dir(world.path("its-own/dir")));
    denied(symlink("/etc/shadow", world.path("its-own/link")));
    if confined.files == RulesetStatus::FullyEnforced {
        denied(world.connects_elsewhere());
        denied(TcpListener::bind("127.0.0.1:0").map(drop));
    } else {
        left_out("this kernel's Landlock knows no ports");
    }
}

#[test]
#[ignore = "gives up rights: run by the test below in a process of its own"]
fn works_without_landlock() {
    let world = World::new();
    without(&NO_LANDLOCK);
    let confined = world.confine();
    assert_eq!(confined.files, RulesetStatus::NotEnforced);
    assert!(confined.calls && confined.new_privileges && confined.capabilities);
    world.works();
    world.touches_other_files().unwrap();
    world.connects_elsewhere().unwrap();
    assert!(runs_a_program().is_err());
}

#[test]
#[ignore = "gives up rights: run by the test below in a process of its own"]
fn works_without_seccomp_and_capset() {
    let world = World::new();
    without(&[libc::SYS_seccomp, libc::SYS_capset, libc::SYS_prlimit64]);
    let confined = world.confine();
    assert!(!confined.calls && !confined.capabilities && confined.new_privileges);
    world.works();
    if confined.files != RulesetStatus::NotEnforced {
        denied(world.touches_other_files());
        denied(runs_a_program());
    }
}

#[test]
#[ignore = "gives up rights: run by the test below in a process of its own"]
fn works_where_nothing_can_be_given_up() {
    let world = World::new();
    without(&[&NO_LANDLOCK[..], &[libc::SYS_capget, libc::SYS_seccomp]].concat());
    let confined = world.confine();
    assert!(!confined.calls && !confined.capabilities);
    world.works();
    runs_a_program().unwrap();
}

fn left_out(why: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "\nleft out: {why}");
}

#[test]
fn a_program_gives_up_what_it_does_not_need_and_works_where_it_cannot() {
    for name in [
        "gives_up_what_it_does_not_need",
        "works_without_landlock",
        "works_without_seccomp_and_capset",
        "works_where_nothing_can_be_given_up",
    ] {
        let test = format!("confine::tests::{name}");
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", &test])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(
            ran.status.success() && said.contains("1 passed"),
            "{name}: {said}{errors}"
        );
    }
}

#[test]
fn a_file_is_found_when_it_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (versions, link) = (dir.path().join("archive"), dir.path().join("live"));
    fs::create_dir(&versions).unwrap();
    fs::create_dir(&link).unwrap();
    fs::write(versions.join("key2.pem"), "2").unwrap();
    symlink("../archive/key2.pem", link.join("key.pem")).unwrap();
    let found = with_directories(&link.join("key.pem"));
    assert_eq!(found, [link.clone(), versions, link.join("key.pem")]);
    assert_eq!(
        with_directories(Path::new("/etc/hostname")),
        [Path::new("/etc/hostname")]
    );
}
