//! A TPM state is saved, deleted and restored.

mod moving;
mod races;
mod restoring;
mod saving;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::domain::{Emulator, TpmVersion};
use crate::host::dirs::StateDir;
use crate::ids::DomainUuid;
use crate::verdict::facts::CopyReason;

const STATE: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");
const LATER: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");

/// A guest's TPM state at libvirt's path, and the guard's state directory.
struct Guest {
    dir: TempDir,
    domain: DomainUuid,
    vtpm: Emulator,
}

impl Guest {
    fn new() -> Self {
        let guest = Self {
            dir: tempfile::tempdir().unwrap(),
            domain: DomainUuid::random(),
            vtpm: Emulator {
                version: TpmVersion::V2_0,
                secret_uuid: None,
                persistent_state: false,
                source: None,
            },
        };
        guest.put(STATE);
        guest
    }

    fn states(&self) -> PathBuf {
        self.dir.path().join("swtpm")
    }

    fn state(&self) -> PathBuf {
        swtpm_path(&self.states(), self.domain, &self.vtpm)
    }

    fn put(&self, bytes: &[u8]) {
        fs::create_dir_all(self.state().parent().unwrap()).unwrap();
        fs::write(self.state(), bytes).unwrap();
    }

    /// Deletes the state as libvirt does.
    fn delete(&self) {
        fs::remove_dir_all(self.states().join(self.domain.to_string())).unwrap();
    }

    fn guard(&self) -> StateDir {
        StateDir::at(self.dir.path().join("guard"))
    }

    fn copy_store(&self) -> CopyStore {
        CopyStore::of(&self.guard(), self.domain)
    }

    fn copies_dir(&self) -> PathBuf {
        let all = self.dir.path().join("guard/tpm-state");
        all.join(self.domain.to_string())
    }

    fn live_state(&self) -> Option<LiveState> {
        LiveState::read(&self.states(), self.domain, &self.vtpm).unwrap()
    }

    fn save(&self, reason: CopyReason) -> String {
        let live = self.live_state().unwrap();
        self.copy_store().save(&live, "vm1", reason).unwrap()
    }

    /// The copies that can be read, all of them.
    fn copies(&self) -> Vec<SavedCopy> {
        let (copies, unreadable) = self.copy_store().copies().unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        copies
    }

    fn restore_copy(&self) -> Result<CopyRestored, RestoreError> {
        let start = (self.states(), self.domain, &self.vtpm);
        restore_copy(&self.copies()[0], Some((&start.0, start.1, start.2)))
    }
}

fn swtpm_path(states: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    crate::swtpm::state_path(states, domain, vtpm)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}
