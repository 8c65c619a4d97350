//! `provider accept`: a provider key that others announced, and that opens here, wraps new keys of this host from
//! now on.

use serde::Serialize;

use super::announced::Announced;
use super::connection::{FleetCommandError, member};
use super::opening::{Failures, Wanted, open_announced};
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::keyring::KeyringError;
use crate::keyring::unlock::Unlocker;
use crate::manage::host::{Host, default_deadline};
use crate::manage::providers::{ProviderRef, ProvidersLock};
use crate::manage::sync::exclusive;
use crate::store::Access;

/// What `provider accept` did.
#[derive(Debug, Serialize)]
pub(crate) struct AcceptedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    /// The key that it had on this host before.
    pub(crate) previous_key_id: Option<KeyId>,
    /// Whether it had this key already.
    pub(crate) was_accepted: bool,
}

/// Accepts the announced provider of this name; if several keys were announced under it, that of this key id.
pub(crate) fn accept(
    host: &Host,
    name: &str,
    key_id: Option<KeyId>,
) -> Result<AcceptedProvider, FleetCommandError> {
    let config = host.config()?;
    let (mut store, _) = member(host, Access::Write)?;
    let announced = Announced::read(&store)?;
    let named_so: Vec<_> = announced
        .providers
        .iter()
        .filter(|it| it.says.name == name && key_id.is_none_or(|wanted| wanted == it.says.key_id))
        .collect();
    if named_so.is_empty() {
        return Err(FleetCommandError::NotAnnounced(name.to_owned()));
    }
    let keys = named_so.iter().map(|it| it.says.key_id).collect();
    let found = open_announced(
        host,
        &config,
        &mut store,
        &announced,
        Wanted::Only(&keys),
        &mut Failures::default(),
        &mut Unlocker::new(&host.keyring()),
    )?;
    let mut trouble = found.trouble;
    // Another one: the first remembers that these keys were not here.
    let mut unlocker = Unlocker::new(&host.keyring());
    // The name counts only as the key itself has signed it.
    let mut open: Vec<_> = named_so
        .iter()
        .filter_map(|signed| {
            let kek = match unlocker.kek(signed.key_id, default_deadline()) {
                Ok(kek) => kek,
                Err(error) => {
                    // Why no slot has opened one that is missing here, is among these already.
                    let is_here = !matches!(*error, KeyringError::Missing(_));
                    trouble.extend(is_here.then(|| error.to_string()));
                    return None;
                }
            };
            let says = signed.check(&kek).ok()?;
            (says.key_id == signed.key_id).then(|| says.clone())
        })
        .collect();
    open.sort_by_key(|says| (says.key_id, says.key_version));
    open.dedup_by_key(|says| says.key_id);
    if open.len() > 1 {
        // A key that another one follows is not meant: it says so itself, or anybody could.
        let mut is_followed = |key_id: KeyId| {
            let kek = unlocker.kek(key_id, default_deadline());
            kek.is_ok_and(|kek| announced.is_rotated(&kek))
        };
        open.retain(|says| !is_followed(says.key_id));
    }
    let claim = match &open[..] {
        [one] => one.clone(),
        [] => return Err(FleetCommandError::NotOpened(name.to_owned(), trouble)),
        several => {
            let keys = several.iter().map(|it| it.key_id).collect();
            return Err(FleetCommandError::AmbiguousKey(name.to_owned(), keys));
        }
    };
    // An exchange goes by the keys that providers have as it begins.
    let _exchanges = exclusive(host, None)?;
    let _providers = ProvidersLock::acquire(host)?;
    let providers = store.providers()?;
    let named = providers.iter().find(|it| it.name == name);
    let held = providers.iter().find(|it| it.key_id == claim.key_id);
    let now = Timestamp::now();
    store.set_deadline(default_deadline())?;
    let (uuid, previous_key_id, was_accepted) = match (named, held) {
        (Some(named), Some(held)) if named.uuid == held.uuid => (named.uuid, None, true),
        // Another provider of this host has it, under its own name.
        (_, Some(held)) if held.previous_key_of().is_none() => {
            return Err(FleetCommandError::OtherName(
                name.to_owned(),
                held.name.clone(),
            ));
        }
        (Some(named), Some(held)) => {
            store.promote_key(named, held, claim.key_version, now)?;
            (named.uuid, Some(named.key_id), false)
        }
        (None, Some(held)) => {
            store.rename_provider(held.uuid, name, now)?;
            (held.uuid, None, false)
        }
        // It is sealed here, and no provider has it: its row was deleted by hand.
        (_, None) => return Err(FleetCommandError::NotOpened(name.to_owned(), trouble)),
    };
    let provider = store.provider_by_uuid(uuid)?;
    Ok(AcceptedProvider {
        provider: (&provider).into(),
        key_id: provider.key_id,
        previous_key_id,
        was_accepted,
    })
}
