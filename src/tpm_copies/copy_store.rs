//! The directory of one guest's copies.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::error::CopyError;
use super::files::{RUN_RECORD, hash, json, manifest_name, names, read, state_name};
use super::live_state::LiveState;
use super::manifest::{FORMAT, Manifest};
use super::saved_copy::{SavedCopy, manifest};
use crate::clock::{Deadline, Timestamp};
use crate::host::atomic;
use crate::host::dirs::StateDir;
use crate::host::lock::lock;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::ids::DomainUuid;
use crate::verdict::facts::CopyReason;

/// How many copies of ended runs are kept of a guest whose every run is saved.
pub const KEPT_RUNS: usize = 3;

/// How many copies of one guest's TPM state are available at most. Each failed start of a transient
/// guest whose state has changed adds one, and each may have megabytes.
pub const MAX_COPIES: usize = 4;

/// How many copies stay at most that were saved for an administrator, and for no start.
pub const MAX_SAVED_ASIDE: usize = 8;

/// How many of the earliest copies stay, besides the latest, where it cannot be tried which of them is the guest's.
pub const MAX_UNTRIED: usize = 16;

/// Returns the guests that have a directory of copies, by UUID.
pub fn domains(state_dir: &StateDir) -> Result<Vec<DomainUuid>, CopyError> {
    let names = names(&state_dir.tpm_copies())?;
    let uuid = |name: &OsString| DomainUuid::parse(name.to_str()?).ok();
    let mut domains: Vec<_> = names.iter().filter_map(uuid).collect();
    domains.sort();
    Ok(domains)
}

/// The directory of one guest's copies, which need not exist.
#[derive(Debug)]
pub struct CopyStore {
    path: PathBuf,
}

impl CopyStore {
    /// Returns the copies of this guest.
    #[must_use]
    pub fn of(state_dir: &StateDir, domain: DomainUuid) -> Self {
        let path = state_dir.tpm_copies().join(domain.to_string());
        Self { path }
    }

