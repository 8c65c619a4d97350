//! The manifest of a copy, in JSON.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::swtpm::Backend;
use crate::verdict::facts::CopyReason;

/// The format of manifests and run records that is written, and the only one that is read.
pub(super) const FORMAT: u32 = 1;

/// The manifest of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// Increases with each copy of the guest: the later of two copies has the higher number, even if
    /// the clock was set back.
    pub(super) number: u64,
    /// The guest's name at that time.
    pub domain_name: String,
    /// Why it was saved.
    #[serde(rename = "occasion", with = "CopyReasonName")]
    pub reason: CopyReason,
    /// When it was saved, in milliseconds since 1970.
    pub(super) kept_at: i64,
    /// When `reset` set it aside, in milliseconds since 1970: it is not restored automatically.
    pub(super) set_aside_at: Option<i64>,
    #[serde(with = "TpmVersionName")]
    pub(super) tpm_version: TpmVersion,
    #[serde(with = "BackendName")]
    pub(super) backend: Backend,
    /// The path of the state's file.
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
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Manifest {
    /// Returns when it was saved.
    #[must_use]
    pub fn kept_at(&self) -> Timestamp {
        Timestamp(self.kept_at)
    }

    /// Returns when `reset` set it aside.
    #[must_use]
    pub fn set_aside_at(&self) -> Option<Timestamp> {
        self.set_aside_at.map(Timestamp)
    }

    /// Returns whether it was set aside when it was saved: no start could ever restore it.
    pub(super) fn was_saved_aside(&self) -> bool {
        self.set_aside_at == Some(self.kept_at)
    }

    /// Returns the SHA-256 of the bytes, in hexadecimal: the copy's name.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns owner and mode of the state's file.
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
    Fleet,
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
