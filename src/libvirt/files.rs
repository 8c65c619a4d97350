//! The files in which this host's system daemon keeps its secrets.
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

use crate::host::interrupted::read_dir;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::libvirt::secret::{LibvirtSecret, SecretDefinition, SecretError, SecretValue};

pub(super) use self::definition::definition;
pub use self::definition::domain_in;
#[cfg(any(test, feature = "internals"))]
pub use self::saved_image::image;
pub use self::saved_image::saved_xml;
#[cfg(feature = "internals")]
pub use self::saved_image::xml_in;

mod definition;
mod saved_image;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// The longest `UUID.base64` that is read, in bytes.
const MAX_BASE64_LEN: usize = Dek::MAX_LEN.div_ceil(3) * 4;

/// Returns whether the daemon with this URI keeps its files on this host.
#[must_use]
pub fn are_of_this_host(uri: &str) -> bool {
    uri.ends_with(":///system")
}

/// The value of a secret in the daemon's files.
pub enum StoredValue {
    /// There is none.
    None,
    /// This value.
    Value(Dek),
    /// It is encrypted in this file, with a key of libvirt's own.
    Encrypted(PathBuf),
}

/// Why a value cannot be read from the daemon's files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be read, or other users may have written or read it.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// It is not a value in base64.
    #[error("{path} does not contain a value as libvirt writes it", path = .path.display())]
    NotAValue {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the value of this secret in `dir`, a daemon's directory of secrets.
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

/// Returns the value of a private secret that libvirt keeps on disk, as far as its files tell. If
/// they do not, the secret counts as having one.
pub(super) fn value_on_disk(dir: &Path, secret: SecretUuid) -> SecretValue {
    match stored_value(dir, secret) {
        Ok(StoredValue::Value(dek)) => SecretValue::Disclosed(dek),
        Ok(StoredValue::None) if dir.join(format!("{secret}.xml")).exists() => SecretValue::None,
        Ok(StoredValue::None | StoredValue::Encrypted(_)) => SecretValue::Private,
        Err(error) => {
            tracing::warn!(%secret, %error, "the secret's value cannot be read");
            SecretValue::Private
        }
    }
}

/// Reads a secret from the daemon's files, also while the daemon cannot be asked. `None` if it is
/// not in them.
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
    // A staged secret is a link. No other link is followed.
    let value = if definition.is_staged() {
        staged_value(dir, secret)
    } else {
        value_on_disk(dir, secret)
    };
    Ok(Some(LibvirtSecret { definition, value }))
}

/// Returns the value on tmpfs to which the link that `stage` made leads.
fn staged_value(dir: &Path, secret: SecretUuid) -> SecretValue {
    let link = dir.join(format!("{secret}.base64"));
    let target = link.read_link().ok();
    let read = target.and_then(|target| {
        let file = trusted::open(&target, trusted::LIBVIRT_SECRET).ok()??;
        read_base64(file, target).ok()
    });
    read.map_or(SecretValue::Private, SecretValue::Disclosed)
}

/// Returns whether the daemon keeps this secret in `dir` permanently. A staged secret is a link to
/// tmpfs.
pub fn is_on_disk(dir: &Path, secret: SecretUuid) -> Result<bool, FilesError> {
    let files = remaining_files(dir, secret)?;
    Ok(files.iter().any(|file| !file.is_symlink()))
}

/// Returns the files of this secret in `dir`.
pub fn remaining_files(dir: &Path, secret: SecretUuid) -> Result<Vec<PathBuf>, FilesError> {
    let fail = |source| io_error(dir, source);
    let files = match read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        files => files.map_err(fail)?,
    };
    let stem = format!("{secret}.");
    let mut files_of_it = Vec::new();
    for file in files {
        let file = file.map_err(fail)?;
        if file
            .file_name()
            .as_encoded_bytes()
            .starts_with(stem.as_bytes())
        {
            files_of_it.push(file.path());
        }
    }
    files_of_it.sort();
    Ok(files_of_it)
}

fn read_base64(file: File, path: PathBuf) -> Result<Dek, FilesError> {
    match value_in(file) {
        Ok(Some(dek)) => Ok(dek),
        Ok(None) => Err(FilesError::NotAValue { path }),
        Err(source) => Err(io_error(&path, source)),
    }
}

/// Reads what is in `UUID.base64`. `None`: it is not a value as libvirt writes it.
pub fn value_in(mut file: impl Read) -> io::Result<Option<Dek>> {
    // A buffer of its final size: one that grew would leave copies of a key. Of the additional bytes one is for a line feed,
    // and the other detects a file that is too long.
    let mut text = Zeroizing::new(vec![0; MAX_BASE64_LEN + 2]);
    let mut len = 0;
    loop {
        match file.read(&mut text[len..]) {
            // What follows is not known, so neither is whether the value ends there.
            Ok(0) if len == text.len() => return Ok(None),
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let text = text[..len].trim_ascii_end();
    let mut value = Zeroizing::new(vec![0; text.len() / 4 * 3]);
    let decoded = Base64::decode(text, &mut value).map(<[u8]>::len);
    Ok(match decoded {
        Ok(len @ 1..=Dek::MAX_LEN) => {
            value.truncate(len);
            Some(Dek::from_bytes(value))
        }
        _ => None,
    })
}

fn io_error(path: &Path, source: io::Error) -> FilesError {
    FilesError::Distrust(PathError::new(path, source).into())
}
