//! `key clone`: a cloned guest gets what its TPM needs to start.
//!
//! A copied TPM state needs the key that it is encrypted with, wrapped for the clone; a clone
//! without state gets a key of its own at its first start.

mod words;

use serde_json::json;

use super::document;
use crate::admin::context::{BrokenConfig, Context};
use crate::admin::error::AdminError;
use crate::admin::opened::{OpenedKey, opened_keys, wrap_for};
use crate::admin::provider;
use crate::admin::stopped::{Known, known};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, SecretUuid};
use crate::report::quoted;
use crate::store::{Access, AddKey, Bound, KeyRefRecord, OtherKeys, Store, StoreError};
use crate::swtpm::{EncryptedState, StateFile, read_state};
use crate::verdict::facts::{KeyRef, Provider};

/// What cloning did.
enum Done {
    /// The original's key was wrapped for the clone: its new row.
    Copied(KeyRefId),
    /// A row of the clone's opens its TPM already.
    Already(KeyRefId),
    /// A placeholder: the clone's first start makes a key.
    Bound(Bound),
}

/// The original and its clone.
struct Pair {
    original: Known,
    clone: Known,
    /// The secret that the clone's XML names.
    secret: SecretUuid,
}

pub(super) fn run(context: &Context, text: &str, new_text: &str) -> Result<(), AdminError> {
    let guard = context.guard(BrokenConfig::IsAnError)?;
    let (original, clone) = (known(context, text)?, known(context, new_text)?);
    if original.uuid() == clone.uuid() {
        let label = clone.label();
        return Err(AdminError::usage(format!(
            "{label} is not a clone of itself"
        )));
    }
    let Some(secret) = clone.vtpm.secret_uuid else {
        return Err(words::not_encrypted(&clone));
    };
    let mut store = context.store(Access::Write)?.ok_or(StoreError::Missing)?;
    let pair = Pair {
        original,
        clone,
        secret,
    };
    let state = read_state(
        &guard.libvirt_state_dir,
        pair.clone.uuid(),
        &pair.clone.vtpm,
    );
    let (done, provider) = match &state {
        StateFile::Encrypted(state) => copy_key(context, &mut store, &pair, state)?,
        StateFile::Absent => bind(context, &mut store, &pair)?,
        StateFile::Plain => return Err(words::plain(&pair.clone)),
        StateFile::Damaged(how) | StateFile::Unreadable(how) => {
            return Err(AdminError::refused(format!(
                "the TPM state of {} cannot be read: {how}",
                pair.clone.label()
            )));
        }
    };
    answer(context, &pair, &done, &provider)
}

/// The clone's state is there: it needs the very key that it is encrypted with.
fn copy_key(
    context: &Context,
    store: &mut Store,
    pair: &Pair,
    state: &EncryptedState,
) -> Result<(Done, Provider), AdminError> {
    let (keyring, now) = (context.keyring(), Timestamp::now());
    let providers = store.providers()?;
    let opening = |known: &Known, rows: Vec<KeyRefRecord>| {
        let rows = rows.into_iter().map(|row| row.key_ref);
        opened_keys(&keyring, rows, &providers, known.uuid())
            .into_iter()
            .find(|key| state.is_opened_by(&key.dek))
    };
    let clone = &pair.clone;
    let own = store.all_key_refs(Some(clone.uuid()), false)?;
    if let Some(key) = opening(clone, own) {
        return Ok((Done::Already(key.key_ref.id), key.provider));
    }
    // The clone may be older than the original's present key.
    let rows = store.all_key_refs(Some(pair.original.uuid()), true)?;
    let Some(OpenedKey { provider, dek, .. }) = opening(&pair.original, rows) else {
        return Err(words::not_opened(pair));
    };
    let provider = provider::for_new_keys(&provider, &providers).clone();
    let id = store.add_key(&AddKey {
        domain: clone.uuid(),
        provider: provider.uuid,
        key: &wrap_for(&keyring, &provider, &dek, clone.uuid())?,
        secret_uuid: Some(pair.secret),
        // Its state is one that a guest has used: without it the clone must not start.
        first_used_at: Some(now),
        others: OtherKeys::Refuse,
        now,
    })?;
    let message = format!(
        "the key of {} for its cloned TPM state (key reference {id})",
        pair.original.guest.name
    );
    clone.record(context, store, "clone", message);
    Ok((Done::Copied(id), provider))
}

/// The clone has no state: its first start makes a new TPM, and a key for it.
fn bind(context: &Context, store: &mut Store, pair: &Pair) -> Result<(Done, Provider), AdminError> {
    if pair.original.vtpm.secret_uuid == Some(pair.secret) {
        return Err(words::one_secret_for_two_keys(pair));
    }
    let now = Timestamp::now();
    let seen = store.references(pair.original.uuid(), now)?;
    let keyed = |row: &&KeyRef| row.wrapped_dek.is_some();
    let rows = &seen.key_refs;
    let provider = rows
        .iter()
        .find(keyed)
        .or_else(|| rows.first())
        .and_then(|row| provider::named_by(row, &seen.providers))
        .ok_or_else(|| words::not_bound(&pair.original, &pair.clone))?;
    let provider = provider::for_new_keys(provider, &seen.providers);
    let bound = store.bind(pair.clone.uuid(), provider.uuid, now)?;
    if !matches!(bound, Bound::Already(_)) {
        let (original, provider) = (&pair.original.guest.name, &provider.name);
        let message = format!("bound to provider {provider}, as {original} is");
        pair.clone.record(context, store, "clone", message);
    }
    Ok((Done::Bound(bound), provider.clone()))
}

fn answer(
    context: &Context,
    pair: &Pair,
    done: &Done,
    provider: &Provider,
) -> Result<(), AdminError> {
    let (action, id) = match done {
        Done::Copied(id) => ("copied", id),
        Done::Already(id) | Done::Bound(Bound::Already(id)) => ("none", id),
        Done::Bound(Bound::Made(id)) => ("made", id),
        Done::Bound(Bound::Moved { key_ref, .. }) => ("moved", key_ref),
    };
    let document = json!({
        "domain": document(&pair.original.named()),
        "clone": document(&pair.clone.named()),
        "provider": { "name": provider.name, "uuid": provider.uuid.to_string() },
        "key_ref": id.0,
        "action": action,
    });
    let (original, clone) = (pair.original.label(), pair.clone.label());
    let provider = quoted(&provider.name);
    context.output.answer(&document, |out| match done {
        Done::Copied(_) => writeln!(
            out,
            "{clone} has the key of {original} for its TPM state, under provider {provider} \
             (key reference {id})"
        ),
        Done::Already(_) => writeln!(
            out,
            "{clone} has the key of its TPM state already (key reference {id}): nothing changed"
        ),
        Done::Bound(Bound::Already(_)) => writeln!(
            out,
            "{clone} is bound to provider {provider} already (key reference {id}): nothing \
             changed"
        ),
        Done::Bound(_) => writeln!(
            out,
            "{clone} is bound to provider {provider} (key reference {id}); its first start \
             makes a new TPM and a key of its own"
        ),
    })?;
    if pair.original.vtpm.secret_uuid == Some(pair.secret) {
        context.output.note(&format!(
            "{clone} and {original} name the same libvirt secret {}: of two starts at once one \
             may find it gone; {}",
            pair.secret,
            words::own_secret(&pair.clone)
        ));
    }
    if matches!(done, Done::Copied(_)) {
        context.output.note(&format!(
            "both guests have the same TPM now, with the same identity; a key of its own for the \
             clone: vtpm-guard key renew {}",
            pair.clone.arg()
        ));
    }
    Ok(())
}
