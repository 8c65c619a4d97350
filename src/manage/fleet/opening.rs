//! Announced provider keys are opened through their slots, with this host's own access to its key managers.
//!
//! Anybody who may write to the shared store can announce slots without end. So a slot that does not open is left
//! alone for a while, those that a provider key of this host vouches for come first, and few are tried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::announced::{Announced, AnnouncedSlot, kept_name};
use super::connection::FleetCommandError;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::fleet::FactId;
use crate::fleet::claim::SlotClaim;
use crate::ids::{ProviderUuid, SlotUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::unlock::Unlocker;
use crate::keyring::{KekPlace, WeakerSeal};
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::providers::ProvidersLock;
use crate::manage::slots;
use crate::store::{NewProvider, Slot, Store};

/// The name of a key that nobody has named.
const UNNAMED: &str = "unnamed";

/// How many slots are tried at once that do not open.
const MAX_FAILURES: usize = 16;

/// For how long slots are tried at once.
const MAX_TIME: Duration = Duration::from_secs(60);

/// How long a slot that did not open is left alone: that long the first time, then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(15 * 60);

/// And never longer.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 60 * 60);

/// A provider key that was opened on this host.
#[derive(Debug, Serialize)]
pub(crate) struct OpenedKey {
    /// The provider's name where it was announced.
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    /// Through which slot.
    pub(crate) slot: String,
}

/// Slots that did not open: until when each is left alone, and how long that was.
#[derive(Default)]
pub(super) struct Failures(BTreeMap<FactId, (Instant, Duration)>);

impl Failures {
    fn may_be_tried(&self, slot: FactId) -> bool {
        self.0
            .get(&slot)
            .is_none_or(|(until, _)| *until <= Instant::now())
    }

    fn add(&mut self, slot: FactId) {
        let before = self.0.get(&slot).map(|(_, wait)| *wait * 2);
        let wait = before.unwrap_or(FIRST_WAIT).min(LONGEST_WAIT);
        self.0.insert(slot, (Instant::now() + wait, wait));
    }
}

/// Which announced keys are opened.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// All but those that were deleted on this host.
    All,
    /// These, which somebody asks for.
    Only(&'a BTreeSet<KeyId>),
}

/// What was opened, and why other keys do not open.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) keys: Vec<OpenedKey>,
    pub(super) trouble: Vec<String>,
}

/// Opens announced keys that are not here, as far as this host's key managers do. `unlocker` has the keys that are here.
pub(super) fn open_announced(
    host: &Host,
    config: &Config,
    store: &mut Store,
    announced: &Announced,
    wanted: Wanted<'_>,
    failures: &mut Failures,
    unlocker: &mut Unlocker,
) -> Result<Opened, HostError> {
    let mut opened = Opened::default();
    let keys = to_open(config, store, announced, wanted)?;
    if keys.is_empty() {
        return Ok(opened);
    }
    let followers = announced.followers(unlocker);
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_key(|(key_id, _)| !followers.contains_key(key_id));
    let begun = Instant::now();
    let mut managers = host.key_managers(config);
    for (key_id, slots) in keys {
        let rows: Vec<_> = slots.iter().map(|(_, claim)| row(claim)).collect();
        for ((id, _), slot) in slots.iter().zip(&rows) {
            if opened.trouble.len() >= MAX_FAILURES || begun.elapsed() > MAX_TIME {
                return Ok(opened);
            }
            if !failures.may_be_tried(*id) {
                continue;
            }
            let kek = match slots::open(&mut managers, slot) {
                Ok(kek) => kek,
                Err(error) => {
                    // A key manager that is away says nothing of the slot.
                    if !error.is_of_the_moment() {
                        failures.add(*id);
                    }
                    opened.trouble.push(error.to_string());
                    continue;
                }
            };
            // The next key of a provider has no name yet.
            let follows = || followers.get(&key_id).copied();
            let name = announced.name_of(&kek).or_else(follows).unwrap_or(UNNAMED);
            let place = slots::place(config.kek_cache, &rows);
            match keep(host, place, store, name, &kek, slot) {
                Ok(()) => opened.keys.push(OpenedKey {
                    name: name.to_owned(),
                    key_id,
                    slot: format!("{}:{}", slot.kms, slot.remote_key),
                }),
                Err(error) => opened.trouble.push(error.to_string()),
            }
            break;
        }
    }
    Ok(opened)
}

/// The keys that are to be opened, each with its slots.
fn to_open<'a>(
    config: &Config,
    store: &Store,
    announced: &'a Announced,
    wanted: Wanted<'_>,
) -> Result<BTreeMap<KeyId, Vec<&'a AnnouncedSlot>>, HostError> {
    let held: BTreeSet<_> = store.providers()?.iter().map(|it| it.key_id).collect();
    let declined = store.declined_keys()?;
    let is_wanted = |key_id: KeyId| match wanted {
        Wanted::All => !declined.contains(&key_id),
        Wanted::Only(keys) => keys.contains(&key_id),
    };
    let mut keys: BTreeMap<KeyId, Vec<_>> = BTreeMap::new();
    for slot in &announced.slots {
        let (_, claim) = slot;
        // Only what this host's own configuration names is asked.
        let is_reachable = config.kms.contains_key(&claim.kms);
        if is_reachable && !held.contains(&claim.key_id) && is_wanted(claim.key_id) {
            keys.entry(claim.key_id).or_default().push(slot);
        }
    }
    Ok(keys)
}

/// Keeps an announced key as one that opens and wraps nothing new, with the slot that has opened it.
fn keep(
    host: &Host,
    place: KekPlace,
    store: &mut Store,
    name: &str,
    kek: &Kek,
    slot: &Slot,
) -> Result<(), FleetCommandError> {
    let _exclusive = ProvidersLock::acquire(host)?;
    let now = Timestamp::now();
    store.set_deadline(default_deadline())?;
    // While the key manager was asked, somebody may have imported it.
    if store
        .providers()?
        .iter()
        .any(|it| it.key_id == kek.key_id())
    {
        return Ok(());
    }
    let keyring = host.keyring();
    keyring.store_only_in(place, kek, WeakerSeal::Refused, default_deadline())?;
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: kept_name(name, kek.key_id()),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: false,
    };
    let slot = Slot {
        verified_at: Some(now),
        ..slot.clone()
    };
    store.create_provider(&new, &[slot], now)?;
    Ok(())
}

/// An announced slot as a row of this host.
fn row(claim: &SlotClaim) -> Slot {
    Slot {
        uuid: SlotUuid::random(),
        key_id: claim.key_id,
        kind: claim.kind.clone(),
        label: claim.label.clone(),
        kms: claim.kms.clone(),
        remote_key: claim.remote_key.clone(),
        remote_version: claim.remote_version.clone(),
        blob: claim.blob.clone(),
        verified_at: None,
        created_at: Timestamp::now(),
    }
}
