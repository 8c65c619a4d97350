//! The store, the providers in it, and their sealed keys.

use std::collections::BTreeSet;

use super::{Finding, KeyFinding};
use crate::clock::Timestamp;
use crate::keyring::Seal;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::store::{Access, AlikeFindings, EventFilter, Store};
use crate::verdict::facts::Provider;

/// How many of the findings in the store that are alike are named: `store check` has more.
const NAMED: usize = 3;

/// How long an export is trusted without being tried, in milliseconds: a year.
const TRUSTED_EXPORT_MS: i64 = 365 * 24 * 60 * 60 * 1000;

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let found = findings(host).unwrap_or_else(|error| vec![KeyFinding::StoreUnusable(error)]);
    found.into_iter().map(Finding::from).collect()
}

fn findings(host: &Host) -> Result<Vec<KeyFinding>, HostError> {
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let alike = AlikeFindings::of(&store.check()?, NAMED);
    let mut found: Vec<_> = alike.into_iter().map(KeyFinding::Store).collect();
    for provider in store.providers()? {
        found.extend(weakly_sealed(host, &provider));
        found.extend(export(&store, provider)?);
    }
    found.extend(clock(&store)?);
    Ok(found)
}

/// A key that this host could protect better than it does.
fn weakly_sealed(host: &Host, provider: &Provider) -> Option<KeyFinding> {
    let keyring = host.keyring();
    let seal = keyring.seal(provider.key_id).ok()?;
    let strongest = keyring.strongest_seal(default_deadline()).ok()?;
    weaker(provider, seal, strongest)
}

fn weaker(provider: &Provider, seal: Seal, strongest: Seal) -> Option<KeyFinding> {
    (seal < strongest).then(|| KeyFinding::WeakSeal {
        provider: provider.clone(),
        seal,
        strongest,
    })
}

fn export(store: &Store, provider: Provider) -> Result<Option<KeyFinding>, HostError> {
    let Some(exported_at) = provider.exported_at else {
        if provider.kms.opened_at.is_some() {
            return only_kind(store, provider);
        }
        let is_needed = provider.previous_key_of().is_none()
            || !store.key_refs_under(provider.key_id)?.is_empty();
        return Ok(Some(if is_needed {
            KeyFinding::NeverExported(provider)
        } else {
            KeyFinding::PreviousNeverExported(provider)
        }));
    };
    let age = Timestamp::now().0.saturating_sub(exported_at.0);
    Ok((age > TRUSTED_EXPORT_MS).then_some(KeyFinding::OldExport(provider, exported_at)))
}

/// A provider that is in no recovery file, if all its key managers are of one kind: they may all be gone at once.
fn only_kind(store: &Store, provider: Provider) -> Result<Option<KeyFinding>, HostError> {
    let mut slots = store.slots()?;
    slots.retain(|slot| slot.key_id == provider.key_id && slot.verified_at.is_some());
    let kinds: BTreeSet<_> = slots.into_iter().map(|slot| slot.kind).collect();
    let mut kinds = kinds.into_iter();
    let only = kinds.next().filter(|_| kinds.next().is_none());
    Ok(only.map(|kind| KeyFinding::OneKind(provider, kind)))
}

fn clock(store: &Store) -> Result<Option<KeyFinding>, HostError> {
    let newest = store.history(EventFilter::All, 1)?.pop();
    let now = Timestamp::now();
    let ahead = newest.filter(|row| row.at.is_ahead_of(now));
    Ok(ahead.map(|row| KeyFinding::Clock { last: row.at, now }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::a_provider;

    #[test]
    fn only_a_seal_that_this_host_can_better_is_weak() {
        let provider = a_provider();
        let is_weak = |seal, strongest| weaker(&provider, seal, strongest).is_some();
        assert!(is_weak(Seal::RootOnlyFile, Seal::Host));
        assert!(is_weak(Seal::Host, Seal::HostAndTpm2));
        assert!(!is_weak(Seal::Host, Seal::Host));
        assert!(!is_weak(Seal::HostAndTpm2, Seal::Host));
    }
}
