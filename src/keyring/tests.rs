//! KEKs in a keyring of a test's own.

mod sealing;
mod storing;
mod trust;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::seal::Sealer;
use super::*;
use crate::clock::Deadline;
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

fn in_time() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn kek(byte: u8) -> Kek {
    Kek::from_slice(&[byte; Kek::LEN]).unwrap()
}

fn digits(kek: &Kek) -> String {
    let mut digits = vec![0; 2 * Kek::LEN];
    hex::encode(kek.expose(), &mut digits);
    String::from_utf8(digits).unwrap()
}

/// A keyring that does not exist yet, on a host without systemd credentials.
fn plain_keyring(home: &tempfile::TempDir) -> Keyring {
    sealed_by("/no/such/systemd-creds", home)
}

fn sealed_by(program: &str, home: &tempfile::TempDir) -> Keyring {
    Keyring::with_sealer(home.path().join("keys"), Sealer::at(PathBuf::from(program)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Returns the error of an opening: a key has no `Debug`.
fn failure(keyring: &Keyring, key_id: KeyId) -> KeyringError {
    match keyring.open(key_id, in_time()) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

/// Replaces the file of a key.
fn overwrite(keyring: &Keyring, key_id: KeyId, content: &str) {
    fs::write(keyring.path(key_id), content).unwrap();
}

/// Returns the ids of the stored keys, in order.
fn key_ids(keyring: &Keyring) -> Vec<KeyId> {
    let Ok(files) = fs::read_dir(&keyring.dir) else {
        return Vec::new();
    };
    let key_id = |file: fs::DirEntry| KeyId::parse(file.file_name().to_str()?);
    let mut ids: Vec<_> = files.filter_map(|file| key_id(file.unwrap())).collect();
    ids.sort_unstable();
    ids
}
