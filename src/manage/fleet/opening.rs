//! Announced provider keys are opened through their slots, with this host's own access to its key managers.
//!
//! Anybody who may write to the shared store can announce slots without end. So a slot that does not open is left
//! alone for a while, few are tried at once, and those that look honest have turns of their own among them.

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
    let own = store.slots()?;
    let begun = Instant::now();
    let mut managers = host.key_managers(config);
    let mut done = BTreeSet::new();
    let follows = |key_id: KeyId| followers.contains_key(&key_id);
    for (key_id, (id, claim)) in in_turns(&keys, follows, &own) {
        if opened.trouble.len() >= MAX_FAILURES || begun.elapsed() > MAX_TIME {
            return Ok(opened);
        }
        if done.contains(&key_id) || !failures.may_be_tried(*id) {
            continue;
        }
        let slot = row(claim);
        let kek = match slots::open(&mut managers, &slot) {
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
        done.insert(key_id);
        // The next key of a provider has no name yet.
        let its = || followers.get(&key_id).copied();
        let name = announced.name_of(&kek).or_else(its).unwrap_or(UNNAMED);
        let rows: Vec<_> = keys[&key_id].iter().map(|(_, claim)| row(claim)).collect();
        let place = slots::place(config.kek_cache, &rows);
        match keep(host, place, store, name, &kek, &slot) {
            Ok(()) => opened.keys.push(OpenedKey {
                name: name.to_owned(),
                key_id,
                slot: format!("{}:{}", slot.kms, slot.remote_key),
            }),
            Err(error) => opened.trouble.push(error.to_string()),
        }
    }
    Ok(opened)
}

/// In which order slots are tried. Anybody can announce slots without end, of any key: they take the turns only of
/// those that look like them.
///
/// Keys that follow one of this host take every other turn, and so do, of the slots of one key, those that look like
/// slots that this host has.
fn in_turns<'a>(
    keys: &BTreeMap<KeyId, Vec<&'a AnnouncedSlot>>,
    follows: impl Fn(KeyId) -> bool,
    own: &[Slot],
) -> Vec<(KeyId, &'a AnnouncedSlot)> {
    let (mut following, mut others) = (Vec::new(), Vec::new());
    for (key_id, slots) in keys {
        let slots = by_looks(slots, own).into_iter();
        let slots: Vec<_> = slots.map(|slot| (*key_id, slot)).collect();
        if follows(*key_id) {
            following.push(slots);
        } else {
            others.push(slots);
        }
    }
    alternating([alternating(following), alternating(others)])
}

/// The slots of one key. Every other one is of a remote key that has a slot of this host, as far as there are such ones;
/// of the others, every other one is in a key manager that has.
fn by_looks<'a>(slots: &[&'a AnnouncedSlot], own: &[Slot]) -> Vec<&'a AnnouncedSlot> {
    let (mut of_key, mut of_manager, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for slot in slots {
        let (_, claim) = slot;
        let is_manager = |own: &&Slot| own.kms == claim.kms && own.kind == claim.kind;
        let mut like = own.iter().filter(is_manager).peekable();
        let has_manager = like.peek().is_some();
        let list = if like.any(|own| own.remote_key == claim.remote_key) {
            &mut of_key
        } else if has_manager {
            &mut of_manager
        } else {
            &mut others
        };
        list.push(*slot);
    }
    alternating([of_key, alternating([of_manager, others])])
}