    /// Returns its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with every copy in it. Returns whether it existed.
    pub fn remove(&self) -> Result<bool, CopyError> {
        // Nothing is removed in a directory that others could have made.
        names(&self.path)?;
        let removed = fs::remove_dir_all(&self.path).and_then(|()| {
            let (above, _) = atomic::open_parent(&self.path)?;
            atomic::sync_directory(&above)
        });
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PathError::new(&*self.path, error).into()),
        }
    }

    /// Returns whether it exists. If that cannot be seen, it counts as there: what is done with it says why it cannot
    /// be.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.try_exists().unwrap_or(true)
    }

    /// Returns whether there are copies, whether they can be read or not.
    pub fn has_copies(&self) -> Result<bool, CopyError> {
        let is_state = |name: &OsString| Path::new(name).extension() == Some(OsStr::new("state"));
        Ok(names(&self.path)?.iter().any(is_state))
    }

    /// Returns all copies that can be read, the latest first, and why the others cannot.
    pub fn copies(&self) -> Result<(Vec<SavedCopy>, Vec<CopyError>), CopyError> {
        self.copies_that(|_| true)
    }

    /// Returns those that may be restored automatically; of the others only the manifest is read.
    pub fn available_copies(&self) -> Result<(Vec<SavedCopy>, Vec<CopyError>), CopyError> {
        self.copies_that(|manifest| manifest.set_aside_at.is_none())
    }

    fn copies_that(
        &self,
        mut is_wanted: impl FnMut(&Manifest) -> bool,
    ) -> Result<(Vec<SavedCopy>, Vec<CopyError>), CopyError> {
        let (mut copies, mut unreadable) = (Vec::new(), Vec::new());
        for name in names(&self.path)? {
            let name = Path::new(&name);
            if name.extension() != Some(OsStr::new("json")) || name == Path::new(RUN_RECORD) {
                continue;
            }
            let manifest = Self::read_manifest(&self.path.join(name));
            match manifest.and_then(|manifest| {
                let wanted = is_wanted(&manifest);
                wanted.then(|| self.read_copy(manifest)).transpose()
            }) {
                Ok(copy) => copies.extend(copy),
                Err(error) => unreadable.push(error),
            }
        }
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.manifest.number));
        Ok((copies, unreadable))
    }

    /// Saves a copy, unless one with the same bytes is available: after a run that one gets the
    /// present time. Returns its name.
    pub fn save(
        &self,
        live: &LiveState,
        domain_name: &str,
        reason: CopyReason,
    ) -> Result<String, CopyError> {
        self.write_copy(live, domain_name, reason, None)
    }

    /// Saves a copy that is never restored automatically. Returns its name. Of those that were saved so, the
    /// first and the latest stay: an orchestrator that goes on with a migration that fails makes one each time.
    pub fn save_set_aside(
        &self,
        live: &LiveState,
        domain_name: &str,
        now: Timestamp,
    ) -> Result<String, CopyError> {
        let name = self.write_copy(live, domain_name, CopyReason::Start, Some(now.0))?;
        // It is saved, and what is left of others only takes room.
        if let Err(error) = self.drop_saved_aside() {
            tracing::warn!(%error, path = %self.path.display(), "copies that were saved before could not be removed");
        }
        Ok(name)
    }

    /// Never one that `reset` has set aside: an administrator may want it back.
    fn drop_saved_aside(&self) -> Result<(), CopyError> {
        let (copies, _) = self.copies_that(Manifest::was_saved_aside)?;
        let surplus = copies.len().saturating_sub(MAX_SAVED_ASIDE);
        for copy in copies.iter().rev().skip(1).take(surplus) {
            self.drop_copy(copy.manifest.sha256())?;
        }
        Ok(())
    }

    fn write_copy(
        &self,
        live: &LiveState,
        domain_name: &str,
        reason: CopyReason,
        set_aside_at: Option<i64>,
    ) -> Result<String, CopyError> {
        let dir = self.open_or_make()?;
        let sha256 = hash(&live.bytes);
        let mut latest = 0;
        let (same, _) = self.copies_that(|manifest| {
            latest = latest.max(manifest.number);
            manifest.sha256 == sha256
        })?;
        let same = same.first();
        // After a run it is the latest again, although its bytes are not new.
        let is_renewed = reason == CopyReason::Release;
        if same.is_some_and(SavedCopy::is_available) && !is_renewed {
            return Ok(sha256);
        }
        let mut manifest = Manifest {
            number: latest + 1,
            set_aside_at,
            ..manifest(live, domain_name, reason)
        };
        // So that `Manifest::was_saved_aside` knows it.
        manifest.kept_at = set_aside_at.unwrap_or(manifest.kept_at);
        if same.is_none() {
            self.write(&dir, &state_name(&manifest.sha256), &live.bytes)?;
        }
        self.write_manifest(&dir, &manifest)?;
        Ok(manifest.sha256)
    }

    /// Removes a copy: its manifest first, since bytes without a manifest are not a copy.
    pub fn drop_copy(&self, sha256: &str) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        for name in [manifest_name(sha256), state_name(sha256)] {
            let path = self.path.join(&name);
            atomic::remove(&dir, OsStr::new(&name)).map_err(PathError::at(&path))?;
        }
        Ok(())
    }

    /// Removes available copies if there are more than `limit`: all but the copy of the current
    /// state, the `newest` ones, and the latest that `is_proven` confirms as the guest's. If it
    /// confirms none, the earliest stays: someone may have replaced the state before the later ones
    /// were saved. If it confirms none, and cannot say of one, the [`MAX_UNTRIED`] earliest stay.
    pub fn drop_surplus(
        &self,
        current: &str,
        (newest, limit): (usize, usize),
        mut is_proven: impl FnMut(&SavedCopy) -> Option<bool>,
    ) -> Result<(), CopyError> {
        let (copies, _) = self.available_copies()?;
        if copies.len() <= limit {
            return Ok(());
        }
        let mut is_unknown = false;
        let proven = copies.iter().position(|copy| {
            let is_proven = is_proven(copy);
            is_unknown |= is_proven.is_none();
            is_proven == Some(true)
        });
        let earliest = if is_unknown { MAX_UNTRIED } else { 1 };
        let needed = match proven {
            Some(at) => at..=at,
            None => copies.len().saturating_sub(earliest)..=copies.len() - 1,
        };
        for (at, copy) in copies.iter().enumerate() {
            let name = copy.manifest.sha256();
            if name != current && !needed.contains(&at) && at >= newest {
                self.drop_copy(name)?;
            }
        }
        Ok(())
    }

    /// Sets aside every available copy, so that none is restored automatically. Returns their number.
    pub fn set_aside(&self, now: Timestamp) -> Result<usize, CopyError> {
        let (mut copies, _) = self.available_copies()?;
        for SavedCopy { manifest, .. } in &mut copies {
            let dir = self.open_or_make()?;
            manifest.set_aside_at = Some(now.0);
            self.write_manifest(&dir, manifest)?;
        }
        Ok(copies.len())
    }

    /// Removes the directory if there is no copy in it.
    pub fn remove_if_empty(&self) -> Result<(), CopyError> {
        let (copies, unreadable) = self.copies()?;
        if copies.is_empty() && unreadable.is_empty() {
            // What remains is not a copy: a killed process left it, or it has no manifest.
            fs::remove_dir_all(&self.path).map_err(PathError::at(&self.path))?;
        }
        Ok(())
    }

    fn read_manifest(path: &Path) -> Result<Manifest, CopyError> {
        let unknown = || CopyError::UnknownManifest {
            path: path.to_owned(),
        };
        let text = read(path)?.ok_or_else(unknown)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| unknown())?;
        let has_its_name = path.file_stem() == Some(OsStr::new(&manifest.sha256));
        if manifest.format != FORMAT || !has_its_name || !manifest.path.is_absolute() {
            return Err(unknown());
        }
        Ok(manifest)
    }

    fn read_copy(&self, manifest: Manifest) -> Result<SavedCopy, CopyError> {
        let path = self.path.join(state_name(&manifest.sha256));
        let bytes = read(&path)?.ok_or_else(|| PathError::new(&*path, Errno::ENOENT))?;
        if hash(&bytes) != manifest.sha256 {
            return Err(CopyError::Damaged { path });
        }
        Ok(SavedCopy {
            manifest,
            bytes,
            is_followed: false,
        })
    }

    fn write_manifest(&self, dir: &File, manifest: &Manifest) -> Result<(), CopyError> {
        self.write(dir, &manifest_name(&manifest.sha256), &json(manifest))
    }

    pub(super) fn write(&self, dir: &File, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let path = self.path.join(name);
        Ok(atomic::replace(dir, OsStr::new(name), bytes).map_err(PathError::at(&path))?)
    }

    /// Returns its directory, which nobody else changes for as long as it stays open: what goes with
    /// the copies of one start must not be taken for those of the next.
    pub fn exclusive(&self, deadline: Deadline) -> Result<File, CopyError> {
        loop {
            let dir = self.open_or_make()?;
            lock(&dir, deadline).map_err(PathError::at(&self.path))?;
            let found = dir.metadata().map_err(PathError::at(&self.path))?;
            // Whoever had the lock before may have removed the directory.
            if found.nlink() > 0 {
                return Ok(dir);
            }
        }
    }

    pub(super) fn open_or_make(&self) -> Result<File, CopyError> {
        Ok(trusted::make_dir(&self.path, trusted::STATE_DIR)?)
    }
}
