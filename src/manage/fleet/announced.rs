//! Provider keys that other hosts announced: opened through their slots, with this host's own access to the key
//! manager. Such a key opens what it wraps, and wraps nothing new until `provider accept` says so, or a successor
//! is signed by the key before it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::fleet::Kind;
use crate::fleet::claim::{Claim, ProviderClaim, Signed, SlotClaim, SuccessorClaim};
use crate::ids::{ProviderUuid, SlotUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::{KekPlace, Keyring, WeakerSeal};
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::providers::ProvidersLock;
use crate::manage::slots;
use crate::store::{NewProvider, Slot, Store, previous_key_name};
use crate::verdict::facts::Provider;

/// What the names of announced keys begin with on this host.
const ANNOUNCED: &str = "fleet/";

/// The name of a key that nobody has named.
const UNNAMED: &str = "unnamed";

/// A provider key that was opened on this host.
#[derive(Debug, Serialize)]
pub(crate) struct OpenedKey {
    /// The provider's name where it was announced.
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    /// Through which slot.
    pub(crate) slot: String,
}

/// What hosts announced.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub(super) providers: Vec<Signed<ProviderClaim>>,
    pub(super) slots: Vec<SlotClaim>,
    pub(super) successors: Vec<Signed<SuccessorClaim>>,
}

impl Announced {
    pub(super) fn read(store: &Store) -> Result<Self, HostError> {
        let mut announced = Self::default();
        for fact in store.facts_of_kind(&[Kind::Provider, Kind::Slot, Kind::Successor])? {
            match Claim::read(&fact) {
                Ok(Claim::Provider(claim)) => announced.providers.push(claim),
                Ok(Claim::Slot(claim)) => announced.slots.push(claim),
                Ok(Claim::Successor(claim)) => announced.successors.push(claim),
                _ => {}
            }
        }
        Ok(announced)
    }

    /// The name under which a key was announced, as that key has signed it.
    pub(super) fn name_of(&self, kek: &Kek) -> Option<&str> {
        let signed = self.providers.iter();
        let mut its = signed.filter_map(|signed| signed.check(kek).ok());
        its.find(|says| says.key_id == kek.key_id())
            .map(|says| says.name.as_str())
    }
}

/// Opens every announced key that is not here, as far as this host's key managers do. Returns those, and why others
/// do not open.
pub(super) fn open_all(
    host: &Host,
    config: &Config,
    store: &mut Store,
    announced: &Announced,
) -> Result<(Vec<OpenedKey>, Vec<String>), HostError> {
    let keyring = host.keyring();
    let held: Vec<_> = store.providers()?.iter().map(|it| it.key_id).collect();
    let mut wanted: BTreeMap<KeyId, Vec<&SlotClaim>> = BTreeMap::new();
    for slot in &announced.slots {
        // Only what this host's own configuration names is asked.
        if !held.contains(&slot.key_id) && config.kms.contains_key(&slot.kms) {
            wanted.entry(slot.key_id).or_default().push(slot);
        }
    }
    let (mut opened, mut trouble) = (Vec::new(), Vec::new());
    if wanted.is_empty() {
        return Ok((opened, trouble));
    }
    let Ok(_exclusive) = ProvidersLock::acquire(host) else {
        trouble.push("another vtpm-guard is changing providers".to_owned());
        return Ok((opened, trouble));
    };
    let mut managers = host.key_managers(config);
    for (key_id, claims) in wanted {
        let rows: Vec<_> = claims.into_iter().map(row).collect();
        for slot in &rows {
            let kek = match slots::open(&mut managers, slot) {
                Ok(kek) => kek,
                Err(error) => {
                    trouble.push(error.to_string());
                    continue;
                }
            };
            let name = announced.name_of(&kek).unwrap_or(UNNAMED).to_owned();
            let by = format!("{}:{}", slot.kms, slot.remote_key);
            let place = slots::place(config.kek_cache, &rows);
            if let Err(error) = keep(&keyring, place, store, &name, &kek, slot) {
                trouble.push(error.to_string());
                break;
            }
            opened.push(OpenedKey {
                name,
                key_id,
                slot: by,
            });
            break;
        }
    }
    Ok((opened, trouble))
}

/// Keeps an announced key as one that opens and wraps nothing new, with the slot that has opened it.
fn keep(
    keyring: &Keyring,
    place: KekPlace,
    store: &mut Store,
    name: &str,
    kek: &Kek,
    slot: &Slot,
) -> Result<(), HostError> {
    let now = Timestamp::now();
    keyring.store_only_in(place, kek, WeakerSeal::Refused, default_deadline())?;
    store.set_deadline(default_deadline())?;
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

/// The name of an announced key on this host: that of a previous key of a provider that nobody can make, for the
/// names of providers have no slash. So no provider of this host takes it for its own.
pub(super) fn kept_name(name: &str, key_id: KeyId) -> String {
    previous_key_name(&format!("{ANNOUNCED}{name}"), key_id)
}

/// The name under which a key was announced that has this name on this host.
pub(crate) fn announced_name(kept: &str) -> &str {
    let name = kept.strip_prefix(ANNOUNCED).unwrap_or(kept);
    name.rsplit_once('/').map_or(name, |(name, _)| name)
}

/// The name under which a key of this host was announced; `None` if it was not.
pub(super) fn announced_as(provider: &Provider) -> Option<&str> {
    provider.previous_key_of()?.strip_prefix(ANNOUNCED)
}

/// An announced slot as a row of this host.
fn row(claim: &SlotClaim) -> Slot {
    let now = Timestamp::now();
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
        created_at: now,
    }
}
