//! The state of a guest's last run, in JSON next to its copies.

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};

use super::copy_store::CopyStore;
use super::error::CopyError;
use super::files::{RUN_RECORD, json, read};
use super::manifest::FORMAT;
use super::saved_copy::SavedCopy;
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::path_error::PathError;

/// The state of a guest's last run. While the guest runs there is a record only if it has copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a key of the record, which an upgrade may leave to the next version"
)]
pub struct RunRecord {
    /// A start was prepared, and has not succeeded yet.
    pub starting: bool,
    /// The time of that start, which tells it from the next one.
    #[serde(default)]
    pub started_at: Option<i64>,
    /// The copy of the state that this start uses, by its SHA-256.
    pub state: Option<String>,
    /// There was a state when this start was prepared, saved or not, or a copy took its place.
    #[serde(default)]
    pub had_state: bool,
    /// The last run ended normally, and no start since then had a TPM state.
    pub ended_normally: bool,
    /// The guest has moved to another host, with its TPM.
    #[serde(default)]
    pub migrated: bool,
    /// The guest has begun a run, or has moved away, since the copies were saved.
    #[serde(default)]
    pub outdated: bool,
    /// The start was refused with this code because something is wrong with the present state,
    /// which must still exist afterwards.
    #[serde(default)]
    pub refused: Option<String>,
}

impl RunRecord {
    /// What counts where there is a record that cannot be read: the guest may have run since its copies were
    /// saved, here or elsewhere, so that no start may set its TPM back to one of them by itself.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            outdated: true,
            ..Self::default()
        }
    }

    /// Returns whether a run is known that is later than this copy: restoring it would set the TPM
    /// back. `has_started_since` asks the history, which knows also of a run whose beginning and end
    /// no hook has seen.
    pub fn is_later_than(
        &self,
        copy: &SavedCopy,
        has_started_since: impl FnOnce(Timestamp) -> bool,
    ) -> bool {
        if copy.is_of_fleet() {
            return copy.is_followed;
        }
        // What a start that has not succeeded began with is what the next one begins with.
        let is_of_this_start = self.state.as_deref() == Some(copy.manifest.sha256());
        let is_older = self.outdated || self.migrated || copy.is_followed;
        !is_of_this_start
            && (is_older || (!self.starting && has_started_since(copy.manifest.kept_at())))
    }
}

/// The file of a [`RunRecord`].
#[derive(Serialize, Deserialize)]
struct RunFile {
    format: u32,
    #[serde(flatten)]
    run: RunRecord,
}

impl CopyStore {
    /// Returns the record of the last run; the default where there is none.
    pub fn run(&self) -> Result<RunRecord, CopyError> {
        match self.read_run() {
            // On a machine in trouble (memory, descriptors) perhaps only for this moment.
            Err(error) if !error.is_unknown_manifest() => self.read_run(),
            read => read,
        }
    }

    /// The record that the next one follows from: where it is damaged, that of a run of which nothing is known. Any
    /// other error is returned: a record that cannot be read now is not to be replaced, for it may be read again.
    pub fn run_before(&self) -> Result<RunRecord, CopyError> {
        match self.run() {
            Err(error) if error.is_unknown_manifest() => Ok(RunRecord::unknown()),
            read => read,
        }
    }

    fn read_run(&self) -> Result<RunRecord, CopyError> {
        let path = self.path().join(RUN_RECORD);
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

    /// The same; `None` where there is a record that cannot be read, which the log then says.
    #[must_use]
    pub fn known_run(&self) -> Option<RunRecord> {
        self.run()
            .inspect_err(|error| {
                tracing::warn!(%error, "the record of a guest's last run cannot be read: what it was is unknown");
            })
            .ok()
    }

    /// Writes the record of a run.
    pub fn write_run(&self, run: RunRecord) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        let format = FORMAT;
        self.write(&dir, RUN_RECORD, &json(&RunFile { format, run }))
    }

    /// Removes the record of the last run.
    pub fn remove_run(&self) -> Result<(), CopyError> {
        let dir = self.open_or_make()?;
        Ok(atomic::remove(&dir, OsStr::new(RUN_RECORD)).map_err(PathError::at(self.path()))?)
    }
}
