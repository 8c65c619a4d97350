//! Which key is a guest's, where somebody has chosen one: here, and on every host that has another.
//!
//! While a guest's TPM state is on its way, the key of the higher generation is used. So a chosen key
//! that is older than another of the guest is wrapped once more, with a generation above all of them.

use super::host::{HostError, default_deadline};
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::ids::KeyRefId;
use crate::key::wrap::Generation;
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::store::{Rewrapped, Store, UseKeyResult};
use crate::verdict::facts::{KeyRef, for_new_keys};

/// A key that was chosen.
#[derive(Debug)]
pub(super) struct ChosenKey {
    /// The row that is in use now, and what was retired for it.
    pub(super) used: UseKeyResult,
    /// Its generation.
    pub(super) generation: Generation,
    /// Another host may have a newer key of the guest: this one could not be wrapped once more, as
    /// it does not open here.
    pub(super) may_be_passed_over: bool,
}

/// Makes the key of this row the guest's. `domain`: its domain XML, as far as it is known.
pub(super) fn choose(
    store: &mut Store,
    unlocker: &mut Unlocker,
    domain: Option<&Domain>,
    id: KeyRefId,
) -> Result<ChosenKey, HostError> {
    let now = Timestamp::now();
    let guest = store.key_ref(id)?.domain;
    let known = store.references(guest, now)?;
    let rows = || known.key_refs.iter().chain(&known.retired);
    let opened = unlocker.open_rows(rows().cloned(), &known.providers, guest, default_deadline());
    let in_xml = unlocker.open_travelling(&known, domain, default_deadline());
    let Some(chosen) = opened.iter().find(|key| key.key_ref.id == id) else {
        let row = rows().find(|row| row.id == id);
        let generation = row.map(KeyRef::generation).unwrap_or_default();
        let is_older = |other: Generation| other > generation;
        let in_xml = in_xml.iter().map(|key| key.key_ref.generation());
        return Ok(ChosenKey {
            used: store.use_key(id, now)?,
            generation,
            may_be_passed_over: in_xml.chain(known.newest_generation()).any(is_older),
        });
    };
    let holds_it = |key: &&OpenedKey| key.dek.same_as(&chosen.dek);
    // Of those that hold it the newest; of equal ones the one that was named.
    let rank = |key: &&OpenedKey| (key.key_ref.generation(), key.key_ref.id == id);
    let holders = opened.iter().filter(holds_it);
    let newest = holders.clone().max_by_key(rank).unwrap_or(chosen);
    let generation = newest.key_ref.generation();
    let is_holder = |row: &KeyRef| holders.clone().any(|key| key.key_ref.id == row.id);
    let others = rows().filter(|row| row.wrapped_dek.is_some() && !is_holder(row));
    let newer_row = others.map(KeyRef::generation).any(|it| it >= generation);
    let newer_in_xml = in_xml.iter().any(|key| {
        let other = key.key_ref.generation();
        other > generation || (other == generation && !holds_it(&key))
    });
    if !newer_row && !newer_in_xml {
        return Ok(ChosenKey {
            used: store.use_key(newest.key_ref.id, now)?,
            generation,
            may_be_passed_over: false,
        });
    }
    let next = unlocker.next_generation(&known, domain, default_deadline());
    let provider = for_new_keys(&chosen.provider, &known.providers);
    let key = unlocker.wrap(&chosen.dek, provider, guest, next, default_deadline())?;
    let used = store.use_rewrapped(&Rewrapped {
        of: &chosen.key_ref,
        provider: provider.uuid,
        key: &key,
        now,
    })?;
    Ok(ChosenKey {
        used,
        generation: next,
        may_be_passed_over: false,
    })
}
