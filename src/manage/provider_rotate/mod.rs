//! `provider rotate`: a new key for a provider; every guest's key is re-wrapped with it.
//!
//! The provider gets its new key in one small transaction, in which its previous one stays on this host as a provider
//! of its own. Rows are re-wrapped after that, some at a time, so that no start waits for thousands of them. Each row
//! is at any moment as before or as after, and opens either way. What a kill leaves is what an earlier rotation
//! missed (as a key reference that another tool brought back): it is re-wrapped first by the next one.

mod missed;
mod rows;
mod work;

pub(crate) use self::missed::{MissedRows, missed_rows};
#[cfg(test)]
pub(crate) use self::rows::LeftRow;
pub(crate) use self::rows::{RotatedRow, RowResult};

use std::sync::Arc;

use serde::Serialize;

use self::work::{Reached, Work, Worked};
use super::fleet::rotation::{self, HostResult, InterruptedRotation, Patience, RotateError};
use super::host::Host;
use super::previous_keys::PreviousKey;
use super::provider_list::SealState;
use super::providers::{ProviderRef, ProvidersLock, refuse_previous_key};
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::keyring::unlock::Unlocker;
use crate::keyring::{KeyringError, StoredKek, WeakerSeal};
use crate::store::{Access, StoreError};

/// What `provider rotate` did.
#[derive(Debug, Serialize)]
pub(crate) struct RotatedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    /// Whether it has a new key; else an earlier rotation was completed.
    pub(crate) rotated: bool,
    pub(crate) key_id: KeyId,
    pub(crate) key_version: i64,
    /// The key that it had, unless only an earlier rotation was completed.
    pub(crate) previous_key_id: Option<KeyId>,
    /// The previous keys that are kept on this host.
    #[serde(rename = "former_keys")]
    pub(crate) previous_keys: Vec<PreviousKey>,
    pub(crate) rewrapped: usize,
    pub(crate) not_opened: usize,
    pub(crate) key_refs: Vec<RotatedRow>,
    /// The other hosts of the fleet, and whether they have the new key.
    pub(crate) hosts: Vec<HostResult>,
    /// Why the fleet was not told.
    #[serde(skip)]
    pub(crate) not_told: Option<String>,
    /// Whether its key is in a recovery file.
    #[serde(skip)]
    pub(crate) is_exported: bool,
    #[serde(skip)]
    pub(crate) seal: SealState,
    /// How its new key was sealed, and why not more strongly.
    #[serde(skip)]
    pub(crate) stored: Option<StoredKek>,
    /// Keys that key references of the provider still need, and that do not open.
    #[serde(skip)]
    pub(crate) unusable: Vec<UnusableKey>,
}

/// A key that does not open, which key references of the provider need.
#[derive(Debug)]
pub(crate) struct UnusableKey {
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    /// Whether it is a previous key of the provider; else another provider has it.
    pub(crate) is_previous: bool,
    /// How many key references it wraps.
    pub(crate) key_refs: usize,
    pub(crate) error: Arc<KeyringError>,
}

impl RotatedProvider {
    /// An error if this key, which has opened before, does not open any more: what it wraps waits for another run.
    fn with_key_opened(mut self, key_id: KeyId) -> Result<Self, RotateError> {
        let mut unusable = self.unusable.iter();
        let Some(index) = unusable.position(|it| it.key_id == key_id) else {
            return Ok(self);
        };
        let UnusableKey {
            key_refs, error, ..
        } = self.unusable.swap_remove(index);
        Err(RotateError::Interrupted(Box::new(InterruptedRotation {
            provider: self.provider,
            new_key: None,
            done: self.rewrapped,
            of: self.rewrapped + key_refs,
            error: error.into(),
        })))
    }
}

/// One step of the work: this key reference of so many is re-wrapped next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotateStep {
    /// From 0.
    pub(crate) index: usize,
    pub(crate) of: usize,
    pub(crate) guest: DomainUuid,
}

