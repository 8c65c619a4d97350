//! What hosts announced: provider keys, their slots, and which key follows which. Such a key opens what it wraps, and
//! wraps nothing new until `provider accept` says so, or a successor is signed by the key before it.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::claim::{Claim, ProviderClaim, Signed, SlotClaim, SuccessorClaim};
use crate::fleet::{FactId, Kind};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::unlock::Unlocker;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::store::{Store, previous_key_name};
use crate::verdict::facts::ANNOUNCED;

/// How many rotations a host may have missed.
const MAX_ROTATIONS: usize = 64;

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

    /// Whether `next` follows `present`, in one rotation or in several: each step is signed with the key before it, which
    /// must open here.
    fn leads(&self, present: KeyId, next: KeyId, unlocker: &mut Unlocker) -> bool {
        let mut reached = BTreeSet::from([present]);
        let mut newest = vec![present];
        for _ in 0..MAX_ROTATIONS {
            let mut following = Vec::new();
            for old in newest {
                let Ok(kek) = unlocker.kek(old, default_deadline()) else {
                    continue;
                };
                following.extend(self.after(&kek).map(|says| says.new));
            }
            if following.contains(&next) {
                return true;
            }
            // What leads back has been there.
            following.retain(|key_id| reached.insert(*key_id));
            newest = following;
        }
        false
    }

    /// What this key has signed of those that follow it.
    pub(super) fn after<'a>(&'a self, old: &'a Kek) -> impl Iterator<Item = &'a SuccessorClaim> {
        let signed = self.successors.iter();
        let said = signed.filter_map(|signed| signed.check(old).ok());
        said.filter(|says| says.old == old.key_id())
    }

    /// Whether another key has followed this one.
    pub(super) fn is_rotated(&self, old: &Kek) -> bool {
        self.after(old).any(|says| says.finished)
    }

    /// The name under which a key was announced, as that key has signed it.
    pub(super) fn name_of(&self, kek: &Kek) -> Option<&str> {
        let signed = self.providers.iter();
        let mut its = signed.filter_map(|signed| signed.check(kek).ok());
        its.find(|says| says.key_id == kek.key_id())
            .map(|says| says.name.as_str())
    }
}

/// Whether the fleet has heard that this key follows the present one of a provider of this host.
pub(in crate::manage) fn is_next_key(
    host: &Host,
    store: Option<&Store>,
    present: KeyId,
    next: KeyId,
) -> Result<bool, HostError> {
    let Some(store) = store else {
        return Ok(false);
    };
    let mut unlocker = Unlocker::new(&host.keyring());
    Ok(Announced::read(store)?.leads(present, next, &mut unlocker))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::keyring::unlock::UnsealedKeks;

    fn kek(number: usize) -> Kek {
        Kek::from_slice(&[u8::try_from(number).unwrap(); Kek::LEN]).unwrap()
    }

    fn id(number: usize) -> KeyId {
        kek(number).key_id()
    }

    /// These rotations, each signed with this key.
    fn announced(rotations: &[(usize, usize, usize)]) -> Announced {
        let signed = |&(old, new, signer): &(usize, usize, usize)| {
            let says = SuccessorClaim {
                name: "nkp-a".to_owned(),
                old: id(old),
                new: id(new),
                key_version: 2,
                finished: true,
            };
            Signed::new(says, &kek(signer))
        };
        Announced {
            successors: rotations.iter().map(signed).collect(),
            ..Announced::default()
        }
    }

    /// Whether the last key follows the first one on a host where these open.
    fn leads(announced: &Announced, here: &[usize], present: usize, next: usize) -> bool {
        let keks = UnsealedKeks::of(here.iter().copied().map(kek));
        let mut unlocker = Unlocker::sharing(Keyring::at("/nonexistent".into()), keks);
        announced.leads(id(present), id(next), &mut unlocker)
    }

    #[test]
    fn a_key_follows_through_each_rotation_that_the_key_before_has_signed() {
        let twice = announced(&[(2, 3, 2), (1, 2, 1)]);
        assert!(leads(&twice, &[1], 1, 2));
        assert!(leads(&twice, &[1, 2], 1, 3));
        assert!(
            !leads(&twice, &[1], 1, 3),
            "nobody can say what key 2 has signed"
        );
        assert!(!leads(&twice, &[1, 2, 3], 3, 1));
        let forged = announced(&[(1, 2, 1), (2, 3, 9), (1, 3, 9), (1, 4, 2)]);
        assert!(!leads(&forged, &[1, 2, 9], 1, 3));
        assert!(!leads(&forged, &[1, 2, 9], 1, 4));
    }

    #[test]
    fn a_kept_key_is_told_by_the_name_under_which_it_was_announced() {
        assert_eq!(announced_name(&kept_name("nkp-a", id(1))), "nkp-a");
    }

    #[test]
    fn circles_and_chains_without_end_are_left() {
        let circle = announced(&[(1, 2, 1), (2, 1, 2), (2, 2, 2), (2, 3, 2)]);
        assert!(leads(&circle, &[1, 2], 1, 3));
        assert!(!leads(&circle, &[1, 2], 1, 4));
        let chain: Vec<_> = (1..=100).map(|key| (key, key + 1, key)).collect();
        let (chain, here) = (announced(&chain), (1..=101).collect::<Vec<_>>());
        assert!(leads(&chain, &here, 1, 1 + MAX_ROTATIONS));
        assert!(!leads(&chain, &here, 1, 2 + MAX_ROTATIONS));
    }
}
