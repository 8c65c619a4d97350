//! What a program gives up once it knows its settings. It speaks with a server that may be hostile, as root; if that
//! server took it over, little should be left to take.
//!
//! Nothing here can fail a program: what this kernel does not have, or what a sandbox around it does not let it do,
//! stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The most memory that a program may have, in bytes, whatever a server sends.
const MAX_MEMORY: u64 = 512 << 20;

/// What the system's resolver reads to find the addresses of a name, and the libraries that it loads for that.
const RESOLVER: [&str; 20] = [
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/lib",
    "/lib64",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/usr/lib",
    "/usr/lib64",
    "/var/cache/nscd",
    "/var/db/nscd",
    "/var/lib/sss",
];

/// Where the resolver asks, over TCP if an answer is long.
const DNS_PORT: u16 = 53;

/// What a program still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Files that it reads, now or later. Each may be replaced by a new one in its directory.
    pub files: Vec<PathBuf>,
    /// TCP ports that it connects to.
    pub ports: Vec<u16>,
}

/// What a program has given up.
#[derive(Debug, PartialEq, Eq)]
pub struct Confined {
    /// Getting rights by running a program.
    pub new_privileges: bool,
    /// Root's capabilities, but for that to lock its memory.
    pub capabilities: bool,
    /// All other files, ports, and processes (Landlock), as far as this kernel knows them.
    pub files: RulesetStatus,
    /// The system calls that only whoever has taken it over would make.
    pub calls: bool,
}

impl Needs {
    /// Gives up everything else, for good. To be called before the program has a second thread.
    pub fn confine(&self) -> Confined {
        // Where it cannot be set, the deadline alone bounds what is read.
        let memory = Rlimit {
            current: Some(MAX_MEMORY),
            maximum: Some(MAX_MEMORY),
        };
        let _ = setrlimit(Resource::Data, memory);
        Confined {
            new_privileges: set_no_new_privs(true).is_ok(),
            capabilities: drop_capabilities().is_ok(),
            files: self.restrict().unwrap_or(RulesetStatus::NotEnforced),
            calls: deny_calls().is_ok(),
        }
    }

    /// Landlock: what is read, and where it connects to. It writes, makes, removes and runs nothing.
    fn restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let readable = AccessFs::ReadFile | AccessFs::ReadDir;
        let files = self.files.iter().flat_map(|file| with_directories(file));
        let files = files.chain(RESOLVER.map(PathBuf::from));
        let connect = |port: &u16| -> Result<_, RulesetError> {
            Ok(NetPort::new(*port, AccessNet::ConnectTcp))
        };
        let ports = self.ports.iter().chain([&DNS_PORT]).map(connect);
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V4))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .add_rules(path_beneath_rules(files, readable))?
            .add_rules(ports)?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

/// A file, and the directories in which it may be replaced: its own, and that of what it is a link to. A directory
/// right below `/` has too much in it.
fn with_directories(file: &Path) -> Vec<PathBuf> {
    let target = fs::canonicalize(file).ok();
    let parents = [Some(file), target.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .filter(|directory| directory.components().count() > 2);
    parents.chain([file]).map(Path::to_owned).collect()
}

/// Keeps the right to lock memory, if there is one: memory that is locked already grows under it.
fn drop_capabilities() -> rustix::io::Result<()> {
    let kept = capabilities(None)?.permitted & CapabilitySet::IPC_LOCK;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

/// System calls by which root, also without capabilities, reaches other processes and their keys, runs programs, or
/// reaches parts of the kernel that no program of this project needs.
const DENIED: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    // Of this, nobody can see what it is to make. The C library uses clone(2) where it is not there.
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setns,
    libc::SYS_tkill,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// The kinds of sockets that the resolver and a connection need.
const SOCKETS: [i32; 4] = [
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_UNIX,
];

/// seccomp: the kernel says that it does not have these calls.
fn deny_calls() -> Result<(), seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // A thread is made, a process is not.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let no_thread = argument(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    // A panic ends with a signal to the process itself.
    let own = u64::from(getpid().as_raw_pid().cast_unsigned());
    let other = argument(SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![other])?]);
    let no_such_socket = SOCKETS.map(|kind| {
        let kind = u64::from(kind.cast_unsigned());
        argument(SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, kind)
    });
    let no_such_socket = no_such_socket.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(no_such_socket)?]);
    let denied = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?.try_into()?;
    seccompiler::apply_filter(&filter)
}

/// A condition on the first argument of a call.
fn argument(
    length: SeccompCmpArgLen,
    is: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(0, length, is, value)?)
}

#[cfg(test)]
mod tests;
