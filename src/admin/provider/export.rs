//! `provider export`: the key into a recovery file, under a passphrase.

use std::path::Path;

use serde_json::json;

use super::find;
use crate::admin::context::{self, Context};
use crate::admin::error::AdminError;
use crate::admin::{passphrase, trouble};
use crate::clock::Timestamp;
use crate::provider::recovery::{RecoveryError, RecoveryFile};
use crate::report::one_line;
use crate::store::Access;
use crate::verdict::facts::Provider;

pub(super) fn run(
    context: &Context,
    name: &str,
    output: &Path,
    passphrase_file: Option<&Path>,
) -> Result<(), AdminError> {
    // All that can be known to fail does so before anybody types a passphrase.
    let (_, provider) = find(context, name, Access::Write)?;
    if output.symlink_metadata().is_ok() {
        return Err(trouble::recovery(
            output,
            RecoveryError::Exists(output.to_owned()),
        ));
    }
    let kek = context
        .keyring()
        .open(provider.key_id, context::patience())?;
    let passphrase = passphrase::choose(passphrase_file)?;

    context.output.wait("deriving a key from the passphrase");
    let now = Timestamp::now();
    let sealed = RecoveryFile::seal(&kek, &provider.name, provider.key_version, now, &passphrase);
    sealed
        .and_then(|file| file.write_to(output))
        .map_err(|error| trouble::recovery(output, error))?;

    note_export(context, &provider, now).map_err(|error| {
        AdminError::failed(format!(
            "{} is written and good, but the store could not note it: {error}",
            output.display()
        ))
    })?;
    let document = json!({
        "file": output.to_string_lossy(),
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "key_id": provider.key_id.to_string(),
        "exported_at": now.0,
    });
    context.output.answer(&document, |out| {
        writeln!(
            out,
            "exported provider \"{}\", key {}, to {}",
            one_line(&provider.name),
            provider.key_id.short(),
            output.display()
        )
    })?;
    context.output.note(
        "keep the file away from this host, and the passphrase away from the file: \
         without either the key is lost",
    );
    Ok(())
}

/// Opens the store again: the first one's deadline may have passed while somebody typed.
fn note_export(context: &Context, provider: &Provider, now: Timestamp) -> Result<(), AdminError> {
    let (mut store, _) = find(context, &provider.uuid.to_string(), Access::Write)?;
    Ok(store.mark_exported(provider.uuid, now)?)
}
