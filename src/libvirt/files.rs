//! The files in which a system daemon of this host keeps its secrets.
//!
//! Format (libvirt, `src/conf/virsecretobj.c`): a secret that is not ephemeral has `UUID.xml`,
//! its definition, and, if it has a value, `UUID.base64`, the value in base64 without line
//! breaks; from libvirt 12.1 on it may be `UUID.aes256cbc` instead, encrypted with a key of
//! libvirt's own.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::libvirt::secret::{LibvirtSecret, SecretDefinition, SecretError, SecretValue};

/// The longest `UUID.base64` that is read, in bytes.
const MAX_BASE64_LEN: usize = Dek::MAX_LEN.div_ceil(3) * 4;

/// Whether the files of this host are those of the daemon at this URI.
#[must_use]
pub fn are_of_this_host(uri: &str) -> bool {
    uri.ends_with(":///system")
}

/// The value of a secret as the daemon's files have it.
pub enum StoredValue {
    /// They have none.
    None,
    /// This.
    Value(Dek),
    /// It is encrypted with a key of libvirt's own, in this file.
    Encrypted(PathBuf),
}

/// Why a value was not read from the daemon's files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be read, or others than root may have written or read it.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// It holds something else than a value in base64.
    #[error("{path} is not a value as libvirt writes it", path = .path.display())]
    NotAValue {
        /// The file.
        path: PathBuf,
    },
}

/// The value of this secret in `dir`, a daemon's directory of secrets.
pub fn stored_value(dir: &Path, secret: SecretUuid) -> Result<StoredValue, FilesError> {
    let plain = dir.join(format!("{secret}.base64"));
    if let Some(file) = trusted::open(&plain, trusted::LIBVIRT_SECRET)? {
        return read_base64(file, plain).map(StoredValue::Value);
    }
    let encrypted = dir.join(format!("{secret}.aes256cbc"));
    match encrypted.symlink_metadata() {
        Ok(_) => Ok(StoredValue::Encrypted(encrypted)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(StoredValue::None),
        Err(source) => Err(io_error(&encrypted, source)),
    }
}

/// The value of a secret that libvirt keeps on disk and tells nobody, as far as its files have
/// it. Where they do not say, there may be one.
pub(super) fn value_on_disk(dir: &Path, secret: SecretUuid) -> SecretValue {
    match stored_value(dir, secret) {
        Ok(StoredValue::Value(dek)) => SecretValue::Disclosed(dek),
        Ok(StoredValue::None) if dir.join(format!("{secret}.xml")).exists() => SecretValue::None,
        Ok(StoredValue::None | StoredValue::Encrypted(_)) => SecretValue::Private,
        Err(error) => {
            tracing::warn!(%secret, %error, "its value cannot be read");
            SecretValue::Private
        }
    }
}

/// The secret as the daemon's files have it; `None` if they do not know it. They tell it also
/// while the daemon cannot be asked.
pub fn secret_on_disk(
    dir: &Path,
    secret: SecretUuid,
) -> Result<Option<LibvirtSecret>, SecretError> {
    let path = dir.join(format!("{secret}.xml"));
    let definition = match std::fs::read_to_string(&path) {
        Ok(text) => SecretDefinition::parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(SecretError::Unreachable(format!(
                "{}: {error}",
                path.display()
            )));
        }
    };
    let Some(definition) = definition else {
        let words = format!("{} is not a secret's definition", path.display());
        return Err(SecretError::Unreachable(words));
    };
    // A staged one is a link; nobody else's link is followed.
    let value = if definition.is_staged() {
        staged_value(dir, secret)
    } else {
        value_on_disk(dir, secret)
    };
    Ok(Some(LibvirtSecret { definition, value }))
}

/// The value behind the link that `stage` made, on tmpfs.
fn staged_value(dir: &Path, secret: SecretUuid) -> SecretValue {
    let link = dir.join(format!("{secret}.base64"));
    let target = link.read_link().ok();
    let read = target.and_then(|target| {
        let file = trusted::open(&target, trusted::LIBVIRT_SECRET).ok()??;
        read_base64(file, target).ok()
    });
    read.map_or(SecretValue::Private, SecretValue::Disclosed)
}

/// Whether the daemon keeps this secret in `dir` for good; one that `stage` has laid out is a
/// link to memory.
pub fn is_on_disk(dir: &Path, secret: SecretUuid) -> Result<bool, FilesError> {
    let files = remaining_files(dir, secret)?;
    Ok(files.iter().any(|file| !file.is_symlink()))
}

/// The files of this secret that are in `dir`.
pub fn remaining_files(dir: &Path, secret: SecretUuid) -> Result<Vec<PathBuf>, FilesError> {
    let fail = |source| io_error(dir, source);
    let files = match dir.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        files => files.map_err(fail)?,
    };
    let stem = format!("{secret}.");
    let mut left = Vec::new();
    for file in files {
        let file = file.map_err(fail)?;
        if file
            .file_name()
            .as_encoded_bytes()
            .starts_with(stem.as_bytes())
        {
            left.push(file.path());
        }
    }
    left.sort();
    Ok(left)
}

