//! The keyring's directory: only files of its own user are trusted, and files are written whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::KeyringError;
use super::seal::MAX_SEALED;
use crate::clock::Deadline;
use crate::host::atomic::{self, NewFile};
use crate::host::lock::lock;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::key::id::KeyId;

/// The longest file: a sealed key and its first line.
const MAX_FILE: usize = MAX_SEALED + 100;

/// The opened directory, which belongs to this user, and which nobody else may write.
pub(crate) struct Dir {
    path: PathBuf,
    dir: File,
}

impl Dir {
    /// Opens it; `None` if there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, KeyringError> {
        let dir = trusted::open(path, trusted::KEYRING_DIR)?;
        Ok(dir.map(|dir| Self {
            path: path.to_owned(),
            dir,
        }))
    }

    /// Opens it. It is made if there is none.
    pub(crate) fn create(path: &Path) -> Result<Self, KeyringError> {
        Ok(Self {
            path: path.to_owned(),
            dir: trusted::make_dir(path, trusted::KEYRING_DIR)?,
        })
    }

    /// Reads a key's file; `None` if there is none.
    pub(crate) fn read(&self, key_id: KeyId) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
        let opened = self.open_file(&name(key_id))?;
        let path = self.path.join(name(key_id));
        opened.map(|file| read_whole(&path, file)).transpose()
    }

    /// Waits until no other process opens this key, or the deadline passes. Other processes wait
    /// until the returned lock is dropped.
    pub(crate) fn wait_for_turn(
        &self,
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<File>, KeyringError> {
        let Some(file) = self.open_file(&name(key_id))? else {
            return Ok(None);
        };
        match lock(&file, deadline) {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(KeyringError::TimedOut),
            // A file system without locks: each process opens it itself.
            Err(_) => Ok(None),
        }
    }

    /// Opens a trusted file of this directory; `None` if there is none.
    fn open_file(&self, name: &OsStr) -> Result<Option<File>, KeyringError> {
        let path = self.path.join(name);
        Ok(trusted::open_in(
            &self.dir,
            &path,
            name,
            trusted::SEALED_KEY,
        )?)
    }

    /// Writes a key's file. An existing one stays until the new one has been read back from disk.
    pub(crate) fn replace(
        &self,
        key_id: KeyId,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), KeyringError> {
        self.lock(deadline)?;
        let path = self.path.join(name(key_id));
        let written = NewFile::write(&self.dir, |file| file.write_all(bytes))
            .and_then(|new| Ok((new.reads_back(bytes)?, new)));
        let (reads_back, new) = written.map_err(PathError::at(&path))?;
        if !reads_back {
            let reason = "the disk does not return what was written to it";
            return Err(PathError::new(path, io::Error::other(reason)).into());
        }
        Ok(new.replace(&name(key_id)).map_err(PathError::at(&path))?)
    }

    /// Removes a key's file.
    pub(crate) fn remove(&self, key_id: KeyId) -> Result<(), KeyringError> {
        let path = self.path.join(name(key_id));
        Ok(atomic::remove(&self.dir, &name(key_id)).map_err(PathError::at(&path))?)
    }

    /// Locks out other writers until this value is dropped, since they use the same temporary file.
    fn lock(&self, deadline: Deadline) -> Result<(), KeyringError> {
        lock(&self.dir, deadline).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => KeyringError::TimedOut,
            _ => PathError::new(&*self.path, error).into(),
        })
    }
}

fn read_whole(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let bound = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
    file.take(bound)
        .read_to_end(&mut bytes)
        .map_err(PathError::at(path))?;
    if bytes.len() > MAX_FILE {
        let path = path.to_owned();
        let reason = "it is too long for a sealed key";
        return Err(KeyringError::Damaged { path, reason });
    }
    Ok(bytes)
}

fn name(key_id: KeyId) -> OsString {
    key_id.to_string().into()
}
