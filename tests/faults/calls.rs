//! System calls: which of them write, and how each may fail.

use nix::libc;

/// A system call of a traced program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) arguments: [u64; 4],
}

/// What a call is asked to do instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process that makes it is killed, before the kernel does anything.
    Kill,
    /// It fails with this error, and nothing is done.
    Error(i32),
    /// It reads or writes one byte.
    Short,
}

/// Names of the calls that the programs make, and of what happens to them.
const CALLS: &[(i64, &str, Kind)] = &[
    (libc::SYS_open, "open", Kind::Open(1)),
    (libc::SYS_openat, "openat", Kind::Open(2)),
    (libc::SYS_creat, "creat", Kind::Name),
    (libc::SYS_read, "read", Kind::Read),
    (libc::SYS_pread64, "pread64", Kind::Read),
    (libc::SYS_readv, "readv", Kind::Look),
    // Of std, which hears so whether a program was started: it fails on no machine.
    (libc::SYS_recvfrom, "recvfrom", Kind::Wait),
    (libc::SYS_recvmsg, "recvmsg", Kind::Wait),
    (libc::SYS_write, "write", Kind::Write),
    (libc::SYS_pwrite64, "pwrite64", Kind::Write),
    (libc::SYS_writev, "writev", Kind::Sync),
    (libc::SYS_pwritev, "pwritev", Kind::Sync),
    (libc::SYS_sendto, "sendto", Kind::Send),
    (libc::SYS_sendmsg, "sendmsg", Kind::Send),
    (libc::SYS_fsync, "fsync", Kind::Sync),
    (libc::SYS_fdatasync, "fdatasync", Kind::Sync),
    (libc::SYS_ftruncate, "ftruncate", Kind::Sync),
    (libc::SYS_fallocate, "fallocate", Kind::Sync),
    (libc::SYS_copy_file_range, "copy_file_range", Kind::Sync),
    (libc::SYS_sendfile, "sendfile", Kind::Sync),
    (libc::SYS_rename, "rename", Kind::Name),
    (libc::SYS_renameat, "renameat", Kind::Name),
    (libc::SYS_renameat2, "renameat2", Kind::Name),
    (libc::SYS_link, "link", Kind::Name),
    (libc::SYS_linkat, "linkat", Kind::Name),
    (libc::SYS_symlink, "symlink", Kind::Name),
    (libc::SYS_symlinkat, "symlinkat", Kind::Name),
    (libc::SYS_unlink, "unlink", Kind::Name),
    (libc::SYS_unlinkat, "unlinkat", Kind::Name),
    (libc::SYS_rmdir, "rmdir", Kind::Name),
    (libc::SYS_mkdir, "mkdir", Kind::Name),
    (libc::SYS_mkdirat, "mkdirat", Kind::Name),
    (libc::SYS_chmod, "chmod", Kind::Name),
    (libc::SYS_fchmod, "fchmod", Kind::Name),
    (libc::SYS_fchmodat, "fchmodat", Kind::Name),
    (libc::SYS_chown, "chown", Kind::Name),
    (libc::SYS_fchown, "fchown", Kind::Name),
    (libc::SYS_fchownat, "fchownat", Kind::Name),
    (libc::SYS_utimensat, "utimensat", Kind::Name),
    (libc::SYS_fcntl, "fcntl", Kind::Lock),
    (libc::SYS_flock, "flock", Kind::Lock),
    (libc::SYS_stat, "stat", Kind::Look),
    (libc::SYS_lstat, "lstat", Kind::Look),
    (libc::SYS_fstat, "fstat", Kind::Look),
    (libc::SYS_newfstatat, "newfstatat", Kind::Look),
    (libc::SYS_statx, "statx", Kind::Look),
    (libc::SYS_statfs, "statfs", Kind::Look),
    (libc::SYS_fstatfs, "fstatfs", Kind::Look),
    (libc::SYS_access, "access", Kind::Look),
    (libc::SYS_faccessat, "faccessat", Kind::Look),
    (libc::SYS_readlink, "readlink", Kind::Look),
    (libc::SYS_readlinkat, "readlinkat", Kind::Look),
    (libc::SYS_getdents64, "getdents64", Kind::Look),
    (libc::SYS_getcwd, "getcwd", Kind::Look),
    (libc::SYS_socket, "socket", Kind::Descriptor),
    (libc::SYS_socketpair, "socketpair", Kind::Descriptor),
    (libc::SYS_pipe2, "pipe2", Kind::Descriptor),
    (libc::SYS_dup, "dup", Kind::Descriptor),
    (libc::SYS_dup2, "dup2", Kind::Descriptor),
    (libc::SYS_dup3, "dup3", Kind::Descriptor),
    (libc::SYS_eventfd2, "eventfd2", Kind::Descriptor),
    (libc::SYS_connect, "connect", Kind::Wait),
    (libc::SYS_poll, "poll", Kind::Wait),
    (libc::SYS_ppoll, "ppoll", Kind::Wait),
    (libc::SYS_wait4, "wait4", Kind::Wait),
    (libc::SYS_waitid, "waitid", Kind::Wait),
    (libc::SYS_nanosleep, "nanosleep", Kind::Wait),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Kind::Sleep),
    (libc::SYS_mmap, "mmap", Kind::Memory),
    (libc::SYS_mremap, "mremap", Kind::Memory),
    (libc::SYS_clone, "clone", Kind::Process),
    (libc::SYS_clone3, "clone3", Kind::Process),
    (libc::SYS_vfork, "vfork", Kind::Process),
    (libc::SYS_execve, "execve", Kind::Process),
    (libc::SYS_prctl, "prctl", Kind::Privilege),
    (libc::SYS_prlimit64, "prlimit64", Kind::Privilege),
    (libc::SYS_mlockall, "mlockall", Kind::Privilege),
    (libc::SYS_mlock, "mlock", Kind::Privilege),
    (libc::SYS_add_key, "add_key", Kind::Privilege),
    (libc::SYS_keyctl, "keyctl", Kind::Privilege),
    (libc::SYS_kill, "kill", Kind::Change),
    (libc::SYS_exit_group, "exit_group", Kind::Change),
];

