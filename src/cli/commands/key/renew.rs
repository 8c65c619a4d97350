//! `key renew`: a stopped guest's TPM gets a new key; the TPM itself stays the same.
//!
//! At any moment the state is opened by exactly one of two keys, and both are in the store and
//! in use until the state has been replaced: after a kill the next start finds out which.

use std::path::Path;

use serde_json::json;

use super::document;
use crate::cli::commands::provider::for_new_keys;
use crate::cli::context::{self, BrokenConfig, Context};
use crate::cli::stopped::{Known, stopped};
use crate::cli::ui::error::AdminError;
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::libvirt::files;
use crate::messages::quoted;
use crate::store::{Access, AddKey, EventFilter, Origin, OtherKeys, Store, StoreError};
use crate::swtpm::{RecryptError, TpmData};
use crate::verdict::facts::Provider;

pub(crate) fn run(context: &Context, text: &str) -> Result<(), AdminError> {
    let guard = context.guard(BrokenConfig::IsAnError)?;
    // Before it is seen to be stopped: any start that is judged from here on writes an event.
    let store = context.store(Access::Write)?;
    let before = match &store {
        Some(store) => newest_event(store, EventFilter::All)?,
        None => 0,
    };
    let known = stopped(context, &context::libvirt(), text)?;
    let Some(secret) = known.vtpm.secret_uuid else {
        return Err(not_encrypted(&known));
    };
    if files::are_of_this_host(&guard.config.secret_uri)
        && files::is_on_disk(&guard.config.libvirt.secrets(), secret).map_err(AdminError::failed)?
    {
        return Err(kept_by_libvirt(
            &known,
            secret,
            &guard.config.libvirt.secrets(),
        ));
    }
    let Some(held) = known.hold(&guard)? else {
        return Err(no_state(&known));
    };
    let mut store = store.ok_or(StoreError::Missing)?;
    store.set_deadline(context::patience())?;
    let mut unlocker = Unlocker::new(&context.keyring());
    let found = store.references(known.uuid(), Timestamp::now())?;
    let keys = unlocker.open_rows(
        found.key_refs,
        &found.providers,
        known.uuid(),
        context::patience(),
    );
    let (old, data) = proven(&known, keys, held.blob())?;
    let provider = for_new_keys(&old.provider, &found.providers);

    let dek = Dek::generate()?;
    let staged = known.stage(held, &data, &dek)?;
    let now = Timestamp::now();
    let id = store.add_key(&AddKey {
        domain: known.uuid(),
        provider: provider.uuid,
        key: &unlocker.wrap(&dek, provider, known.uuid(), context::patience())?,
        secret_uuid: Some(secret),
        // The TPM is one that a guest has used.
        first_used_at: Some(now),
        others: OtherKeys::Keep,
        now,
    })?;
    if newest_event(&store, EventFilter::Domain(known.uuid()))? > before {
        // It was judged by the old state, and given the old key.
        drop(staged);
        store.retire(id, now)?;
        return Err(starting(&known));
    }
    if let Err(error) = staged.install() {
        return Err(put_back(&mut store, id, &known, &error));
    }
    let retired = match store.use_key(id, now) {
        Ok(used) => used.retired,
        Err(error) => {
            context.output.note(&format!(
                "the old key stays beside the new one until the next start: {error}"
            ));
            Vec::new()
        }
    };
    let message = format!(
        "its TPM state is encrypted with a new key of provider \"{}\" (key reference {id})",
        provider.name
    );
    known.record(context, &mut store, Origin::Renew, message);
    answer(context, &known, provider, (id, old.key_ref.id), &retired)
}

/// The number of the newest event; 0 where there is none.
fn newest_event(store: &Store, whose: EventFilter<'_>) -> Result<i64, StoreError> {
    let newest = store.history(whose, 1)?.pop();
    Ok(newest.map_or(0, |row| row.id))
}

/// The key that opens the state, and what is in it.
fn proven(
    known: &Known,
    keys: Vec<OpenedKey>,
    blob: &[u8],
) -> Result<(OpenedKey, TpmData), AdminError> {
    for key in keys {
        match TpmData::decrypt(blob, &key.dek) {
            Ok(data) => return Ok((key, data)),
            Err(RecryptError::OtherKey) => {}
            Err(error) => return Err(known.not_recrypted(&error)),
        }
    }
    let word = known.arg();
    Err(AdminError::refused(format!(
        "no key of {} opens its TPM state on this host, so it cannot be given another",
        known.label()
    ))
    .with_hint(format!("see what each opens: vtpm-guard key show {word}")))
}

/// The new state was not put in place: the new key opens nothing, and goes out of use.
fn put_back(store: &mut Store, id: KeyRefId, known: &Known, error: &std::io::Error) -> AdminError {
    match store.retire(id, Timestamp::now()) {
        Ok(_) => known.not_written(error),
        // The next start retires it, for the state proves the old one.
        Err(second) => AdminError::failed(format!(
            "the TPM state of {} cannot be written anew: {error}; its new key stays in the store \
             until its next start: {second}",
            known.label()
        )),
    }
}

fn not_encrypted(known: &Known) -> AdminError {
    AdminError::refused(format!("the vTPM of {} is not encrypted", known.label()))
        .with_hint(format!("encrypt it: vtpm-guard encrypt {}", known.arg()))
}

/// libvirt's own copy would carry the start with the daemon, which the old key no longer opens;
/// and every other start would write the new key there.
fn kept_by_libvirt(known: &Known, secret: SecretUuid, dir: &Path) -> AdminError {
    AdminError::refused(format!(
        "libvirt keeps a key of {} itself, as the secret {secret} in {}, and would write the new \
         one there, too",
        known.label(),
        dir.display()
    ))
    .with_hint(format!(
        "take it over first: vtpm-guard adopt {}",
        known.arg()
    ))
}

fn starting(known: &Known) -> AdminError {
    let label = known.label();
    AdminError::refused(format!("{label} is starting: its TPM keeps its key")).with_hint(format!(
        "shut it down first: virsh shutdown {}",
        known.arg()
    ))
}

fn no_state(known: &Known) -> AdminError {
    AdminError::refused(format!(
        "{} has no TPM state that could be encrypted anew",
        known.label()
    ))
    .with_hint(format!(
        "see what its start would do: vtpm-guard check {}",
        known.arg()
    ))
}

fn answer(
    context: &Context,
    known: &Known,
    provider: &Provider,
    (id, old): (KeyRefId, KeyRefId),
    retired: &[KeyRefId],
) -> Result<(), AdminError> {
    let answer = json!({
        "domain": document(&known.named()),
        "provider": { "name": provider.name, "uuid": provider.uuid.to_string() },
        "key_ref": id.0,
        "retired": retired.iter().map(|id| id.0).collect::<Vec<_>>(),
    });
    context.output.answer(&answer, |out| {
        writeln!(
            out,
            "{} has a new key of provider {} (key reference {id}), in place of key reference {old}",
            known.label(),
            quoted(&provider.name),
        )
    })?;
    context.output.note(
        "a backup of the TPM state from before, or a file of virsh save, is opened by the old key \
         alone, which is retired, not deleted",
    );
    Ok(())
}