/// The first of each list, then the second of each, and so on.
fn alternating<T>(lists: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    while !lists.is_empty() {
        lists.retain_mut(|list| list.next().map(|one| all.push(one)).is_some());
    }
    all
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
        exported_at: None,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn key(number: u8) -> KeyId {
        KeyId::from_bytes([number; KeyId::LEN])
    }

    /// A slot of this key in this key of a key manager, told from others by its number.
    fn announced(number: u16, key_id: KeyId, kms: &str, remote_key: &str) -> AnnouncedSlot {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let claim = SlotClaim {
            key_id,
            kind: "transit".to_owned(),
            label: None,
            kms: kms.to_owned(),
            remote_key: remote_key.to_owned(),
            remote_version: None,
            blob: vec![1],
        };
        (FactId(id), claim)
    }

    #[test]
    fn a_slot_that_did_not_open_is_left_alone_for_longer_each_time() {
        let (mut failures, slot, other) = (Failures::default(), FactId([1; 32]), FactId([2; 32]));
        assert!(failures.may_be_tried(slot));
        let hours = |number: u64| Duration::from_secs(number * 60 * 60);
        let waits = [
            hours(1) / 4,
            hours(1) / 2,
            hours(1),
            hours(2),
            hours(4),
            hours(6),
            hours(6),
        ];
        for wait in waits {
            failures.add(slot);
            assert!(!failures.may_be_tried(slot) && failures.may_be_tried(other));
            let (until, waited) = failures.0.get_mut(&slot).unwrap();
            assert_eq!(*waited, wait);
            assert!(*until > Instant::now() + wait / 2);
            // The time passes.
            *until = Instant::now();
            assert!(failures.may_be_tried(slot));
        }
    }

    /// Which turn a slot has.
    fn turn_of(honest: &AnnouncedSlot, junk: &[AnnouncedSlot], next: KeyId) -> usize {
        let own = [row(&announced(0, key(1), "vault", "nkp-a").1)];
        let mut keys: BTreeMap<KeyId, Vec<_>> = BTreeMap::new();
        for slot in junk.iter().chain([honest]) {
            keys.entry(slot.1.key_id).or_default().push(slot);
        }
        let turns = in_turns(&keys, |key_id| key_id == next, &own);
        assert_eq!(turns.len(), junk.len() + 1, "each has its turn");
        let mut turns = turns.into_iter();
        turns
            .position(|(_, (id, _))| *id == honest.0)
            .unwrap_or(usize::MAX)
    }

    /// So many slots of these keys that open nothing.
    fn junk(number: u16, key_ids: &[KeyId], kms: &str, remote_key: &str) -> Vec<AnnouncedSlot> {
        let key_ids = key_ids.iter().cycle();
        let numbered = (1..=number).zip(key_ids);
        let one = |(number, key_id): (u16, &KeyId)| announced(number, *key_id, kms, remote_key);
        numbered.map(one).collect()
    }

    #[test]
    fn a_slot_like_those_of_this_host_is_tried_at_once_whatever_is_announced_beside_it() {
        let next = key(2);
        let honest = announced(5000, next, "vault", "nkp-a");
        for kms_and_key in [("vault", "other"), ("hsm", "nkp-a")] {
            let junk = junk(4000, &[next], kms_and_key.0, kms_and_key.1);
            assert_eq!(turn_of(&honest, &junk, next), 0);
        }
        // Nor do slots of other keys delay it, or those of one key the other keys.
        let others: Vec<_> = (3..=250).map(key).collect();
        let of_others = junk(4000, &others, "vault", "nkp-a");
        assert_eq!(turn_of(&honest, &of_others, next), 0);
        assert!(
            turn_of(&honest, &of_others, key(9)) < 300,
            "one turn of each key"
        );
        let of_next = junk(4000, &[key(3)], "vault", "nkp-a");
        assert!(turn_of(&honest, &of_next, key(3)) < MAX_FAILURES);
    }

    #[test]
    fn junk_that_looks_like_slots_of_this_host_does_not_delay_others() {
        let next = key(2);
        let junk = junk(4000, &[next], "vault", "nkp-a");
        for (kms, remote_key) in [("vault", "nkp-a2"), ("hsm", "key")] {
            let honest = announced(5000, next, kms, remote_key);
            assert!(turn_of(&honest, &junk, next) < MAX_FAILURES);
        }
    }
}
