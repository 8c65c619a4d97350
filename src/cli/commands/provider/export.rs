//! `provider export`: the key into a recovery file, under a passphrase. Once the key of a
//! rotation is in one, the former key goes, if nothing needs it.

use std::path::Path;

use serde_json::{Value, json};

use super::delete;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors;
use crate::cli::ui::passphrase::{self, Chosen};
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::host::default_deadline;
use crate::manage::providers::ProvidersLock;
use crate::messages::{Arg, quoted};
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::store::{Access, Store, StoreError};
use crate::verdict::facts::Provider;

pub(crate) fn run(
    context: &Context,
    name: &str,
    output: &Path,
    passphrase_file: Option<&Path>,
) -> Result<(), CommandError> {
    // What can be known to fail without the key does so before anybody types a passphrase.
    let (_, provider) = context.host.provider(name, Access::Write)?;
    if output.symlink_metadata().is_ok() {
        return Err(host_errors::recovery(
            output,
            RecoveryError::Exists(output.to_owned()),
        ));
    }
    context.host.keyring().seal(provider.key_id)?;
    // Only then is the key opened: it is not in memory while somebody types.
    let Chosen {
        passphrase,
        weaknesses,
    } = passphrase::choose(passphrase_file)?;
    let kek = open(context, &provider)?;

    let waiting = Progress::waiting("deriving a key from the passphrase");
    let now = Timestamp::now();
    let sealed = RecoveryFile::seal(&kek, &provider.name, provider.key_version, now, &passphrase);
    waiting.done();
    sealed
        .and_then(|file| file.write_to(output))
        .map_err(|error| host_errors::recovery(output, error))?;

    note_export(context, &provider, now).map_err(|error| {
        CommandError::failed(format!(
            "{} is written and good, but the store could not note it: {error}",
            output.display()
        ))
    })?;
    let formers = drop_formers(context, &provider)?;
    let key_ids = |gone| {
        let these = formers.iter().filter(|former| former.is_gone() == gone);
        these
            .map(|former| former.key_id.to_string())
            .collect::<Value>()
    };
    let document = json!({
        "file": output.to_string_lossy(),
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "key_id": provider.key_id.to_string(),
        "exported_at": now.0,
        "former_keys_dropped": key_ids(true),
        "former_keys_kept": key_ids(false),
        "warnings": weaknesses.iter().map(|weakness| json!({
            "kind": weakness.kind(),
            "message": weakness.to_string(),
        })).collect::<Value>(),
    });
    context.output.answer(&document, |out| {
        writeln!(
            out,
            "exported provider {}, key {}, to {}",
            quoted(&provider.name),
            provider.key_id.short(),
            output.display()
        )
    })?;
    context.output.note(
        "keep the file away from this host, and the passphrase away from the file: \
         without either the key is lost",
    );
    for weakness in &weaknesses {
        context.output.note(&weakness.to_string());
    }
    for former in &formers {
        context.output.note(&former.in_words());
    }
    Ok(())
}

fn open(context: &Context, provider: &Provider) -> Result<Kek, CommandError> {
    let keyring = context.host.keyring();
    Ok(keyring.open(provider.key_id, default_deadline())?)
}

/// The store, whose deadline may have passed while somebody typed.
fn reopened(context: &Context) -> Result<Store, CommandError> {
    Ok(context
        .host
        .store(Access::Write)?
        .ok_or(StoreError::Missing)?)
}

/// A former key of the exported provider.
struct Former {
    name: String,
    key_id: KeyId,
    /// Why it is still here; `None` where it was dropped.
    needed: Option<Need>,
}

/// Why a former key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Key references are bound to it, or wrapped with it.
    KeyRefs,
    /// Store backups of its time need it, and no recovery file holds it.
    NeverExported,
}

impl Former {
    fn is_gone(&self) -> bool {
        self.needed.is_none()
    }

    fn in_words(&self) -> String {
        let (key, word) = (self.key_id.short(), Arg::provider_named(&self.name));
        match self.needed {
            None => format!(
                "the former key {key} is dropped: nothing on this host needs it; keep its \
                 recovery file with the store backups of its time"
            ),
            Some(Need::KeyRefs) => format!(
                "the former key {key} is kept as provider {}: key references need it; list \
                 them: vtpm-guard key list",
                quoted(&self.name)
            ),
            Some(Need::NeverExported) => format!(
                "the former key {key} is kept: it was never exported, and store backups of its \
                 time need it: vtpm-guard provider export {word} --output FILE; or: \
                 vtpm-guard provider delete {word} --force"
            ),
        }
    }
}

/// Drops the former keys that nothing needs any more.
fn drop_formers(context: &Context, provider: &Provider) -> Result<Vec<Former>, CommandError> {
    let mut store = reopened(context)?;
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let mut formers = Vec::new();
    if store.provider_by_uuid(provider.uuid)?.key_id != provider.key_id {
        // Rotated once more since: what was exported is a former key by now.
        return Ok(formers);
    }
    for former in store.previous_keys(provider)? {
        let needed = if former.exported_at.is_none() {
            Some(Need::NeverExported)
        } else if store.delete_previous_key(&former)? {
            // The row before the key that it needs: a kill in between leaves a key that nobody
            // needs.
            delete::remove_key(context, &store, &former)?;
            None
        } else {
            Some(Need::KeyRefs)
        };
        formers.push(Former {
            name: former.name,
            key_id: former.key_id,
            needed,
        });
    }
    Ok(formers)
}

fn note_export(context: &Context, provider: &Provider, now: Timestamp) -> Result<(), CommandError> {
    let mut store = reopened(context)?;
    Ok(store.mark_exported(provider.uuid, provider.key_id, now)?)
}
