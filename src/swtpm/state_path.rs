//! Where libvirt and swtpm keep a TPM state.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::ids::DomainUuid;

/// How swtpm stores a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file for each state in a directory (`--tpmstate dir=`).
    Directory,
    /// One file or block device for all (`--tpmstate backend-uri=file://`).
    Linear,
}

impl Backend {
    /// Returns the backend that libvirt has swtpm use for this TPM.
    #[must_use]
    pub fn of(vtpm: &Emulator) -> Self {
        match vtpm.source {
            Some(StateSource::File(_)) => Self::Linear,
            Some(StateSource::Dir(_)) | None => Self::Directory,
        }
    }
}

/// Returns the path of the state of a domain's emulated TPM (libvirt, `src/qemu/qemu_tpm.c`:
/// `qemuTPMEmulatorStorageBuildPath`; swtpm, `src/swtpm/swtpm_nvstore.c`:
/// `SWTPM_NVRAM_GetFilenameForName`). A `<source type='dir'>` has no directory for the version
/// in it; a `<source type='file'>` is the state itself.
#[must_use]
pub fn state_path(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    StatePath::of(libvirt_state_dir, domain, vtpm).path
}

/// The path of a TPM state, and who controls which part of it.
#[derive(Debug, Clone)]
pub struct StatePath {
    /// The file.
    pub path: PathBuf,
    pub(super) backend: Backend,
    /// The part that the administrator controls: links in it are followed.
    pub(super) base: Base,
    /// The directories below that, which libvirt makes, deletes, and gives to swtpm's user: no link
    /// is followed there.
    pub(super) below: Vec<OsString>,
    /// The file's name.
    pub(super) file: OsString,
}

/// The part of the path that the administrator controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// libvirt's directory of all states. The directories above it are trusted as libvirt is.
    Libvirt(PathBuf),
    /// The directory that the domain XML names. On the path to it only root's links are followed,
    /// in directories that only root may write.
    SourceDir(PathBuf),
    /// The file or block device that the domain XML names. Links: as for a directory.
    SourceFile(PathBuf),
}

impl StatePath {
    /// Returns the path of the state of a domain's emulated TPM.
    #[must_use]
    pub fn of(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> Self {
        let directory = match vtpm.version {
            TpmVersion::V1_2 => "tpm1.2",
            TpmVersion::V2_0 => "tpm2",
        };
        let file = vtpm.version.state_file();
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
        Self::at(backend, base, below, file)
    }

    fn at(backend: Backend, base: Base, below: Vec<OsString>, file: OsString) -> Self {
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

    /// Returns the path at which a copy was made. The last `directories` of its directories are
    /// those that libvirt makes.
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

    /// Returns where the same state is below another name of what libvirt deletes with it: of the directory or, in the
    /// linear format, of the file.
    #[must_use]
    pub fn under_another_name(&self, name: &OsStr) -> Self {
        let (mut base, mut below, mut file) =
            (self.base.clone(), self.below.clone(), self.file.clone());
        match &mut base {
            Base::Libvirt(_) => {
                if let Some(deleted) = below.first_mut() {
                    name.clone_into(deleted);
                }
            }
            Base::SourceDir(path) => path.set_file_name(name),
            Base::SourceFile(path) => {
                path.set_file_name(name);
                name.clone_into(&mut file);
            }
        }
        Self::at(self.backend, base, below, file)
    }

    /// Returns how swtpm stores the state.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns whether the domain XML names this path, which then may be anything's.
    #[must_use]
    pub fn is_named_by_xml(&self) -> bool {
        !matches!(self.base, Base::Libvirt(_))
    }

    /// Returns how many directories around the state libvirt makes if they are missing: as
    /// [`of_copy`](Self::of_copy) takes it.
    #[must_use]
    pub fn made_directories(&self) -> usize {
        match self.backend {
            Backend::Directory => self.below.len() + 1,
            Backend::Linear => 0,
        }
    }

    /// Returns the file's name.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        &self.file
    }

    /// Returns the names of the directories below [`open_base`](Self::open_base).
    #[must_use]
    pub fn directories_below(&self) -> &[OsString] {
        &self.below
    }

    /// Returns the path of that directory: the outermost one that libvirt makes, or, for a state in
    /// one file, the directory of the file.
    #[must_use]
    pub fn base_path(&self) -> &Path {
        match &self.base {
            Base::Libvirt(path) | Base::SourceDir(path) => path,
            Base::SourceFile(path) => path.parent().unwrap_or(path),
        }
    }

    /// Returns the directory of the file, as the path names it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Returns the directory that many guests' states have in common: if reading one of them hangs,
    /// so does reading the others.
    pub(super) fn common_directory(&self) -> PathBuf {
        match &self.base {
            Base::Libvirt(path) => path.clone(),
            Base::SourceDir(path) | Base::SourceFile(path) => {
                path.parent().unwrap_or(path).to_owned()
            }
        }
    }
}
