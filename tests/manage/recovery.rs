//! A recovery file of the test vectors: its passphrase takes no time to try.

use std::fs;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::fixture::Fixture;
use crate::key::hex;
use crate::key::kek::Kek;
use crate::recovery::passphrase::Passphrase;

const VECTOR: &str = include_str!("../vectors/recovery/opens.toml");

/// The name that the file has for its provider.
pub(crate) const PROVIDER: &str = "nkp-a";

/// Writes the file into the directory of the host.
pub(crate) fn write(fixture: &Fixture) -> PathBuf {
    let path = fixture.root().join("recovery");
    fs::write(&path, field("file")).unwrap();
    path
}

/// The key in it.
pub(crate) fn kek() -> Kek {
    Kek::made_by(|bytes| hex::decode(field("kek").as_bytes(), bytes).ok_or(())).unwrap()
}

pub(crate) fn passphrase() -> Passphrase {
    passphrase_of(&field("passphrase"))
}

pub(crate) fn passphrase_of(text: &str) -> Passphrase {
    Passphrase::from_bytes(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

fn field(name: &str) -> String {
    let vector: toml::Table = toml::from_str(VECTOR).unwrap();
    vector[name].as_str().unwrap().to_owned()
}
