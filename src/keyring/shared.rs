//! KEKs that were opened a moment ago, shared by all the hooks of this host.
//!
//! After a power cut twenty guests may start at once, each with a hook of its own, and a TPM 2.0
//! unseals one KEK after the other, each taking most of a second. So the first hook leaves the
//! KEK that it opened in the kernel's keyring of its user, root, for a few seconds.
//!
//! Why there, and not in a file on tmpfs: the kernel's memory for keys is never written to swap,
//! the kernel itself removes the key when its time is over, whoever was killed meanwhile, and
//! nobody can reach it through a path. Why the user's keyring: that of the process ends with
//! it, and that of the session is inherited by QEMU and swtpm, whose guests must never come near
//! a KEK. For the same reason possession of the key gives no right to it at all: only processes
//! that are root by user id have one (`PERMISSIONS`), and those can read the sealed key anyway.

use std::ffi::CString;
use std::io;

use crate::host::sys;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// How long a KEK stays, in seconds: long enough for the starts that wait for it.
const LIFETIME: u32 = 10;

/// For the key's user alone: view 0x01, read 0x02, search 0x08 and link 0x10; nothing for who
/// possesses it, for the group and for others.
const PERMISSIONS: u32 = 0x001b_0000;

/// Shares a KEK for [`LIFETIME`] seconds.
pub(crate) fn put(kek: &Kek) -> io::Result<()> {
    // Nobody else may see it before its permissions are set.
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

/// A KEK that is shared now. What is not the key of this id is none.
pub(crate) fn get(key_id: KeyId) -> Option<Kek> {
    let key = sys::find_key(sys::USER_KEYRING, &description(key_id)).ok()?;
    let kek = Kek::made_by(|bytes| match sys::read_key(key, bytes) {
        Ok(Kek::LEN) => Ok(()),
        _ => Err(()),
    });
    kek.ok().filter(|kek| kek.key_id() == key_id)
}

/// Takes a KEK back before its time.
pub(crate) fn forget(key_id: KeyId) {
    if let Ok(key) = sys::find_key(sys::USER_KEYRING, &description(key_id)) {
        // At the worst it goes when its time is over.
        let _ = sys::unlink_key(key, sys::USER_KEYRING);
    }
}

fn description(key_id: KeyId) -> CString {
    // A key id is hexadecimal digits.
    CString::new(format!("vtpm-guard:{key_id}")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
mod tests {
    use super::*;

    #[test]
    fn a_shared_key_is_had_again_until_it_is_taken_back() {
        let kek = Kek::generate().unwrap();
        if let Err(error) = put(&kek) {
            eprintln!("skipped: no kernel keyring here: {error}");
            return;
        }
        let again = get(kek.key_id()).unwrap();
        assert_eq!(again.expose(), kek.expose());
        forget(kek.key_id());
        assert!(get(kek.key_id()).is_none());
        forget(kek.key_id());
    }

    #[test]
    fn a_shared_key_is_for_its_user_alone_and_has_an_end() {
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
        forget(kek.key_id());
    }

    #[test]
    fn another_key_under_its_name_is_none() {
        let (kek, other) = (Kek::generate().unwrap(), Kek::generate().unwrap());
        let name = description(kek.key_id());
        let Ok(key) = sys::add_key(&name, other.expose(), sys::PROCESS_KEYRING) else {
            return;
        };
        sys::set_key_permissions(key, PERMISSIONS).unwrap();
        sys::link_key(key, sys::USER_KEYRING).unwrap();
        assert!(get(kek.key_id()).is_none());
        forget(kek.key_id());
    }
}
