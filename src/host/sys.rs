//! What the program asks of the operating system; the one address of unsafe code.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
#[cfg(feature = "libvirt")]
use virt::error::{Error, ErrorNumber};
#[cfg(feature = "libvirt")]
use virt::secret::Secret;
#[cfg(feature = "libvirt")]
use zeroize::{Zeroize, Zeroizing};

/// Keeps the keys in this process's memory out of core dumps, and the memory itself out of
/// reach of other processes of the same user (ptrace, /proc/PID/mem).
///
/// The size limit alone is not enough: a core dump that goes to a program (`core_pattern`
/// with a pipe, as systemd-coredump has it) ignores it; one of a process that is not dumpable
/// is not made at all (core(5), `PR_SET_DUMPABLE` in prctl(2)). Children do not inherit the
/// latter, for exec resets it, but they inherit the limit.
///
/// As root it also keeps the memory out of the swap space, where keys would outlive the process. And whatever file it
/// makes, or a library makes for it, is for its user alone.
pub fn protect_process() -> io::Result<()> {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    lock_memory();
    Ok(())
}

/// Sets a variable of this process's environment, for a library that reads its own from there.
///
/// To be called before anything else has started a thread.
#[expect(
    unsafe_code,
    reason = "std leaves it to the caller that no thread reads meanwhile"
)]
pub fn set_environment(name: &str, value: &str) {
    // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// Whether a file has this extended attribute, with anything in it.
#[must_use]
#[expect(unsafe_code, reason = "neither std nor nix reads extended attributes")]
pub fn has_attribute(path: &Path, name: &CStr) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: both strings end in NUL; with a length of 0 nothing is written.
    let len = unsafe { nix::libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    len > 0
}

/// Takes a lease on a file, at which other openers wait. The signal that reports its breaking is
/// ignored by default.
#[cfg(test)]
#[expect(unsafe_code, reason = "nix has no leases")]
pub fn take_lease(file: &std::fs::File) -> io::Result<()> {
    use nix::libc::{F_SETLEASE, F_WRLCK, SIGURG, fcntl};
    use std::os::fd::AsRawFd;
    /// `F_SETSIG` of linux/fcntl.h, which libc lacks.
    const F_SETSIG: i32 = 10;
    for (command, argument) in [(F_SETSIG, SIGURG), (F_SETLEASE, F_WRLCK)] {
        // SAFETY: the descriptor is open, and both commands take a number.
        if unsafe { fcntl(file.as_raw_fd(), command, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Locks into memory all that this process has and will have, each page as it is first used.
///
/// Only where there is no limit to that: under one, a later allocation would fail. Where it
/// cannot be done (a plain user, a container), the swap space should be encrypted, as
/// docs/threat-model.md says.
#[expect(
    unsafe_code,
    reason = "nix's flags lack the one for pages not used yet"
)]
fn lock_memory() {
    use nix::libc::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, mlockall};
    if may_lock_without_limit() {
        // SAFETY: the call takes a number and changes no memory of this process.
        let _ = unsafe { mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) };
    }
}

/// Whether this process may lock more memory than its limit says. A capability in a user
/// namespace would not do, so the kernel itself is asked, with addresses that nothing uses.
#[expect(unsafe_code, reason = "nix has no wrapper of mlock2(2)")]
fn may_lock_without_limit() -> bool {
    use nix::libc::{
        MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MLOCK_ONFAULT, PROT_NONE,
        RLIM_INFINITY, SYS_mlock2, mmap, munmap, syscall,
    };
    const PAGE: usize = 4096;
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return false;
    };
    let Ok(limit) = usize::try_from(limit) else {
        return false;
    };
    if limit as u64 == RLIM_INFINITY {
        return true;
    }
    let Some(length) = limit.checked_add(PAGE) else {
        return false;
    };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    // SAFETY: a new mapping, at an address that the kernel chooses, of which no page is ever
    // touched; it is unmapped whole, and nothing keeps its address.
    unsafe {
        let unused = mmap(std::ptr::null_mut(), length, PROT_NONE, flags, -1, 0);
        if unused == MAP_FAILED {
            return false;
        }
        let locked = syscall(SYS_mlock2, unused, length, MLOCK_ONFAULT) == 0;
        munmap(unused, length);
        locked
    }
}

#[cfg(feature = "libvirt")]
/// The usage id of a libvirt secret. (`Secret::usage_id` of virt 0.5 frees the string, which
/// belongs to the secret: the secret's own end would free it again.)
#[expect(unsafe_code, reason = "virt has no sound wrapper of this call")]
pub fn secret_usage_id(secret: &Secret) -> Result<String, Error> {
    // SAFETY: the pointer is that of a live secret, which outlives the call.
    let usage_id = unsafe { virt_sys::virSecretGetUsageID(secret.as_ptr()) };
    if usage_id.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt gives a NUL-terminated string that lives as long as the secret does,
    // and it is copied before `secret` can go.
    let usage_id = unsafe { CStr::from_ptr(usage_id) };
    Ok(usage_id.to_string_lossy().into_owned())
}

#[cfg(feature = "libvirt")]
/// The value of a libvirt secret; `None` if it has none. An error says that the value may not
/// be read, or libvirt not be asked.
#[expect(
    unsafe_code,
    reason = "virt's wrapper neither wipes nor frees the value"
)]
pub fn secret_value(secret: &Secret) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let mut len = 0;
    // SAFETY: the pointer is that of a live secret; `len` is valid for a write.
    let value = unsafe { virt_sys::virSecretGetValue(secret.as_ptr(), &raw mut len, 0) };
    if value.is_null() {
        let error = Error::last_error();
        return if error.code().is(ErrorNumber::NoSecret) {
            Ok(None)
        } else {
            Err(error)
        };
    }
    // SAFETY: libvirt gives a buffer of `len` bytes that is the caller's alone.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value, len) };
    let copy = Zeroizing::new(bytes.to_vec());
    bytes.zeroize();
    // SAFETY: the buffer comes from malloc, is the caller's to free, and nobody has it now.
    unsafe { nix::libc::free(value.cast()) };
    Ok(Some(copy))
}

