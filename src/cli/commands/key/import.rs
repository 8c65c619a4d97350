//! `key import`: a guest's key from the backup of another host's store, as it is wrapped.
//!
//! The guest moves, its key moves with it; the KEK comes by `provider import`. Nothing is
//! unwrapped but to see that it opens here, and where the guest has another UUID by now.

use std::path::Path;

use serde_json::{Value, json};

use super::document;
use crate::cli::commands::provider::for_new_keys;
use crate::cli::context::{self, Context};
use crate::cli::domains::{self, NamedDomain};
use crate::cli::ui::error::AdminError;
use crate::clock::Timestamp;
use crate::guard::try_rows;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::Libvirt;
use crate::messages::{Arg, quoted};
use crate::store::{Access, AddKey, KeyRefRecord, OtherKeys, Store};
use crate::swtpm::StateFile;
use crate::verdict::facts::{KeyRef, NotOpened, Provider, Trial};

pub(crate) fn run(
    context: &Context,
    text: &str,
    from: &Path,
    old_text: Option<&str>,
) -> Result<(), AdminError> {
    let copy = Store::open_copy(from, context::patience())?;
    let domain = find(context, &copy, text)?;
    let old = match old_text {
        Some(old_text) => find_in(&copy, old_text)?,
        None => same_guest(&copy, &domain, from)?,
    };
    let (record, wrapped) = the_key(&copy, &old, from)?;
    let mut store = context
        .store(Access::Write)?
        .ok_or_else(|| no_provider(&domain.label(), &record, None))?;

    let providers = store.providers()?;
    let known = store.all_key_refs(Some(domain.uuid), true)?;
    let same = known
        .iter()
        .find(|row| row.key_ref.wrapped_dek.as_ref() == Some(&wrapped));
    if let Some(row) = same {
        return already_here(context, &domain, row);
    }
    let mut unlocker = Unlocker::new(&context.keyring());
    let (provider, dek) = opens_here(&mut unlocker, &providers, &old, &record, &wrapped)?;
    let key = if old.uuid == domain.uuid {
        NewKey::new(wrapped, provider.key_id, provider.key_version)
    } else {
        let rows = known.iter().map(|row| row.key_ref.clone());
        let own = unlocker.open_rows(rows, &providers, domain.uuid, context::patience());
        let same = own.iter().find(|key| key.dek.same_as(&dek));
        let is_it = |row: &&KeyRefRecord| same.is_some_and(|key| key.key_ref.id == row.key_ref.id);
        if let Some(row) = known.iter().find(is_it) {
            return already_here(context, &domain, row);
        }
        unlocker.wrap(&dek, &provider, domain.uuid, context::patience())?
    };
    let others = if are_damaged(context, &store, domain.uuid)? {
        OtherKeys::Retire
    } else {
        OtherKeys::Refuse
    };
    let id = store.add_key(&AddKey {
        domain: domain.uuid,
        provider: provider.uuid,
        key: &key,
        secret_uuid: record.key_ref.secret_uuid,
        first_used_at: record.key_ref.first_used_at,
        others,
        now: Timestamp::now(),
    })?;
    answer(context, &domain, &provider.name, id, true)?;
    let present = for_new_keys(&provider, &providers);
    if present.uuid != provider.uuid {
        context.output.note(&format!(
            "that is a previous key of provider {}; to wrap it with the present one: vtpm-guard \
             provider rotate {}",
            quoted(&present.name),
            Arg::provider(present)
        ));
    }
    Ok(())
}

/// Whether all keys that the guest has in use here are damaged (VG206): the one from the backup
/// takes their place.
fn are_damaged(context: &Context, store: &Store, domain: DomainUuid) -> Result<bool, AdminError> {
    let references = store.references(domain, Timestamp::now())?;
    let (keyring, deadline) = (context.keyring(), context::patience());
    let trials = try_rows(&keyring, &references, domain, &StateFile::Absent, deadline);
    let is_damaged = |trial: &Trial| matches!(trial, Trial::NotOpened(NotOpened::Corrupt { .. }));
    Ok(trials.values().all(is_damaged))
}

/// The guest as this host knows it; it need not know it yet, and the copy knows its name.
fn find(context: &Context, copy: &Store, text: &str) -> Result<NamedDomain, AdminError> {
    if let Ok(guests) = context::libvirt().guests_called(text, context::patience())
        && let Some(guest) = domains::pick(context, text, &guests)?
    {
        return Ok(guest.into());
    }
    find_in(copy, text)
}

/// The guest as the copy knows it.
fn find_in(copy: &Store, text: &str) -> Result<NamedDomain, AdminError> {
    domains::refuse_two(copy, text)?;
    if let Ok(uuid) = DomainUuid::parse(text) {
        return Ok(NamedDomain::of_uuid(uuid, None));
    }
    let users = copy.users_of_name(text)?;
    if users.len() > 1 {
        let uuids: Vec<_> = users.iter().map(ToString::to_string).collect();
        return Err(AdminError::refused(format!(
            "the backup has keys of several guests of the name {}: {}",
            quoted(text),
            uuids.join(", ")
        ))
        .with_hint("name one by its UUID"));
    }
    let uuid = match users.first() {
        Some(uuid) => Some(*uuid),
        None => copy.domain_uuid_by_name(text)?,
    };
    let uuid = uuid.ok_or_else(|| {
        AdminError::usage(format!("the backup knows no guest {}", quoted(text)))
            .with_hint("name it by its UUID: virsh domuuid DOMAIN, on the host that has it")
    })?;
    // On this host that name may be another guest's.
    Ok(NamedDomain::of_uuid(uuid, Some(text.to_owned())))
}

