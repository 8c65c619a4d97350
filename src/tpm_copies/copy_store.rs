//! The directory of one guest's copies.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::CopyError;
use super::files::{hash, json, manifest_name, names, read, state_name};
use super::live_state::LiveState;
use super::manifest::{FORMAT, Manifest, RunFile, RunRecord};
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::ids::DomainUuid;
use crate::swtpm::{self, StateFile};
use crate::verdict::facts::CopyReason;

const RUN: &str = "run.json";

/// How many copies of one guest's TPM state stand by. Each start that fails of a transient guest
/// whose state has changed makes one more, and each may have megabytes.
pub const MAX_COPIES: usize = 4;

/// One copy, read whole.
#[derive(Debug)]
pub struct SavedCopy {
    /// What stands beside the bytes.
    pub manifest: Manifest,
    pub(super) bytes: Vec<u8>,
}

impl SavedCopy {
    /// A copy that is in memory alone: of a state that is to be put in another guest's place.
    #[must_use]
    pub fn of(original: LiveState, domain_name: &str, reason: CopyReason) -> Self {
        Self {
            manifest: manifest(&original, domain_name, reason),
            bytes: original.bytes,
        }
    }

    /// What the state is.
    #[must_use]
    pub fn state(&self) -> StateFile {
        swtpm::state_in(&self.bytes, self.manifest.backend)
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it may be put back without anybody asking for it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.manifest.set_aside_at.is_none()
    }
}

/// The manifest of a first copy of this state.
fn manifest(original: &LiveState, domain_name: &str, reason: CopyReason) -> Manifest {
    Manifest {
        format: FORMAT,
        number: 1,
        domain_name: domain_name.to_owned(),
        reason,
        kept_at: Timestamp::now().0,
        set_aside_at: None,
        tpm_version: original.tpm_version,
        backend: original.backend,
        path: original.path.clone(),
        file: original.file,
        directories: original.directories.clone(),
        sha256: hash(&original.bytes),
    }
}

/// The guests that have a directory of copies, by UUID.
pub fn domains(state_dir: &StateDir) -> Result<Vec<DomainUuid>, CopyError> {
    let names = names(&state_dir.tpm_copies())?;
    let uuid = |name: &OsString| DomainUuid::parse(name.to_str()?).ok();
    let mut domains: Vec<_> = names.iter().filter_map(uuid).collect();
    domains.sort();
    Ok(domains)
}

/// The directory of one guest's copies; it need not be there.
#[derive(Debug)]
pub struct CopyStore {
    path: PathBuf,
}

