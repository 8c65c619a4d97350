//! What hosts announced: provider keys, their slots, and which key follows which. Such a key opens what it wraps, and
//! wraps nothing new until `provider accept` says so, or a successor is signed by the key before it.

use std::collections::BTreeMap;

use crate::fleet::claim::{Claim, ProviderClaim, Signed, SlotClaim, SuccessorClaim};
use crate::fleet::{FactId, Kind};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::unlock::Unlocker;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::store::{Store, previous_key_name};
use crate::verdict::facts::ANNOUNCED;

/// A slot, and the id of the fact that announced it.
pub(super) type AnnouncedSlot = (FactId, SlotClaim);

/// What hosts announced.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub(super) providers: Vec<Signed<ProviderClaim>>,
    pub(super) slots: Vec<AnnouncedSlot>,
    pub(super) successors: Vec<Signed<SuccessorClaim>>,
}

impl Announced {
    pub(super) fn read(store: &Store) -> Result<Self, HostError> {
        let mut announced = Self::default();
        for fact in store.facts_of_kind(&[Kind::Provider, Kind::Slot, Kind::Successor])? {
            match Claim::read(&fact) {
                Ok(Claim::Provider(claim)) => announced.providers.push(claim),
                Ok(Claim::Slot(claim)) => announced.slots.push((fact.id, claim)),
                Ok(Claim::Successor(claim)) => announced.successors.push(claim),
                _ => {}
            }
        }
        Ok(announced)
    }

    /// The keys that follow others, as a key of this host has signed it, and their providers' names.
    pub(super) fn followers(&self, unlocker: &mut Unlocker) -> BTreeMap<KeyId, &str> {
        let mut followers = BTreeMap::new();
        for signed in &self.successors {
            let kek = unlocker.kek(signed.key_id, default_deadline());
            if let Some(says) = kek.ok().and_then(|kek| signed.check(&kek).ok()) {
                followers.insert(says.new, says.name.as_str());
            }
        }
        followers
    }

    /// The name under which a key was announced, as that key has signed it.
    pub(super) fn name_of(&self, kek: &Kek) -> Option<&str> {
        let signed = self.providers.iter();
        let mut its = signed.filter_map(|signed| signed.check(kek).ok());
        its.find(|says| says.key_id == kek.key_id())
            .map(|says| says.name.as_str())
    }
}

/// Whether the fleet has heard, signed with the present key of a provider of this host, that this one follows it.
pub(in crate::manage) fn is_next_key(
    host: &Host,
    store: Option<&Store>,
    present: KeyId,
    next: KeyId,
) -> Result<bool, HostError> {
    let Some(store) = store else {
        return Ok(false);
    };
    let announced = Announced::read(store)?;
    let mut signed = announced.successors.iter();
    let mut unlocker = Unlocker::new(&host.keyring());
    Ok(signed.any(|signed| {
        let names_them = signed.says.old == present && signed.says.new == next;
        names_them
            && unlocker
                .kek(present, default_deadline())
                .is_ok_and(|kek| signed.check(&kek).is_ok())
    }))
}

/// The name of an announced key on this host: that of a previous key of a provider that nobody can make, for the
/// names of providers have no slash. So no provider of this host takes it for its own.
pub(in crate::manage) fn kept_name(name: &str, key_id: KeyId) -> String {
    previous_key_name(&format!("{ANNOUNCED}{name}"), key_id)
}

/// The name under which a key was announced that has this name on this host.
pub(crate) fn announced_name(kept: &str) -> &str {
    let name = kept.strip_prefix(ANNOUNCED).unwrap_or(kept);
    name.rsplit_once('/').map_or(name, |(name, _)| name)
}