/// As [`rotate`]; in a fleet only when the other hosts have opened the new key.
pub(crate) fn rotate_everywhere(
    host: &Host,
    text: &str,
    weaker: WeakerSeal,
    patience: Patience<'_>,
    waits: &mut dyn FnMut(&[HostResult]),
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, RotateError> {
    if !rotation::is_in_fleet(host).map_err(RotateError::Fleet)? {
        // Nobody is waited for here: whoever leaves out a host takes this one for another.
        if !patience.without.is_empty() {
            return Err(RotateError::Fleet(rotation::not_in_fleet(host)));
        }
        return rotate(host, text, weaker, progress);
    }
    // What an earlier rotation left comes first, before there is a key more.
    let completed = rotate_rows(host, text, progress)?;
    if completed.rewrapped > 0 {
        return Ok(completed);
    }
    let (_, before) = host.provider(text, Access::Read)?;
    let (next, hosts) = rotation::change_key(host, text, weaker, patience, waits)?;
    // The name stays whatever the provider was called.
    let rotated = rotate_rows(host, &before.uuid.to_string(), progress);
    let rotated = rotated.and_then(|rotated| rotated.with_key_opened(before.key_id));
    let mut rotated = rotated.map_err(|error| error.of_promoted(&before, next))?;
    rotated.rotated = true;
    rotated.previous_key_id = Some(before.key_id);
    rotated.hosts = hosts;
    let told = rotation::tell(host);
    rotated.not_told = told.err().map(|error| error.to_string());
    Ok(rotated)
}

/// Gives the provider that `text` names a new key; or, where an earlier rotation missed key
/// references that open, re-wraps those with its present one.
pub(crate) fn rotate(
    host: &Host,
    text: &str,
    weaker: WeakerSeal,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, RotateError> {
    run(host, text, Some(weaker), progress)
}

/// Re-wraps what previous keys of the provider wrap with its present one.
fn rotate_rows(
    host: &Host,
    text: &str,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, RotateError> {
    run(host, text, None, progress)
}

/// Completes an earlier rotation; where there is nothing to complete and `weaker` says how a new key may be sealed,
/// the provider gets one.
fn run(
    host: &Host,
    text: &str,
    weaker: Option<WeakerSeal>,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, RotateError> {
    let config = host.config()?;
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let before = store.provider_by_uuid(found.uuid)?;
    refuse_previous_key(&store, &before)?;
    // It may have joined one until then: a key that the others do not hear of is none that they follow.
    if weaker.is_some() && rotation::is_in_fleet(host).map_err(RotateError::Fleet)? {
        return Err(StoreError::Changed.into());
    }
    let keyring = host.keyring();
    let mut work = Work {
        unlocker: Unlocker::new(&keyring),
        store: &mut store,
        progress,
        config: &config,
        managers: host.key_managers(&config),
        reached: Reached::default(),
    };
    let worked = work.run(&keyring, &before, weaker);
    let Reached { new_key, done, of } = work.reached;
    let Worked {
        stored,
        rows,
        unusable,
    } = worked.map_err(|error| {
        if new_key.is_none() && done == 0 {
            return RotateError::Slot(error);
        }
        let provider = (&before).into();
        RotateError::Interrupted(Box::new(InterruptedRotation {
            provider,
            new_key,
            done,
            of,
            error,
        }))
    })?;
    let rotated = stored.is_some();
    let after = store.provider_by_uuid(before.uuid)?;
    let kept = store.previous_keys(&after)?.into_iter();
    let kept = kept.map(|previous| PreviousKey::new(&store, &previous));
    let previous_keys = kept.collect::<Result<_, _>>()?;
    let count = |result| {
        rows.iter()
            .filter(|row| row.result.word() == result)
            .count()
    };
    Ok(RotatedProvider {
        provider: (&after).into(),
        rotated,
        key_id: after.key_id,
        key_version: after.key_version,
        previous_key_id: rotated.then_some(before.key_id),
        previous_keys,
        rewrapped: count("rewrapped"),
        not_opened: count("not-opened"),
        key_refs: rows,
        hosts: Vec::new(),
        not_told: None,
        is_exported: after.exported_at.is_some(),
        seal: SealState::of(&keyring, after.key_id),
        stored,
        unusable,
    })
}