impl CopyStore {
    /// The copies of this guest.
    #[must_use]
    pub fn of(state_dir: &StateDir, domain: DomainUuid) -> Self {
        let path = state_dir.tpm_copies().join(domain.to_string());
        Self { path }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, with every copy that it holds. Says whether it was there.
    pub fn remove(&self) -> Result<bool, CopyError> {
        // Nothing is removed for anybody who could have put it there.
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

    /// Whether there is one. Costs one look.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// All copies that can be read, the latest first, and why the others cannot.
    pub fn copies(&self) -> Result<(Vec<SavedCopy>, Vec<CopyError>), CopyError> {
        self.copies_that(|_| true)
    }

    /// Those that may be put back without anybody asking for it; of the others no more than the
    /// manifest is read.
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
            if name.extension() != Some(OsStr::new("json")) || name == Path::new(RUN) {
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

    /// Keeps a copy, and gives its name. One of the same bytes that stands by is enough.
    pub fn save(
        &self,
        original: &LiveState,
        domain_name: &str,
        reason: CopyReason,
    ) -> Result<String, CopyError> {
        self.write_copy(original, domain_name, reason, None)
    }

    /// Keeps a copy that is never put back by itself.
    pub fn save_set_aside(
        &self,
        original: &LiveState,
        domain_name: &str,
        now: Timestamp,
    ) -> Result<String, CopyError> {
        self.write_copy(original, domain_name, CopyReason::Start, Some(now.0))
    }

    fn write_copy(
        &self,
        original: &LiveState,
        domain_name: &str,
        reason: CopyReason,
        set_aside_at: Option<i64>,
    ) -> Result<String, CopyError> {
        let dir = self.open_or_make()?;
        let sha256 = hash(&original.bytes);
        let mut latest = 0;
        let (same, _) = self.copies_that(|manifest| {
            latest = latest.max(manifest.number);
            manifest.sha256 == sha256
        })?;
        let same = same.first();
        if same.is_some_and(SavedCopy::is_available) {
            return Ok(sha256);
        }
        let manifest = Manifest {
            number: latest + 1,
            set_aside_at,
            ..manifest(original, domain_name, reason)
        };
        if same.is_none() {
            self.write(&dir, &state_name(&manifest.sha256), &original.bytes)?;
        }
        self.write_manifest(&dir, &manifest)?;
        Ok(manifest.sha256)
    }

    /// Drops a copy for good: its manifest first, without which the bytes are nothing.
    pub fn drop_copy(&self, sha256: &str) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        for name in [manifest_name(sha256), state_name(sha256)] {
            let path = self.path.join(&name);
            atomic::remove(&dir, OsStr::new(&name)).map_err(PathError::at(&path))?;
        }
        Ok(())
    }

    /// Drops copies that stand by, where there are more than [`MAX_COPIES`]: all but that of the
    /// state which is there now, and the latest that `is_proven` says is the guest's. Where none
    /// is, the earliest stays: those that came later may be what somebody put in the state's
    /// place.
    pub fn drop_surplus(
        &self,
        current: &str,
        mut is_proven: impl FnMut(&SavedCopy) -> bool,
    ) -> Result<(), CopyError> {
        let (copies, _) = self.available_copies()?;
        if copies.len() <= MAX_COPIES {
            return Ok(());
        }
        let proven = copies.iter().position(&mut is_proven);
        let proven = proven.unwrap_or(copies.len() - 1);
        for (at, copy) in copies.iter().enumerate() {
            let name = copy.manifest.sha256();
            if name != current && at != proven {
                self.drop_copy(name)?;
            }
        }
        Ok(())
    }

    /// Sets aside every copy that stands by: none is put back by itself any more. Gives their
    /// number.
    pub fn set_aside(&self, now: Timestamp) -> Result<usize, CopyError> {
        let (mut copies, _) = self.available_copies()?;
        for SavedCopy { manifest, .. } in &mut copies {
            let dir = self.open_or_make()?;
            manifest.set_aside_at = Some(now.0);
            self.write_manifest(&dir, manifest)?;
        }
        Ok(copies.len())
    }

    /// How far the last run has come; where nothing says so, it runs or was never seen.
    pub fn run(&self) -> Result<RunRecord, CopyError> {
        let path = self.path.join(RUN);
        let Some(bytes) = read(&path)? else {
            return Ok(RunRecord::default());
        };
        match serde_json::from_slice(&bytes) {
            Ok(RunFile {
                format: FORMAT,
                run,
            }) => Ok(run),
            _ => Err(CopyError::UnknownManifest { path }),
        }
    }

    /// Notes how far a run has come.
    pub fn write_run(&self, run: RunRecord) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        let format = FORMAT;
        self.write(&dir, RUN, &json(&RunFile { format, run }))
    }

    /// Forgets how far the run had come.
    pub fn remove_run(&self) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        Ok(atomic::remove(&dir, OsStr::new(RUN)).map_err(PathError::at(&self.path))?)
    }

    /// Removes the directory, if there are no copies in it.
    pub fn remove_if_empty(&self) -> Result<(), CopyError> {
        let (copies, unreadable) = self.copies()?;
        if copies.is_empty() && unreadable.is_empty() {
            // What is left was never a copy: a killed writer's, or bytes without their manifest.
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
        let is_named_so = path.file_stem() == Some(OsStr::new(&manifest.sha256));
        if manifest.format != FORMAT || !is_named_so || !manifest.path.is_absolute() {
            return Err(unknown());
        }
        Ok(manifest)
    }

    fn read_copy(&self, manifest: Manifest) -> Result<SavedCopy, CopyError> {
        let path = self.path.join(state_name(&manifest.sha256));
        let bytes = read(&path)?.ok_or_else(|| PathError::new(&*path, ErrorKind::NotFound))?;
        if hash(&bytes) != manifest.sha256 {
            return Err(CopyError::Damaged { path });
        }
        Ok(SavedCopy { manifest, bytes })
    }

    fn write_manifest(&self, dir: &File, manifest: &Manifest) -> Result<(), CopyError> {
        self.write(dir, &manifest_name(&manifest.sha256), &json(manifest))
    }

    fn write(&self, dir: &File, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        let path = self.path.join(name);
        Ok(atomic::replace(dir, OsStr::new(name), bytes).map_err(PathError::at(&path))?)
    }

    fn open_or_make(&self) -> Result<File, CopyError> {
        Ok(trusted::make_dir(&self.path, trusted::STATE_DIR)?)
    }
}