/// The calls that make a process whatever their arguments are.
#[cfg(all(feature = "internals", target_arch = "x86_64"))]
const FORKS: &[i64] = &[nix::libc::SYS_fork, nix::libc::SYS_vfork];
#[cfg(all(feature = "internals", not(target_arch = "x86_64")))]
const FORKS: &[i64] = &[];

/// Makes a system call whose arguments are all wrong, for tests of what a program may no longer call. A process that it
/// makes all the same ends at once.
#[cfg(feature = "internals")]
#[expect(unsafe_code, reason = "no crate has wrappers of all calls")]
pub fn try_call(number: i64) -> io::Result<()> {
    const WRONG: i64 = -1;
    // SAFETY: no call finds memory at these addresses, nor takes these numbers. What fork(2) and vfork(2) make, which take
    // none, does nothing but end.
    let answer = unsafe {
        let answer = nix::libc::syscall(number, WRONG, WRONG, WRONG, WRONG, WRONG, WRONG);
        if answer == 0 && FORKS.contains(&number) {
            nix::libc::_exit(0);
        }
        answer
    };
    if answer == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The keyring of this process (keyrings(7)), which ends with it.
pub const PROCESS_KEYRING: i32 = nix::libc::KEY_SPEC_PROCESS_KEYRING;

/// The keyring of this process's user, which all of the user's processes share.
pub const USER_KEYRING: i32 = nix::libc::KEY_SPEC_USER_KEYRING;

/// Puts a key of type "user" into a keyring of the kernel, and returns its serial number.
#[expect(unsafe_code, reason = "nix has no wrapper of this call")]
pub fn add_key(description: &CStr, payload: &[u8], keyring: i32) -> io::Result<i32> {
    // SAFETY: both strings end in NUL, the payload is as long as is said, and the kernel copies
    // all of it before the call returns.
    let serial = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            keyring,
        )
    };
    serial_number(serial)
}

/// Finds a key of type "user" in a keyring; its serial number.
#[expect(unsafe_code, reason = "nix has no wrapper of this call")]
pub fn find_key(keyring: i32, description: &CStr) -> io::Result<i32> {
    // SAFETY: both strings end in NUL; the kernel only reads them.
    let serial = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_keyctl,
            nix::libc::KEYCTL_SEARCH,
            keyring,
            c"user".as_ptr(),
            description.as_ptr(),
            0,
        )
    };
    serial_number(serial)
}

/// Reads a key into `payload`, as much as there is room for; returns how long the key is.
#[expect(unsafe_code, reason = "nix has no wrapper of this call")]
pub fn read_key(serial: i32, payload: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer may be written to, and is as long as is said.
    let length = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_keyctl,
            nix::libc::KEYCTL_READ,
            serial,
            payload.as_mut_ptr(),
            payload.len(),
        )
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Lets the kernel remove a key after this many seconds.
pub fn set_key_timeout(serial: i32, seconds: u32) -> io::Result<()> {
    keyctl(nix::libc::KEYCTL_SET_TIMEOUT, serial, seconds)
}

/// Sets who may do what with a key (`keyctl_setperm(3)`).
pub fn set_key_permissions(serial: i32, permissions: u32) -> io::Result<()> {
    keyctl(nix::libc::KEYCTL_SETPERM, serial, permissions)
}

/// Puts a key into one more keyring, in place of one of the same description.
pub fn link_key(serial: i32, keyring: i32) -> io::Result<()> {
    keyctl(nix::libc::KEYCTL_LINK, serial, keyring.cast_unsigned())
}

/// Takes a key out of a keyring.
pub fn unlink_key(serial: i32, keyring: i32) -> io::Result<()> {
    keyctl(nix::libc::KEYCTL_UNLINK, serial, keyring.cast_unsigned())
}

/// A call of keyctl(2) with two numbers.
#[expect(unsafe_code, reason = "nix has no wrapper of this call")]
fn keyctl(operation: u32, one: i32, other: u32) -> io::Result<()> {
    // SAFETY: the kernel takes these three arguments as numbers; no memory is involved.
    let done = unsafe { nix::libc::syscall(nix::libc::SYS_keyctl, operation, one, other) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn serial_number(answer: std::ffi::c_long) -> io::Result<i32> {
    match i32::try_from(answer) {
        Ok(serial) if serial >= 0 => Ok(serial),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[path = "../../tests/privileges/mod.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    reason = "of tests, also of the built programs"
)]
mod privileges;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::privileges::Process;
    use super::*;
    use crate::clock::Deadline;
    use crate::host::process;

    #[test]
    #[ignore = "changes its own process: run by the test below in one of its own"]
    fn protects_this_process() {
        protect_process().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let made = std::fs::File::create(dir.path().join("made")).unwrap();
        assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o600);
        let exposed = Process::of(std::process::id()).exposed();
        assert_eq!(exposed, [""; 0]);
    }

    #[test]
    fn a_protected_process_dumps_no_core() {
        let output = process::run(
            &std::env::current_exe().unwrap(),
            &[
                "--exact",
                "--ignored",
                "host::sys::tests::protects_this_process",
            ],
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
