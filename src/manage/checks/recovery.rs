//! Recovery files that the administrator names: whole, and of which provider?

use std::path::{Path, PathBuf};

use super::{Finding, KeyFinding};
use crate::key::id::KeyId;
use crate::manage::host::Host;
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::recovery::passphrase::Passphrase;
use crate::store::{Access, Store};

/// The recovery files to verify.
pub(crate) struct RecoveryFiles<'a> {
    pub(crate) files: &'a [PathBuf],
    /// Opens them all.
    pub(crate) passphrase: Option<Passphrase>,
}

pub(super) fn examine(host: &Host, asked: &RecoveryFiles<'_>) -> Vec<Finding> {
    if asked.files.is_empty() {
        return Vec::new();
    }
    let (mut found, mut covered) = (Vec::new(), Vec::new());
    for file in asked.files {
        match verify(file, asked.passphrase.as_ref()) {
            Ok(key_id) => covered.push(key_id),
            Err(error) => found.push(KeyFinding::Recovery(file.clone(), error)),
        }
    }
    let providers = match host.store(Access::Read) {
        Ok(Some(store)) => Store::providers(&store).unwrap_or_default(),
        _ => Vec::new(),
    };
    let without = providers
        .into_iter()
        .filter(|provider| !covered.contains(&provider.key_id));
    found.extend(without.map(KeyFinding::NotCovered));
    found.into_iter().map(Finding::from).collect()
}

/// Returns the ID of the key in a recovery file. Without the passphrase its checksum proves that
/// it is whole; with it, the key is opened.
fn verify(file: &Path, passphrase: Option<&Passphrase>) -> Result<KeyId, RecoveryError> {
    let recovery = RecoveryFile::read(file)?;
    if let Some(passphrase) = passphrase {
        recovery.open(passphrase)?;
    }
    Ok(recovery.header().key_id)
}
