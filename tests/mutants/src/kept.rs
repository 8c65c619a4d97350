//! What one run keeps for the next: as long as the checkout is the same, the same mutants do not compile and
//! each test reaches the same ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::record::Recording;

/// target/mutants/kept.json.
#[derive(Deserialize, Serialize)]
pub struct Kept {
    #[serde(skip)]
    path: PathBuf,
    /// The copy that it is true of.
    fingerprint: u64,
    /// The names of mutants that do not compile.
    pub left_out: BTreeSet<String>,
    pub recording: Option<Recording>,
}

impl Kept {
    /// What a run kept of this copy; nothing, if the last one was of another. What cannot be read was not kept:
    /// it costs some minutes.
    pub fn of(path: PathBuf, fingerprint: u64) -> Self {
        let kept = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        match kept {
            Some(kept) if kept.fingerprint == fingerprint => Self { path, ..kept },
            _ => Self {
                path,
                fingerprint,
                left_out: BTreeSet::new(),
                recording: None,
            },
        }
    }

    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        fs::write(&self.path, text).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
