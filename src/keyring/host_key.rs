//! The host key of systemd, which seals, and to which machine ID it belongs.
//!
//! It begins with a value that is derived from the machine ID (`struct credential_host_secret_format` in systemd's
//! `src/shared/creds-util.c`). Where systemd finds another machine ID than that, as after `/etc` alone was restored, it
//! deletes the key, also to decrypt, and with it every key that is sealed with it. So nothing is sealed or unsealed then.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::host::dirs::{HOST_KEY, MACHINE_ID};
use crate::key::hex;

/// The length of an ID, in bytes.
const ID_LEN: usize = 16;

/// systemd's number for its credentials (`credential_app_id` in the same file).
const CREDENTIALS: [u8; ID_LEN] = [
    0xd3, 0xac, 0xec, 0xba, 0x0d, 0xad, 0x4c, 0xdf, 0xb8, 0xc9, 0x38, 0x15, 0x28, 0x93, 0x6c, 0x58,
];

/// The files of the host's key.
#[derive(Debug, Clone)]
pub(super) struct HostKey {
    pub(super) key: PathBuf,
    pub(super) machine_id: PathBuf,
}

impl Default for HostKey {
    fn default() -> Self {
        Self {
            key: HOST_KEY.into(),
            machine_id: MACHINE_ID.into(),
        }
    }
}

impl HostKey {
    /// Whether the host's key is of another machine ID than the host has. Where either cannot be read, nothing is
    /// known, and systemd deletes nothing.
    pub(super) fn is_of_another_machine(&self) -> bool {
        let bound = self.bound_to();
        let own = self.derived();
        matches!((bound, own), (Some(bound), Some(own)) if bound != own)
    }

    fn bound_to(&self) -> Option<[u8; ID_LEN]> {
        let mut bound = [0; ID_LEN];
        File::open(&self.key).ok()?.read_exact(&mut bound).ok()?;
        Some(bound)
    }

    /// What the key of this host begins with (`sd_id128_get_machine_app_specific(3)`): the beginning of an HMAC, made a
    /// UUID of version 4.
    fn derived(&self) -> Option<[u8; ID_LEN]> {
        let digits = fs::read(&self.machine_id).ok()?;
        let mut machine = [0; ID_LEN];
        hex::decode(digits.trim_ascii(), &mut machine)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&machine).ok()?;
        mac.update(&CREDENTIALS);
        let hash = mac.finalize().into_bytes();
        let mut derived: [u8; ID_LEN] = hash.get(..ID_LEN)?.try_into().ok()?;
        derived[6] = derived[6] & 0x0f | 0x40;
        derived[8] = derived[8] & 0x3f | 0x80;
        Some(derived)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_another_machine_is_known_by_its_beginning() {
        let home = tempfile::tempdir().unwrap();
        let host_key = HostKey {
            key: home.path().join("credential.secret"),
            machine_id: home.path().join("machine-id"),
        };
        let is_known = |machine_id: &str, key: &[u8]| {
            fs::write(&host_key.machine_id, machine_id).unwrap();
            fs::write(&host_key.key, key).unwrap();
            host_key.is_of_another_machine()
        };
        assert!(!host_key.is_of_another_machine(), "neither is there");
        // What systemd 252 says: systemd-id128 machine-id --app-specific=d3acecba0dad4cdfb8c9381528936c58
        let machine = "00112233445566778899aabbccddee00";
        let derived = "ff12def39be64a0ab70b333e2b2aa895";
        let mut own = [7; ID_LEN + 4096];
        hex::decode(derived.as_bytes(), &mut own[..ID_LEN]).unwrap();
        assert!(!is_known(&format!("{machine}\n"), &own));
        assert!(is_known("00112233445566778899aabbccddeeff\n", &own));
        for machine_id in ["uninitialized\n", ""] {
            assert!(!is_known(machine_id, &own), "{machine_id}");
        }
        assert!(!is_known(&format!("{machine}\n"), &own[..9]));
    }
}
