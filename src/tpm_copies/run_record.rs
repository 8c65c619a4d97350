//! The state of a guest's last run, in JSON next to its copies.

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};

use super::copy_store::CopyStore;
use super::error::CopyError;
use super::files::{RUN_RECORD, json, read};
use super::manifest::FORMAT;
use crate::host::atomic;
use crate::host::path_error::PathError;

/// The state of a guest's last run. There is no record while the guest runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// A start was prepared, and has not succeeded yet.
    pub starting: bool,
    /// The copy of the state that this start uses, by its SHA-256.
    pub state: Option<String>,
    /// The last run ended normally, and no start since then had a TPM state.
    pub ended_normally: bool,
    /// The guest has moved to another host, with its TPM.
    #[serde(default)]
    pub migrated: bool,
    /// The start was refused with this code because something is wrong with the present state,
    /// which must still exist afterwards.
    #[serde(default)]
    pub refused: Option<String>,
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
