//! What the program asks of the operating system; the one address of unsafe code.

#[cfg(feature = "libvirt")]
use std::ffi::CStr;
use std::io;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
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
pub fn protect_process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    Ok(())
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::child;
    use crate::clock::Deadline;

    #[test]
    #[ignore = "changes its own process: run by the test below in one of its own"]
    fn protects_this_process() {
        protect_process().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<_> = core.split_whitespace().collect();
        assert_eq!(words, ["Max", "core", "file", "size", "0", "0", "bytes"]);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }

    #[test]
    fn a_protected_process_dumps_no_core() {
        let output = child::run(
            &std::env::current_exe().unwrap(),
            &["--exact", "--ignored", "sys::tests::protects_this_process"],
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
