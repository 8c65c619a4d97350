//! `provider import`: a provider back from its recovery file, with a new UUID and the same key.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::list::seal_words;
use super::{name, reseal};
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::{host_errors, passphrase};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::WeakerSeal;
use crate::manage::host::default_deadline;
use crate::manage::providers::ProvidersLock;
use crate::messages::{Arg, quoted};
use crate::recovery::file::{Header, RecoveryFile};
use crate::store::{Access, NewProvider, Store, StoreError};
use crate::verdict::facts::Provider;

/// What is asked for.
pub(crate) struct Import<'a> {
    pub(crate) file: &'a Path,
    /// Another name than the one in the file.
    pub(crate) name: Option<&'a str>,
    pub(crate) passphrase_file: Option<&'a Path>,
    pub(crate) dry_run: bool,
    pub(crate) weaker: WeakerSeal,
}

/// What an import does.
enum Plan {
    /// Makes a provider.
    Create,
    /// Seals the KEK of this one again: it did not open any more.
    OpenAgain(Provider),
    /// Nothing: the provider is there, and its key opens. Only a dry run comes so far, to see
    /// that the file would bring it back.
    Nothing,
}

/// The key references that a KEK opens, of those that name it.
struct Opened {
    key_refs: usize,
    guests: usize,
    /// How many name it and do not open.
    broken: usize,
}

pub(crate) fn run(context: &Context, import: &Import<'_>) -> Result<(), CommandError> {
    let (header, kek) = read(import)?;
    let name = import.name.unwrap_or(&header.provider);
    name::check(name).map_err(|error| {
        error.with_hint("give it another name: vtpm-guard provider import FILE --name NAME")
    })?;
    let (store, plan, uuid) = if import.dry_run {
        let store = context.host.store(Access::Read)?;
        let providers = store.as_ref().map_or(Ok(Vec::new()), Store::providers)?;
        let plan = plan(context, import, &providers, name, header.key_id)?;
        (store, plan, None)
    } else {
        let mut store = context
            .host
            .store(Access::Create)?
            .ok_or(StoreError::Missing)?;
        let _exclusive = ProvidersLock::acquire(&context.host)?;
        let plan = plan(context, import, &store.providers()?, name, header.key_id)?;
        // The key before the row that needs it: a kill in between leaves a key that nobody
        // needs.
        let stored = context
            .host
            .keyring()
            .store(&kek, import.weaker, default_deadline())?;
        let uuid = carry_out(context, &mut store, &plan, name, &header)?;
        reseal::note_weaker(context, name, &stored);
        (Some(store), plan, Some(uuid))
    };
    let opened = opened_by(&kek, store.as_ref())?;
    let document = json!({
        "action": match plan {
            Plan::Create => "create",
            Plan::OpenAgain(_) => "open-again",
            Plan::Nothing => "none",
        },
        "uuid": uuid.map(|uuid| uuid.to_string()),
        "name": name,
        "key_id": header.key_id.to_string(),
        "key_version": header.key_version,
        "opens": { "key_refs": opened.key_refs, "guests": opened.guests },
        "does_not_open": { "key_refs": opened.broken },
        "dry_run": import.dry_run,
    });
    context.output.answer(&document, |out| {
        let key = header.key_id.short();
        let seal = seal_words(&context.host.keyring().seal(header.key_id));
        match (&plan, import.dry_run) {
            (Plan::Nothing, _) => writeln!(
                out,
                "the file brings back key {key} of provider \"{name}\", which is on this host and opens: \
                 nothing would be imported"
            ),
            (Plan::Create, true) => writeln!(out, "would import provider \"{name}\": key {key}"),
            (Plan::Create, false) => {
                writeln!(
                    out,
                    "imported provider \"{name}\": key {key}, sealed: {seal}"
                )
            }
            (Plan::OpenAgain(_), true) => {
                writeln!(
                    out,
                    "would put key {key} of provider \"{name}\" in place again"
                )
            }
            (Plan::OpenAgain(_), false) => {
                writeln!(
                    out,
                    "key {key} of provider \"{name}\" opens again, sealed: {seal}"
                )
            }
        }?;
        let key_refs = count(opened.key_refs, "key reference");
        let guests = count(opened.guests, "guest");
        match opened.key_refs {
            0 => writeln!(out, "no guest of this host has a key under it"),
            _ if matches!(plan, Plan::Nothing) => writeln!(out, "it opens {key_refs} of {guests}"),
            _ => writeln!(
                out,
                "it opens {key_refs} of {guests}: the next start binds them"
            ),
        }
    })?;
    if opened.broken > 0 {
        context.output.note(&format!(
            "{} under this key did not open with it: vtpm-guard key list, key show DOMAIN",
            count(opened.broken, "key reference")
        ));
    }
    Ok(())
}

