//! Where libvirt and swtpm keep a TPM state.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{StateError, bounded, open};
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::ids::DomainUuid;

/// How swtpm keeps a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file for each state in a directory (`--tpmstate dir=`).
    Directory,
    /// One file or block device for all (`--tpmstate backend-uri=file://`).
    Linear,
}

impl Backend {
    /// The one that libvirt has swtpm use for this TPM.
    #[must_use]
    pub fn of(vtpm: &Emulator) -> Self {
        match vtpm.source {
            Some(StateSource::File(_)) => Self::Linear,
            Some(StateSource::Dir(_)) | None => Self::Directory,
        }
    }
}

/// Where the state of a domain's emulated TPM is (libvirt, `src/qemu/qemu_tpm.c`:
/// `qemuTPMEmulatorStorageBuildPath`; swtpm, `src/swtpm/swtpm_nvstore.c`:
/// `SWTPM_NVRAM_GetFilenameForName`). A `<source type='dir'>` has no directory for the version
/// in it; a `<source type='file'>` is the place itself.
#[must_use]
pub fn state_path(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    StatePath::of(libvirt_state_dir, domain, vtpm).path
}

/// The place of a TPM state, and whose the way to it is.
#[derive(Debug, Clone)]
pub struct StatePath {
    /// The file.
    pub path: PathBuf,
    pub(super) backend: Backend,
    /// The directory that is the administrator's: links down to it are followed.
    pub(super) base: Base,
    /// The directories from there to the file: libvirt makes them, deletes them, and gives them
    /// to swtpm's user, so no link is followed.
    pub(super) below: Vec<OsString>,
    /// The file's name; where the XML names the file, the file itself.
    pub(super) file: OsString,
}

/// Where the administrator's part of the way ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// libvirt's directory of all states. What is above it is as trustworthy as libvirt itself.
    Libvirt(PathBuf),
    /// The directory that the domain XML names. On the way to it only links are followed that are
    /// root's, in directories that are root's alone.
    SourceDir(PathBuf),
    /// The file or block device that the domain XML names; likewise.
    SourceFile(PathBuf),
}

impl StatePath {
    /// The place of the state of a domain's emulated TPM.
    #[must_use]
    pub fn of(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> Self {
        let (directory, file) = match vtpm.version {
            TpmVersion::V1_2 => ("tpm1.2", "tpm-00.permall"),
            TpmVersion::V2_0 => ("tpm2", "tpm2-00.permall"),
        };
        let backend = Backend::of(vtpm);
        let (base, below, file) = match &vtpm.source {
            None => (
                Base::Libvirt(libvirt_state_dir.to_owned()),
                vec![domain.to_string().into(), directory.into()],
                file.into(),
            ),
            Some(StateSource::Dir(path)) => {
                (Base::SourceDir(path.clone()), Vec::new(), file.into())
            }
            Some(StateSource::File(path)) => (
                Base::SourceFile(path.clone()),
                Vec::new(),
                path.file_name().unwrap_or_default().to_owned(),
            ),
        };
        let path = match &base {
            Base::Libvirt(base) => {
                let below: PathBuf = below.iter().collect();
                base.join(below).join(&file)
            }
            Base::SourceDir(base) => base.join(&file),
            Base::SourceFile(path) => path.clone(),
        };
        Self {
            path,
            backend,
            base,
            below,
            file,
        }
    }

    /// The place where a copy was taken, of whose path so many directories are libvirt's to make.
    #[must_use]
    pub fn of_copy(path: &Path, directories: usize, backend: Backend) -> Self {
        let file = path.file_name().unwrap_or_default().to_owned();
        let mut ancestors = path.ancestors();
        let base = ancestors.nth(directories).unwrap_or(path).to_owned();
        let below = base.components().count();
        let (base, below) = match directories {
            0 => (Base::SourceFile(path.to_owned()), Vec::new()),
            1 => (Base::SourceDir(base), Vec::new()),
            _ => {
                let names = path.components().skip(below).take(directories - 1);
                let names = names.map(|name| name.as_os_str().to_owned()).collect();
                (Base::Libvirt(base), names)
            }
        };
        Self {
            path: path.to_owned(),
            backend,
            base,
            below,
            file,
        }
    }

    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        &self.file
    }

    /// The names of the directories below [`open_base`](Self::open_base).
    #[must_use]
    pub fn directories_below(&self) -> &[OsString] {
        &self.below
    }

    /// Opens the administrator's directory that the others are below of; `None` where it is
    /// missing. Comes back within seconds.
    pub fn open_base(&self) -> Result<Option<File>, StateError> {
        let place = self.clone();
        bounded(self, move || open::open_base(&place))
    }

    /// Where that directory is: the outermost one that libvirt makes, or, for a state in one
    /// file, the one that holds it.
    #[must_use]
    pub fn base_path(&self) -> &Path {
        match &self.base {
            Base::Libvirt(path) | Base::SourceDir(path) => path,
            Base::SourceFile(path) => path.parent().unwrap_or(path),
        }
    }

    /// The directory that holds the one which libvirt deletes with the TPM, and that one's name.
    /// `None` where there is none, or libvirt deletes a file alone.
    pub fn open_parent_of_deleted(&self) -> Result<Option<(File, OsString)>, StateError> {
        let (Some(name), place) = (
            match &self.base {
                Base::Libvirt(_) => self.below.first().cloned(),
                Base::SourceDir(path) => path.file_name().map(OsStr::to_owned),
                Base::SourceFile(_) => None,
            },
            self.clone(),
        ) else {
            return Ok(None);
        };
        let parent = bounded(self, move || match &place.base {
            Base::SourceDir(path) => open::open_parent(path),
            Base::Libvirt(_) | Base::SourceFile(_) => open::open_base(&place),
        })?;
        Ok(parent.map(|parent| (parent, name)))
    }

    /// What is in the way of a state: the file itself, or the first thing on the way to it that
    /// should be a directory and is none. Gives its directory, that one's path, and its name.
    pub fn open_obstacle(&self) -> Result<(File, PathBuf, OsString), StateError> {
        let place = self.clone();
        bounded(self, move || open::open_obstacle(&place))
    }

    /// The regular file of this name in a directory that [`open_obstacle`](Self::open_obstacle)
    /// gave.
    pub fn open_beside(&self, dir: &File, name: &OsStr) -> Result<File, StateError> {
        let file = open::open_in(dir, self.directory(), name)?;
        file.ok_or_else(|| StateError::Io(ErrorKind::NotFound.into()))
    }

    /// The directory of the file, as the path names it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What the states of many guests have in common: if one of them hangs, so do the others.
    pub(super) fn common_directory(&self) -> PathBuf {
        match &self.base {
            Base::Libvirt(path) => path.clone(),
            Base::SourceDir(path) | Base::SourceFile(path) => {
                path.parent().unwrap_or(path).to_owned()
            }
        }
    }
}
