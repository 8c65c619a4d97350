//! The store, the providers in it, and their sealed keys.

use super::Ailment;
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::keyring::Seal;
use crate::manage::host::default_deadline;
use crate::messages::{Arg, quoted};
use crate::store::{Access, EventFilter, Store};
use crate::verdict::facts::Provider;

/// How far the history may be ahead of the clock, in milliseconds.
const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;

/// How long an export is trusted without being tried, in milliseconds: a year.
const TRUSTED_EXPORT_MS: i64 = 365 * 24 * 60 * 60 * 1000;

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    look_at(context).unwrap_or_else(|error| {
        vec![Ailment::fault(
            format!("the store cannot be used: {error}"),
            "no guest's key is known",
            "vtpm-guard store check",
        )]
    })
}

fn look_at(context: &Context) -> Result<Vec<Ailment>, CommandError> {
    let Some(store) = context.host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let mut found: Vec<_> = store
        .check()?
        .iter()
        .map(|finding| {
            Ailment::fault(
                format!("the store: {finding}"),
                "a start that needs this row may be refused",
                "vtpm-guard store check",
            )
        })
        .collect();
    for provider in store.providers()? {
        found.extend(sealed(context, &provider));
        found.extend(weakly_sealed(context, &provider));
        found.extend(export(&store, &provider)?);
    }
    found.extend(clock(&store)?);
    Ok(found)
}

fn sealed(context: &Context, provider: &Provider) -> Option<Ailment> {
    let opened = context
        .host
        .keyring()
        .open(provider.key_id, default_deadline());
    let error = opened.err()?;
    Some(Ailment::fault(
        format!(
            "the key of provider {} does not open: {error}",
            quoted(&provider.name)
        ),
        "the guests that are bound to it cannot start",
        "put it in place again: vtpm-guard provider import FILE",
    ))
}

/// A key that this host could protect better than it does.
fn weakly_sealed(context: &Context, provider: &Provider) -> Option<Ailment> {
    let keyring = context.host.keyring();
    let seal = keyring.seal(provider.key_id).ok()?;
    let strongest = keyring.strongest_seal(default_deadline()).ok()?;
    (seal < strongest).then(|| {
        Ailment::advice(
            format!(
                "the key of provider {} is sealed: {seal}, and this host can do: {strongest}",
                quoted(&provider.name)
            ),
            match seal {
                Seal::RootOnlyFile => "a copy of this disk, or of a backup of it, opens every TPM",
                _ => "a copy of this disk opens every TPM, in any machine",
            },
            format!("vtpm-guard provider reseal {}", Arg::provider(provider)),
        )
    })
}

fn export(store: &Store, provider: &Provider) -> Result<Option<Ailment>, CommandError> {
    let name = Arg::provider(provider);
    let command = format!("vtpm-guard provider export {name} --output FILE");
    let Some(exported_at) = provider.exported_at else {
        let what = format!("provider {} was never exported", quoted(&provider.name));
        let is_needed = provider.previous_key_of().is_none()
            || !store.key_refs_under(provider.key_id)?.is_empty();
        return Ok(Some(if is_needed {
            let why = "with this host its key is lost, and with it every TPM that depends on it";
            Ailment::fault(what, why, command)
        } else {
            let why = "it is a former key, and store backups of its time open with it alone";
            Ailment::advice(what, why, command)
        }));
    };
    let age = Timestamp::now().0.saturating_sub(exported_at.0);
    Ok((age > TRUSTED_EXPORT_MS).then(|| {
        Ailment::advice(
            format!(
                "provider {} was last exported at {}",
                quoted(&provider.name),
                answer::time(Some(exported_at))
            ),
            "a recovery file that nobody has opened for a year may be lost or damaged",
            "try it: vtpm-guard provider import FILE --dry-run",
        )
    }))
}

fn clock(store: &Store) -> Result<Option<Ailment>, CommandError> {
    let newest = store.history(EventFilter::All, 1)?.pop();
    let Timestamp(now) = Timestamp::now();
    let ahead = newest.filter(|row| row.at.0 > now.saturating_add(CLOCK_TOLERANCE_MS));
    Ok(ahead.map(|row| {
        Ailment::advice(
            format!(
                "the last decision is of {}, and the clock says {}",
                answer::time(Some(row.at)),
                answer::time(Some(Timestamp(now)))
            ),
            "the clock was set back or is wrong: the history is out of order, and notes of \
             arriving TPM state expire at the wrong time",
            "timedatectl",
        )
    }))
}