/// The guest in the copy: by its UUID. A key of another guest of its name is taken only when
/// that one is named.
fn same_guest(copy: &Store, domain: &NamedDomain, from: &Path) -> Result<NamedDomain, AdminError> {
    let has_key = |row: &KeyRefRecord| row.key_ref.wrapped_dek.is_some();
    let rows = copy.all_key_refs(Some(domain.uuid), false)?;
    let namesakes = match &domain.name {
        Some(name) if !rows.iter().any(has_key) => copy.users_of_name(name)?,
        _ => Vec::new(),
    };
    match namesakes.first() {
        None => Ok(NamedDomain::of_uuid(domain.uuid, domain.name.clone())),
        Some(old) => {
            let label = domain.label();
            Err(AdminError::refused(format!(
                "{} has no key of {label} under its UUID {}, but one of a guest of that name, {old}",
                from.display(),
                domain.uuid
            ))
            .with_hint(format!(
                "if it is the same guest under a new UUID: vtpm-guard key import {} --from {} --as {old}",
                domain.arg,
                Arg::file(from)
            )))
        }
    }
}

/// The one key of the guest that is in use in the copy.
fn the_key(
    copy: &Store,
    domain: &NamedDomain,
    from: &Path,
) -> Result<(KeyRefRecord, WrappedDek), AdminError> {
    let label = domain.label();
    let mut keyed: Vec<_> = copy
        .all_key_refs(Some(domain.uuid), false)?
        .into_iter()
        .filter_map(|row| Some((row.key_ref.wrapped_dek.clone()?, row)))
        .collect();
    match (keyed.pop(), keyed.len()) {
        (Some((wrapped, row)), 0) => Ok((row, wrapped)),
        (None, _) => Err(
            AdminError::usage(format!("{} has no key of {label}", from.display()))
                .with_hint("back the other host's store up again: vtpm-guard store backup FILE"),
        ),
        (Some(_), others) => Err(AdminError::refused(format!(
            "{} has {} keys of {label} in use",
            from.display(),
            others + 1
        ))
        .with_hint(
            "choose one on the other host: vtpm-guard key use ID; then back its store up again",
        )),
    }
}

/// The provider of this host whose KEK opens the key, and what is in it.
fn opens_here(
    unlocker: &mut Unlocker,
    providers: &[Provider],
    domain: &NamedDomain,
    record: &KeyRefRecord,
    wrapped: &WrappedDek,
) -> Result<(Provider, Dek), AdminError> {
    let label = domain.label();
    let corrupt = |why: String| {
        AdminError::refused(format!("the wrapped key of {label} is damaged: {why}"))
            .with_hint("use another backup")
    };
    let key_id = wrapped
        .key_id()
        .map_err(|error| corrupt(error.to_string()))?;
    let provider = providers
        .iter()
        .find(|provider| provider.key_id == key_id)
        .cloned()
        .ok_or_else(|| no_provider(&label, record, Some(key_id)))?;
    let kek = unlocker.kek(key_id, context::patience())?;
    match wrapped.unwrap(&kek, domain.uuid) {
        Ok(Some(dek)) => Ok((provider, dek)),
        Ok(None) => Err(no_provider(&label, record, Some(key_id))),
        Err(error) => Err(corrupt(error.to_string())),
    }
}

fn no_provider(label: &str, record: &KeyRefRecord, key_id: Option<KeyId>) -> AdminError {
    let key = key_id.map_or(String::new(), |key_id| format!(" (key {})", key_id.short()));
    AdminError::refused(format!(
        "the key of {label} is wrapped by provider {}{key}, which is not on this host",
        quoted(&record.key_ref.provider_name)
    ))
    .with_hint("import it first: vtpm-guard provider import FILE")
}

/// The guest has this very key.
fn already_here(
    context: &Context,
    domain: &NamedDomain,
    row: &KeyRefRecord,
) -> Result<(), AdminError> {
    let KeyRef {
        id, provider_name, ..
    } = &row.key_ref;
    answer(context, domain, provider_name, *id, false)?;
    if row.retired_at.is_some() {
        context.output.note(&format!(
            "it is retired; to use it: vtpm-guard key use {id}"
        ));
    }
    Ok(())
}

fn answer(
    context: &Context,
    domain: &NamedDomain,
    provider: &str,
    id: KeyRefId,
    changed: bool,
) -> Result<(), AdminError> {
    let answer: Value = json!({
        "domain": document(domain),
        "key_ref": id.0,
        "provider": provider,
        "changed": changed,
    });
    let label = domain.label();
    context.output.answer(&answer, |out| {
        if changed {
            writeln!(
                out,
                "imported the key of {label}, under provider {}",
                quoted(provider)
            )
        } else {
            writeln!(out, "the key of {label} is here already: nothing changed")
        }
    })?;
    context.output.note(&format!(
        "its TPM's state comes with a migration, or by hand; see whether it would start: \
         vtpm-guard check {}",
        domain.arg
    ));
    Ok(())
}
