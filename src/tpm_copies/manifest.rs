//! What stands beside the bytes of a copy, and how far a guest's run has come. Both are JSON.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::swtpm::Backend;
use crate::verdict::facts::CopyReason;

/// The format of manifests and run marks that this program writes, and the only one it reads.
pub(super) const FORMAT: u32 = 1;

/// The manifest of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// Counts up with each copy of the guest: of two copies the later one has the higher number,
    /// wherever the clock was set meanwhile.
    pub(super) number: u64,
    /// The guest's name at that time.
    pub domain_name: String,
    /// When in the guest's life it was kept.
    #[serde(rename = "occasion", with = "CopyReasonName")]
    pub reason: CopyReason,
    /// When it was kept, in milliseconds since 1970.
    pub(super) kept_at: i64,
    /// When `reset` set it aside, in milliseconds since 1970: it is not put back by itself.
    pub(super) set_aside_at: Option<i64>,
    #[serde(with = "TpmVersionName")]
    pub(super) tpm_version: TpmVersion,
    #[serde(with = "BackendName")]
    pub(super) backend: Backend,
    /// Where the state's file was.
    pub path: PathBuf,
    /// Owner and mode of the state's file.
    pub(super) file: Attributes,
    /// Owner and mode of the directories around it that libvirt deletes or makes, from the
    /// outermost to the one that holds the file.
    pub(super) directories: Vec<Attributes>,
    /// The SHA-256 of the bytes, in hexadecimal.
    pub(super) sha256: String,
}

/// Owner and mode of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

/// How far the guest's last run has come. While it runs, there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// A start was prepared, and has not succeeded.
    pub starting: bool,
    /// The copy of the state that this start goes on with, by its SHA-256.
    pub state: Option<String>,
    /// The last run ended normally, and no start since then had a TPM state.
    pub ended_normally: bool,
    /// The guest has moved to another host, with its TPM.
    #[serde(default)]
    pub migrated: bool,
    /// The start was refused with this code, for what is wrong with the state that is there: it
    /// must be there afterwards, too.
    #[serde(default)]
    pub refused: Option<String>,
}

/// [`RunRecord`] as it is written.
#[derive(Serialize, Deserialize)]
pub(super) struct RunFile {
    pub(super) format: u32,
    #[serde(flatten)]
    pub(super) run: RunRecord,
}

impl Manifest {
    /// When it was kept.
    #[must_use]
    pub fn kept_at(&self) -> Timestamp {
        Timestamp(self.kept_at)
    }

    /// When `reset` set it aside.
    #[must_use]
    pub fn set_aside_at(&self) -> Option<Timestamp> {
        self.set_aside_at.map(Timestamp)
    }

    /// The SHA-256 of the bytes, in hexadecimal: the copy's name.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Owner and mode of the state's file.
    #[must_use]
    pub fn file(&self) -> Attributes {
        self.file
    }
}

impl Attributes {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        }
    }
}

/// How manifests spell [`CopyReason`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "CopyReason", rename_all = "lowercase")]
enum CopyReasonName {
    Start,
    Release,
}

/// How manifests spell [`TpmVersion`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "TpmVersion")]
enum TpmVersionName {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "2.0")]
    V2_0,
}

/// How manifests spell [`Backend`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Backend", rename_all = "lowercase")]
enum BackendName {
    Directory,
    Linear,
}
