//! Recovery files that the administrator points to: whole, and of which provider?

use std::path::Path;

use super::Ailment;
use crate::cli::args::RecoveryFiles;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::passphrase;
use crate::key::id::KeyId;
use crate::messages::{Arg, quoted};
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::recovery::passphrase::Passphrase;
use crate::store::{Access, Store};
use crate::verdict::facts::Provider;

pub(crate) fn ailments(
    context: &Context,
    asked: &RecoveryFiles,
) -> Result<Vec<Ailment>, CommandError> {
    if asked.recovery_file.is_empty() {
        return Ok(Vec::new());
    }
    let passphrase = asked.passphrase_file.as_deref();
    let passphrase = passphrase
        .map(|file| passphrase::ask(Some(file)))
        .transpose()?;
    let mut found = Vec::new();
    let mut covered = Vec::new();
    for file in &asked.recovery_file {
        match tried(file, passphrase.as_ref()) {
            Ok(key_id) => covered.push(key_id),
            Err(error) => found.push(useless(file, &error)),
        }
    }
    // A store that cannot be read is told of elsewhere.
    let providers = match context.host.store(Access::Read) {
        Ok(Some(store)) => Store::providers(&store).unwrap_or_default(),
        _ => Vec::new(),
    };
    let without = providers
        .iter()
        .filter(|provider| !covered.contains(&provider.key_id));
    found.extend(without.map(not_covered));
    Ok(found)
}

/// The key that a recovery file brings back. Without the passphrase its checksum tells that
/// it is whole; with it, the key is opened.
fn tried(file: &Path, passphrase: Option<&Passphrase>) -> Result<KeyId, RecoveryError> {
    let recovery = RecoveryFile::read(file)?;
    if let Some(passphrase) = passphrase {
        recovery.open(passphrase)?;
    }
    Ok(recovery.header().key_id)
}

fn useless(file: &Path, error: &RecoveryError) -> Ailment {
    let shown = file.display();
    Ailment::fault(
        match error {
            RecoveryError::Io { .. } => error.to_string(),
            _ => format!("{shown}: {error}"),
        },
        "this file brings no provider back",
        "make a new one: vtpm-guard provider export NAME --output FILE",
    )
}

fn not_covered(provider: &Provider) -> Ailment {
    Ailment::fault(
        format!(
            "none of these recovery files brings back provider {} (key {})",
            quoted(&provider.name),
            provider.key_id.short()
        ),
        "with this host its key is lost, and with it every TPM that depends on it",
        format!(
            "vtpm-guard provider export {} --output FILE",
            Arg::provider(provider)
        ),
    )
}
