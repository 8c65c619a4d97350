//! What the program asks of the operating system; the one address of unsafe code.

use std::ffi::CStr;
use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use virt::error::{Error, ErrorNumber};
use virt::secret::Secret;
use zeroize::Zeroize;

/// Keeps what this process has in memory out of core dumps and away from debuggers.
pub fn protect_process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

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

/// Whether a libvirt secret has a value. libvirt offers no other way than to read it; it is
/// wiped at once. An error says that the value may not be read, or libvirt not be asked.
#[expect(
    unsafe_code,
    reason = "virt's wrapper neither wipes nor frees the value"
)]
pub fn secret_has_value(secret: &Secret) -> Result<bool, Error> {
    let mut len = 0;
    // SAFETY: the pointer is that of a live secret; `len` is valid for a write.
    let value = unsafe { virt_sys::virSecretGetValue(secret.as_ptr(), &raw mut len, 0) };
    if value.is_null() {
        let error = Error::last_error();
        return if error.code().is(ErrorNumber::NoSecret) {
            Ok(false)
        } else {
            Err(error)
        };
    }
    // SAFETY: libvirt gives a buffer of `len` bytes that is the caller's alone.
    unsafe { std::slice::from_raw_parts_mut(value, len) }.zeroize();
    // SAFETY: the buffer comes from malloc, is the caller's to free, and nobody has it now.
    unsafe { nix::libc::free(value.cast()) };
    Ok(true)
}
