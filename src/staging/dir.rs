//! Staged keys: files on tmpfs, and links to them in libvirt's directory of secrets. Only links
//! are on a disk, never a key.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use nix::sys::statfs::fstatfs;
use zeroize::Zeroizing;

use crate::host::atomic;
use crate::host::interrupted::read_dir;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::host::volatile::is_volatile;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::{SecretDefinition, staged_definition};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// The extensions of a secret's definition and of its value, as libvirt reads them
/// (`virSecretLoadAllConfigs` and `virSecretLoadValue` in its `src/conf/virsecretobj.c`).
const DEFINITION: &str = "xml";
const VALUE: &str = "base64";

/// Why keys could not be staged or removed.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The directory is on a disk.
    #[error("{path} is not on a tmpfs: keys would be in clear on a disk", path = .0.display())]
    NotInMemory(PathBuf),
    /// Other users have access to the directory.
    #[error(transparent)]
    NotTrusted(Distrust),
    /// An I/O error.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// A staged secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagedSecret {
    /// The secret.
    pub secret: SecretUuid,
    /// The guest whose key it holds.
    pub domain: DomainUuid,
}

/// The directory on tmpfs, and libvirt's directory of secrets.
pub struct StagingDir {
    staged: PathBuf,
    secrets: PathBuf,
}

impl StagingDir {
    /// Files go to `staged`, links to `secrets`.
    #[must_use]
    pub fn at(staged: PathBuf, secrets: PathBuf) -> Self {
        Self { staged, secrets }
    }

    /// libvirt's directory of secrets.
    #[must_use]
    pub fn secrets(&self) -> &Path {
        &self.secrets
    }

    /// Stages a key as the guard's own secret for this guest: ephemeral, so that libvirt then
    /// keeps it only in memory. The definition's link is made last, since libvirt loads every
    /// secret that has one. There must be no secret with this UUID.
    pub fn stage(&self, staged: StagedSecret, dek: &Dek) -> Result<(), StagingError> {
        let StagedSecret { secret, domain } = staged;
        let staged = self.open_staged()?;
        trusted::make(&self.secrets, trusted::LIBVIRT_DIR)?;
        let value = in_base64(dek);
        let definition = staged_definition(secret, domain);
        for (extension, bytes) in [(VALUE, &value[..]), (DEFINITION, definition.as_bytes())] {
            let name = format!("{secret}.{extension}");
            let (file, link) = (self.staged.join(&name), self.secrets.join(&name));
            atomic::replace(&staged, OsStr::new(&name), bytes).map_err(PathError::at(&file))?;
            symlink(&file, &link).map_err(PathError::at(&link))?;
        }
        Ok(())
    }

    /// Returns the staged secrets.
    pub fn staged(&self) -> Result<Vec<StagedSecret>, StagingError> {
        let mut found = Vec::new();
        for file in entries(&self.staged)? {
            if file.extension() != Some(OsStr::new(DEFINITION)) {
                continue;
            }
            let definition = fs::read_to_string(&file).map_err(PathError::at(&file))?;
            let secret = file
                .file_stem()
                .and_then(OsStr::to_str)
                .and_then(|stem| SecretUuid::parse(stem).ok());
            let domain = SecretDefinition::parse(&definition).and_then(|read| read.guards_domain());
            found.extend(
                secret
                    .zip(domain)
                    .map(|(secret, domain)| StagedSecret { secret, domain }),
            );
        }
        Ok(found)
    }

    /// Removes everything: first the links, including those whose files are gone (the host went
    /// down between `stage` and `unstage`), then the files. An empty directory is no error.
    pub fn clear(&self) -> Result<(), StagingError> {
        self.remove(|_| true)
    }

    /// Removes the keys and leaves the definitions: they still say which secrets libvirt has
    /// loaded.
    pub fn remove_keys(&self) -> Result<(), StagingError> {
        self.remove(|file| file.extension() != Some(OsStr::new(DEFINITION)))
    }

    fn remove(&self, which: impl Fn(&Path) -> bool) -> Result<(), StagingError> {
        let leads_here = |link: &PathBuf| {
            let target = fs::read_link(link);
            target.is_ok_and(|file| file.starts_with(&self.staged) && which(&file))
        };
        let links = entries(&self.secrets)?;
        links
            .iter()
            .filter(|link| leads_here(link))
            .try_for_each(|link| remove(link))?;
        let files = entries(&self.staged)?;
        files
            .iter()
            .filter(|file| which(file))
            .try_for_each(|file| remove(file))
    }

    /// Creates the directory if necessary, and verifies that it is this user's and in memory.
    fn open_staged(&self) -> Result<File, StagingError> {
        let path = &self.staged;
        let dir = trusted::make_dir(path, trusted::RUN_DIR)?;
        let file_system = fstatfs(&dir).map_err(|errno| PathError::new(&**path, errno))?;
        if !is_volatile(file_system.filesystem_type()) {
            return Err(StagingError::NotInMemory(path.clone()));
        }
        Ok(dir)
    }

    /// Checks whether keys could be staged here.
    pub fn check(&self) -> Result<(), StagingError> {
        self.open_staged().map(drop)
    }
}

/// Encodes the key into a buffer that is wiped. It has its final size from the start.
fn in_base64(dek: &Dek) -> Zeroizing<Vec<u8>> {
    let bytes = dek.expose();
    let mut text = Zeroizing::new(vec![0; Base64::encoded_len(bytes)]);
    // The only error is a buffer that is too short.
    let encoded = Base64::encode(bytes, &mut text).is_ok();
    debug_assert!(encoded);
    text
}

/// Returns the paths in a directory; none if there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StagingError> {
    let listed =
        || -> io::Result<Vec<PathBuf>> { read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    match listed() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => Ok(listed.map_err(PathError::at(dir))?),
    }
}

fn remove(path: &Path) -> Result<(), StagingError> {
    Ok(atomic::remove_path(path).map_err(PathError::at(path))?)
}

impl From<Distrust> for StagingError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            untrusted @ Distrust::Untrusted { .. } => Self::NotTrusted(untrusted),
        }
    }
}