/// Reads the whole file and opens it, before anything is looked at or changed.
fn read(import: &Import<'_>) -> Result<(Header, Kek), CommandError> {
    let fail = |error| host_errors::recovery(import.file, error);
    let file = RecoveryFile::read(import.file).map_err(fail)?;
    let passphrase = passphrase::ask(import.passphrase_file)?;
    let waiting = Progress::waiting("deriving a key from the passphrase");
    let kek = file.open(&passphrase);
    waiting.done();
    Ok((file.header().clone(), kek.map_err(fail)?))
}

fn plan(
    context: &Context,
    import: &Import<'_>,
    providers: &[Provider],
    name: &str,
    key_id: KeyId,
) -> Result<Plan, CommandError> {
    let file = Arg::file(import.file);
    let named = providers.iter().find(|provider| provider.name == name);
    let same_key = providers.iter().find(|provider| provider.key_id == key_id);
    match (named, same_key) {
        (Some(known), _) if known.key_id == key_id => {
            match context.host.keyring().open(key_id, default_deadline()) {
                Ok(_) if import.dry_run => Ok(Plan::Nothing),
                Ok(_) => Err(CommandError::refused(format!(
                    "provider \"{name}\" is on this host already, and its key opens: \
                     nothing is to be imported"
                ))),
                Err(_) => Ok(Plan::OpenAgain(known.clone())),
            }
        }
        (_, Some(other)) => Err(CommandError::refused(format!(
            "the file's key {} is on this host already, as provider {}: a second one would be \
             ambiguous",
            key_id.short(),
            quoted(&other.name)
        ))
        .with_hint(format!(
            "if its key does not open any more: vtpm-guard provider import {file} --name {0}; \
             to change its name: vtpm-guard provider rename {0} NEW",
            Arg::provider(other)
        ))),
        (Some(known), None) => Err(CommandError::refused(format!(
            "there is a provider \"{name}\" with another key: {}; the file's is {}",
            known.key_id.short(),
            key_id.short()
        ))
        .with_hint(format!(
            "give it another name: vtpm-guard provider import {file} --name NAME"
        ))),
        (None, None) => Ok(Plan::Create),
    }
}

fn carry_out(
    context: &Context,
    store: &mut Store,
    plan: &Plan,
    name: &str,
    header: &Header,
) -> Result<ProviderUuid, CommandError> {
    if let Plan::OpenAgain(known) = plan {
        return Ok(known.uuid);
    }
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: header.key_id,
        key_version: header.key_version,
        is_default: store.providers()?.is_empty(),
    };
    if let Err(error) = store.create_provider(&new, Timestamp::now()) {
        // The first error is the one to tell; no other provider has this key.
        let _ = context.host.keyring().remove(new.key_id);
        return Err(error.into());
    }
    // The file that it came from is its export.
    store.mark_exported(new.uuid, new.key_id, header.created)?;
    Ok(new.uuid)
}

/// Tries the key on every key reference in use that names it.
fn opened_by(kek: &Kek, store: Option<&Store>) -> Result<Opened, CommandError> {
    let rows = store.map_or(Ok(Vec::new()), |store| store.key_refs_under(kek.key_id()))?;
    let mut guests = BTreeSet::<DomainUuid>::new();
    let (mut key_refs, mut broken) = (0, 0);
    for row in rows.iter().filter(|row| row.retired_at.is_none()) {
        let Some(wrapped) = &row.key_ref.wrapped_dek else {
            continue;
        };
        if matches!(wrapped.unwrap(kek, row.domain), Ok(Some(_))) {
            guests.insert(row.domain);
            key_refs += 1;
        } else {
            broken += 1;
        }
    }
    Ok(Opened {
        key_refs,
        guests: guests.len(),
        broken,
    })
}