fn read_base64(file: File, path: PathBuf) -> Result<Dek, FilesError> {
    // All of it at once: a buffer that grew would leave copies of a key behind. One byte more
    // than is allowed shows that there is more.
    let mut text = Zeroizing::new(vec![0; MAX_BASE64_LEN + 1]);
    let mut len = 0;
    let mut file = file;
    loop {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(io_error(&path, source)),
        }
    }
    let text = text[..len].trim_ascii_end();
    let mut value = Zeroizing::new(vec![0; text.len() / 4 * 3]);
    let decoded = Base64::decode(text, &mut value).map(<[u8]>::len);
    match decoded {
        Ok(len @ 1..=Dek::MAX_LEN) => {
            value.truncate(len);
            Ok(Dek::from_bytes(value))
        }
        _ => Err(FilesError::NotAValue { path }),
    }
}

fn io_error(path: &Path, source: io::Error) -> FilesError {
    FilesError::Distrust(PathError::new(path, source).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory of secrets with one value in it, under this extension and with this mode.
    fn secrets(extension: &str, content: &str, mode: u32) -> (tempfile::TempDir, SecretUuid) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let secret = SecretUuid::random();
        let file = dir.path().join(format!("{secret}.{extension}"));
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        (dir, secret)
    }

    /// Why nothing was read.
    fn refusal((dir, secret): &(tempfile::TempDir, SecretUuid)) -> String {
        match stored_value(dir.path(), *secret) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was read"),
        }
    }

    #[test]
    fn a_value_comes_out_byte_for_byte() {
        for (text, bytes) in [
            ("YQ==", &b"a"[..]),
            ("YQ==\n", b"a"),
            ("AP8KAA==", b"\0\xff\n\0"),
            ("YSBtYWRlLXVwIGtleQ==", b"a made-up key"),
        ] {
            let (dir, secret) = secrets("base64", text, 0o600);
            let StoredValue::Value(dek) = stored_value(dir.path(), secret).unwrap() else {
                panic!("no value in {text:?}");
            };
            assert_eq!(dek.expose(), bytes, "{text:?}");
        }
    }

    #[test]
    fn the_longest_value_of_libvirts_is_read_and_a_longer_one_is_not() {
        let whole_triples = "AAAA".repeat(Dek::MAX_LEN / 3);
        let longest = format!("{whole_triples}AA==");
        let (dir, secret) = secrets("base64", &longest, 0o600);
        let stored = stored_value(dir.path(), secret).unwrap();
        assert!(matches!(stored, StoredValue::Value(dek) if dek.expose().len() == Dek::MAX_LEN));

        let longer = format!("{whole_triples}AAA=");
        assert!(refusal(&secrets("base64", &longer, 0o600)).contains("not a value"));
    }

    #[test]
    fn what_is_not_base64_is_not_a_value() {
        for text in ["", "\n", "YQ", "Y Q==", "YQ==YQ==", "not base64!"] {
            let words = refusal(&secrets("base64", text, 0o600));
            assert!(words.contains("not a value"), "{text:?}: {words}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_a_link_is_not_trusted() {
        for mode in [0o640, 0o604, 0o620] {
            let words = refusal(&secrets("base64", "YQ==", mode));
            assert!(words.contains("others "), "{words}");
        }
        let (dir, secret) = secrets("elsewhere", "YQ==", 0o600);
        let target = dir.path().join(format!("{secret}.elsewhere"));
        symlink(target, dir.path().join(format!("{secret}.base64"))).unwrap();
        assert!(refusal(&(dir, secret)).contains("not a regular file"));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_trusted() {
        let made = secrets("base64", "YQ==", 0o600);
        fs::set_permissions(made.0.path(), Permissions::from_mode(0o770)).unwrap();
        assert!(refusal(&made).contains("others may write to it"));
    }

    #[test]
    fn an_encrypted_value_and_none_are_told_apart() {
        let (dir, secret) = secrets("aes256cbc", "AAAA", 0o600);
        let stored = stored_value(dir.path(), secret).unwrap();
        assert!(
            matches!(stored, StoredValue::Encrypted(path) if path.ends_with(format!("{secret}.aes256cbc")))
        );
        let other = SecretUuid::random();
        assert!(matches!(
            stored_value(dir.path(), other).unwrap(),
            StoredValue::None
        ));
    }

    #[test]
    fn every_file_of_a_secret_is_found_and_no_other() {
        let (dir, secret) = secrets("base64", "YQ==", 0o600);
        let name = |extension: &str| dir.path().join(format!("{secret}.{extension}"));
        fs::write(name("xml"), "").unwrap();
        fs::write(dir.path().join("another.xml"), "").unwrap();
        let left = remaining_files(dir.path(), secret).unwrap();
        assert_eq!(left, [name("base64"), name("xml")]);
        let nowhere = dir.path().join("nowhere");
        assert!(remaining_files(&nowhere, secret).unwrap().is_empty());
    }
}
