//! KEKs that were unsealed a moment ago, shared by all hooks of this host.
//!
//! After a power failure many guests may start at once, each with its own hook, and a TPM 2.0 needs
//! most of a second for each KEK that it unseals. So the first hook leaves the KEK that it unsealed
//! in the kernel's keyring of its user, root, for a few seconds.
//!
//! Why there, and not in a file on tmpfs: the kernel never writes its memory for keys to swap, it
//! removes the key at its timeout even if every hook was killed, and the key has no path. Why the
//! user's keyring: the process's keyring ends with the process, and QEMU and swtpm would inherit the
//! session's keyring. For the same reason possession of the key gives no permission: only processes
//! with root's user id have one (`PERMISSIONS`), and those can read the sealed key anyway.

use std::ffi::CString;
use std::io;

use crate::host::sys;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// How long a KEK stays, in seconds: enough for the starts that wait for it.
const LIFETIME: u32 = 10;

/// For the key's user only: view 0x01, read 0x02, search 0x08 and link 0x10; nothing for its
/// possessor, its group and others.
const PERMISSIONS: u32 = 0x001b_0000;

/// Shares a KEK for [`LIFETIME`] seconds.
pub(crate) fn put(kek: &Kek) -> io::Result<()> {
    // It is linked to the user's keyring only once its permissions are set.
    let key = sys::add_key(
        &description(kek.key_id()),
        kek.expose(),
        sys::PROCESS_KEYRING,
    )?;
    let shared = sys::set_key_timeout(key, LIFETIME)
        .and_then(|()| sys::set_key_permissions(key, PERMISSIONS))
        .and_then(|()| sys::link_key(key, sys::USER_KEYRING));
    let removed = sys::unlink_key(key, sys::PROCESS_KEYRING);
    shared.and(removed)
}

/// Returns a KEK that is shared now, if it has this key id.
pub(crate) fn get(key_id: KeyId) -> Option<Kek> {
    let key = sys::find_key(sys::USER_KEYRING, &description(key_id)).ok()?;
    let kek = Kek::made_by(|bytes| match sys::read_key(key, bytes) {
        Ok(Kek::LEN) => Ok(()),
        _ => Err(()),
    });
    kek.ok().filter(|kek| kek.key_id() == key_id)
}

/// Stops sharing a KEK.
pub(crate) fn stop(key_id: KeyId) {
    if let Ok(key) = sys::find_key(sys::USER_KEYRING, &description(key_id)) {
        // If this fails, it is removed at its timeout.
        let _ = sys::unlink_key(key, sys::USER_KEYRING);
    }
}

fn description(key_id: KeyId) -> CString {
    // A key id has no NUL byte: it is hexadecimal digits.
    CString::new(format!("vtpm-guard:{key_id}")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
mod tests {
    use super::*;

    #[test]
    fn a_shared_key_is_found_until_sharing_stops() {
        let kek = Kek::generate().unwrap();
        if let Err(error) = put(&kek) {
            eprintln!("skipped: no kernel keyring here: {error}");
            return;
        }
        let again = get(kek.key_id()).unwrap();
        assert_eq!(again.expose(), kek.expose());
        stop(kek.key_id());
        assert!(get(kek.key_id()).is_none());
        stop(kek.key_id());
    }

    #[test]
    fn a_shared_key_is_for_its_user_only_and_has_a_timeout() {
        let kek = Kek::generate().unwrap();
        if let Err(error) = put(&kek) {
            eprintln!("skipped: no kernel keyring here: {error}");
            return;
        }
        // Serial number, flags, usage, timeout, permissions, …: proc_keys(5).
        let keys = std::fs::read_to_string("/proc/keys").unwrap();
        let name = format!("vtpm-guard:{}", kek.key_id());
        let line = keys.lines().find(|line| line.contains(&name)).unwrap();
        let fields: Vec<_> = line.split_whitespace().collect();
        assert!(fields[3].ends_with('s'), "{line}");
        assert_eq!(fields[4], "001b0000", "{line}");
        stop(kek.key_id());
    }

    #[test]
    fn another_key_with_its_name_is_not_returned() {
        let (kek, other) = (Kek::generate().unwrap(), Kek::generate().unwrap());
        let name = description(kek.key_id());
        let Ok(key) = sys::add_key(&name, other.expose(), sys::PROCESS_KEYRING) else {
            return;
        };
        sys::set_key_permissions(key, PERMISSIONS).unwrap();
        sys::link_key(key, sys::USER_KEYRING).unwrap();
        assert!(get(kek.key_id()).is_none());
        stop(kek.key_id());
    }
}
