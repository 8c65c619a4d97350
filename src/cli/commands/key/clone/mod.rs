//! `key clone`: a cloned guest gets what its TPM needs to start.
//!
//! A copied TPM state needs the key that it is encrypted with, wrapped for the clone; a clone
//! without state gets a key of its own at its first start. The original may be a guest that
//! libvirt has forgotten, which came back under a new UUID: then its TPM state comes along.

mod original;
mod words;

use std::path::PathBuf;

use serde_json::json;

use self::original::{LeftBehind, Source};
use super::document;
use crate::cli::commands::state::not_restored;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors::not_recorded;
use crate::clock::Timestamp;
use crate::guard::Guard;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::manage::host::HostError;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::providers::{for_new_keys, named_by};
use crate::manage::stopped_guest::DefinedGuest;
use crate::messages::quoted;
use crate::store::{
    Access, AddKey, BindingChange, KeyRefRecord, Origin, OtherKeys, Store, StoreError,
};
use crate::swtpm::{EncryptedState, StateFile, read_state};
use crate::tpm_copies::restore_copy;
use crate::verdict::facts::{KeyRef, Provider};

/// What cloning did.
enum Done {
    /// The original's key was wrapped for the clone: its new row.
    Copied(KeyRefId),
    /// Likewise, and the original's TPM state was copied from there.
    TakenOver(KeyRefId, PathBuf),
    /// A row of the clone's opens its TPM already.
    Already(KeyRefId),
    /// A placeholder: the clone's first start makes a key.
    Bound(BindingChange),
}

/// The original and its clone.
struct Pair {
    original: Source,
    clone: DefinedGuest,
    /// The secret that the clone's XML names.
    secret: SecretUuid,
}