/// What calls have in common: how they fail, and whether they change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opens a file; the number of the argument with its flags.
    Open(usize),
    Read,
    Write,
    Send,
    /// Changes a file that is open.
    Sync,
    /// Changes names, owners or modes.
    Name,
    Lock,
    /// Looks at names and attributes.
    Look,
    /// Makes a descriptor.
    Descriptor,
    Wait,
    Sleep,
    Memory,
    Process,
    Privilege,
    /// Changes something, and cannot fail.
    Change,
}

impl Call {
    fn entry(&self) -> Option<&'static (i64, &'static str, Kind)> {
        CALLS.iter().find(|(number, ..)| *number == self.number)
    }

    fn kind(&self) -> Option<Kind> {
        self.entry().map(|(_, _, kind)| *kind)
    }

    pub(super) fn name(&self) -> String {
        let name = self.entry().map(|(_, name, _)| (*name).to_owned());
        name.unwrap_or_else(|| format!("system call {}", self.number))
    }

    /// Whether something outlasts it: a file, a name, a lock, a message, a process.
    pub(super) fn changes(&self) -> bool {
        match self.kind() {
            Some(Kind::Open(_)) => self.opens_for_writing(),
            Some(Kind::Lock) => self.sets_a_lock(),
            Some(
                Kind::Write | Kind::Send | Kind::Sync | Kind::Name | Kind::Process | Kind::Change,
            ) => true,
            // Of a file that others map, too.
            Some(Kind::Memory) => self.arguments[3] & SHARED != 0,
            _ => false,
        }
    }

    fn opens_for_writing(&self) -> bool {
        let Some(Kind::Open(flags)) = self.kind() else {
            return false;
        };
        let writes = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
        // O_PATH opens nothing.
        self.arguments[flags]
            & u64::from((writes | libc::O_PATH).cast_unsigned())
            & !u64::from(libc::O_PATH.cast_unsigned())
            != 0
    }

    fn sets_a_lock(&self) -> bool {
        let command = i32::try_from(self.arguments[1]).unwrap_or_default();
        let sets = [
            libc::F_SETLK,
            libc::F_SETLKW,
            libc::F_OFD_SETLK,
            libc::F_OFD_SETLKW,
        ];
        self.number == libc::SYS_flock || sets.contains(&command)
    }

    /// How it may fail on a machine in trouble.
    pub(super) fn faults(&self) -> Vec<Fault> {
        use libc::{EACCES, EAGAIN, EINTR, EIO, EMFILE, ENOLCK, ENOMEM, ENOSPC, EPERM, EROFS};
        let errors: &[i32] = match self.kind() {
            Some(Kind::Open(_)) if self.opens_for_writing() => {
                &[ENOSPC, EIO, EROFS, EACCES, EMFILE, ENOMEM, EINTR]
            }
            Some(Kind::Open(_)) => &[EIO, EACCES, EMFILE, ENOMEM, EINTR],
            Some(Kind::Read | Kind::Send) => &[EIO, EINTR],
            Some(Kind::Write) => &[ENOSPC, EIO, EINTR],
            // No file system of this kernel's own lets a signal interrupt a flush, and SQLite makes none again.
            Some(Kind::Sync) => &[ENOSPC, EIO],
            Some(Kind::Name) => &[ENOSPC, EIO, EROFS, EACCES, ENOMEM],
            Some(Kind::Lock) if self.number == libc::SYS_flock => &[ENOLCK, EINTR],
            // SQLite's locks: they are not waited for, so no signal interrupts them on a local disk.
            Some(Kind::Lock) if self.sets_a_lock() => &[ENOLCK],
            Some(Kind::Lock) => &[EMFILE],
            Some(Kind::Look) => &[EIO, EACCES, ENOMEM],
            Some(Kind::Descriptor) => &[EMFILE, ENOMEM],
            Some(Kind::Wait | Kind::Sleep) => &[EINTR],
            Some(Kind::Memory) => &[ENOMEM],
            Some(Kind::Process) => &[EAGAIN, ENOMEM],
            Some(Kind::Privilege) => &[EPERM],
            Some(Kind::Change) | None => &[],
        };
        let errors = errors.iter().copied().map(Fault::Error);
        let is_long = self.arguments[2] > 1;
        let short = matches!(self.kind(), Some(Kind::Read | Kind::Write)) && is_long;
        errors.chain(short.then_some(Fault::Short)).collect()
    }
}

/// `MAP_SHARED`, as a register has it.
const SHARED: u64 = libc::MAP_SHARED as u64;

impl Fault {
    /// Whether nobody may notice it: the call can be made again, or goes on where it ended.
    pub(super) fn is_invisible(self) -> bool {
        matches!(self, Self::Short | Self::Error(libc::EINTR))
    }
}