pub(crate) fn run(context: &Context, text: &str, new_text: &str) -> Result<(), CommandError> {
    let guard = context.host.guard(BrokenConfig::Fail)?;
    let clone = context.host.guest_with_tpm(new_text)?;
    let mut store = context
        .host
        .store(Access::Write)?
        .ok_or(StoreError::Missing)?;
    let original = Source::find(context, &store, text, &clone)?;
    let Some(secret) = clone.vtpm.secret_uuid else {
        return Err(words::not_encrypted(&clone));
    };
    let pair = Pair {
        original,
        clone,
        secret,
    };
    let state = read_state(
        &guard.config.libvirt.tpm_states(),
        pair.clone.uuid(),
        &pair.clone.vtpm,
    );
    let (done, provider) = match &state {
        StateFile::Encrypted(state) => copy_key(context, &mut store, &pair, state)?,
        StateFile::Absent => match take_over(context, &guard, &mut store, &pair)? {
            Some(taken_over) => taken_over,
            None => bind(context, &mut store, &pair)?,
        },
        StateFile::Plain => return Err(words::plain(&pair.clone)),
        StateFile::Damaged(how) | StateFile::Unreadable(how) => {
            return Err(CommandError::refused(format!(
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
) -> Result<(Done, Provider), CommandError> {
    let clone = &pair.clone;
    if let Some((key, retired)) = opening(context, store, clone.uuid(), state)? {
        let id = key.key_ref.id;
        return if retired {
            Err(words::own_key_is_retired(clone, id))
        } else {
            Ok((Done::Already(id), key.provider))
        };
    }
    let Some((key, _)) = opening(context, store, pair.original.uuid(), state)? else {
        return Err(words::not_opened(pair));
    };
    let (id, provider) = wrap_for_clone(context, store, pair, &key)?;
    Ok((Done::Copied(id), provider))
}

/// The key of a guest that opens this state, and whether it is retired: the clone may be older
/// than the original's present key.
fn opening(
    context: &Context,
    store: &Store,
    domain: DomainUuid,
    state: &EncryptedState,
) -> Result<Option<(OpenedKey, bool)>, CommandError> {
    let providers = store.providers()?;
    let rows = store.all_key_refs(Some(domain), true)?;
    let (retired, in_use): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row: &KeyRefRecord| row.retired_at.is_some());
    let mut unlocker = Unlocker::new(&context.host.keyring());
    for (rows, are_retired) in [(in_use, false), (retired, true)] {
        let rows = rows.into_iter().map(|row| row.key_ref);
        let found = unlocker
            .open_rows(rows, &providers, domain, default_deadline())
            .into_iter()
            .find(|key| state.is_opened_by(&key.dek));
        if let Some(key) = found {
            return Ok(Some((key, are_retired)));
        }
    }
    Ok(None)
}

/// The clone gets this key as one that a guest has run with: without its state it must not start.
fn wrap_for_clone(
    context: &Context,
    store: &mut Store,
    pair: &Pair,
    key: &OpenedKey,
) -> Result<(KeyRefId, Provider), CommandError> {
    let (clone, now) = (&pair.clone, Timestamp::now());
    let provider = for_new_keys(&key.provider, &store.providers()?).clone();
    let mut unlocker = Unlocker::new(&context.host.keyring());
    let wrapped = unlocker
        .wrap(&key.dek, &provider, clone.uuid(), default_deadline())
        .map_err(HostError::from)?;
    let id = store.add_key(&AddKey {
        domain: clone.uuid(),
        provider: provider.uuid,
        key: &wrapped,
        secret_uuid: Some(pair.secret),
        first_used_at: Some(now),
        // Its own keys do not open its state, which has proven this one; should its own state
        // come back, they do.
        others: OtherKeys::Keep,
        now,
    })?;
    let message = format!(
        "the key of {} for its TPM state (key reference {id})",
        pair.original.label()
    );
    record(context, clone, store, message);
    Ok((id, provider))
}

/// The original came back under a new UUID: its TPM state, which a key of its opens, goes into
/// the clone's place. The state goes first: a kill before the key leaves what doing it again
/// completes.
fn take_over(
    context: &Context,
    guard: &Guard,
    store: &mut Store,
    pair: &Pair,
) -> Result<Option<(Done, Provider)>, CommandError> {
    let clone = &pair.clone;
    for LeftBehind { path, copy } in pair.original.left_behind(guard, store, clone)? {
        let StateFile::Encrypted(state) = copy.state() else {
            continue;
        };
        let Some((key, _)) = opening(context, store, pair.original.uuid(), &state)? else {
            continue;
        };
        if clone.guest.running {
            return Err(words::runs(clone));
        }
        let states = guard.config.libvirt.tpm_states();
        let start = (states.as_path(), clone.uuid(), &clone.vtpm);
        restore_copy(&copy, Some(start))
            .map_err(|error| not_restored(&clone.reference(), &error))?;
        let (id, provider) = wrap_for_clone(context, store, pair, &key)?;
        return Ok(Some((Done::TakenOver(id, path), provider)));
    }
    if matches!(pair.original, Source::Forgotten(_)) && store.has_used_key(pair.original.uuid())? {
        return Err(words::no_state_left(pair, guard));
    }
    Ok(None)
}

/// The clone has no state: its first start makes a new TPM, and a key for it.
fn bind(
    context: &Context,
    store: &mut Store,
    pair: &Pair,
) -> Result<(Done, Provider), CommandError> {
    if pair.original.secret() == Some(pair.secret) {
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
        .and_then(|row| named_by(row, &seen.providers))
        .ok_or_else(|| words::not_bound(pair))?;
    let provider = for_new_keys(provider, &seen.providers);
    let bound = store.bind(pair.clone.uuid(), provider.uuid, now)?;
    if !matches!(bound, BindingChange::Unchanged(_)) {
        let (original, provider) = (pair.original.label(), &provider.name);
        let message = format!("bound to provider {provider}, as {original} is");
        record(context, &pair.clone, store, message);
    }
    Ok((Done::Bound(bound), provider.clone()))
}

fn record(context: &Context, clone: &DefinedGuest, store: &mut Store, message: String) {
    if let Err(error) = clone.record(store, Origin::Clone, message) {
        context.output.note(&not_recorded(&error));
    }
}

fn answer(
    context: &Context,
    pair: &Pair,
    done: &Done,
    provider: &Provider,
) -> Result<(), CommandError> {
    let (action, id) = match done {
        Done::Copied(id) => ("copied", id),
        Done::TakenOver(id, _) => ("taken-over", id),
        Done::Already(id) | Done::Bound(BindingChange::Unchanged(id)) => ("none", id),
        Done::Bound(BindingChange::Added(id)) => ("made", id),
        Done::Bound(BindingChange::Moved { key_ref, .. }) => ("moved", key_ref),
    };
    let document = json!({
        "domain": document(&pair.original.named()),
        "clone": document(&pair.clone.reference()),
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
        Done::TakenOver(..) => writeln!(
            out,
            "{clone} has the TPM of {original}, and its key under provider {provider} (key \
             reference {id})"
        ),
        Done::Already(_) => writeln!(
            out,
            "{clone} has the key of its TPM state already (key reference {id}): nothing changed"
        ),
        Done::Bound(BindingChange::Unchanged(_)) => writeln!(
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
    if pair.original.secret() == Some(pair.secret) {
        context.output.note(&format!(
            "{clone} and {original} name the same libvirt secret {}: of two starts at once one \
             may find it gone; {}",
            pair.secret,
            words::own_secret(&pair.clone)
        ));
    }
    if let Done::TakenOver(_, path) = done {
        context.output.note(&format!(
            "the state of {original} was copied from {}, and stays there until it is removed",
            path.display()
        ));
    }
    if matches!((done, &pair.original), (Done::Copied(_), Source::Known(_))) {
        context.output.note(&format!(
            "both guests have the same TPM now, with the same identity; a key of its own for the \
             clone: vtpm-guard key renew {}",
            pair.clone.arg()
        ));
    }
    Ok(())
}
