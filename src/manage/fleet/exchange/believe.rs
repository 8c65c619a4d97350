//! Which facts are believed.
//!
//! A wrapped key is believed if it opens, with a KEK of this host, as that guest's. What a key counts as, and where a
//! guest is, is believed if it was signed with the KEK of the key. Names, slots and successors are kept: they count
//! only when somebody accepts them, or they prove themselves.

use std::sync::Arc;

use super::Exchange;
use crate::clock::Timestamp;
use crate::fleet::claim::{BadClaim, Claim, KeyClaim, PlacementClaim};
use crate::fleet::{Fact, FactId, Kind};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::host::default_deadline;
use crate::store::KnownFact;
use crate::verdict::facts::Provider;

/// How far ahead of this host's clock another one may be, in milliseconds: what is later is no honest mistake, and
/// would count for ever.
const MAX_AHEAD: i64 = 24 * 60 * 60 * 1000;

/// Whether a moment of another host's clock is too far ahead of this one's to be believed.
pub(in crate::manage::fleet) fn is_of_the_future(at: i64, now: Timestamp) -> bool {
    at > now.0.saturating_add(MAX_AHEAD)
}

/// Why a fact is not kept.
pub(super) enum NotKept {
    /// It is not believed.
    Rejected(BadClaim),
    /// It is of no use here.
    Unneeded,
}

impl From<BadClaim> for NotKept {
    fn from(bad: BadClaim) -> Self {
        Self::Rejected(bad)
    }
}

impl Exchange<'_> {
    /// Whether a fact is believed, and what it says. `kept` has those that were believed with it.
    pub(super) fn believe(&mut self, fact: &Fact, kept: &[KnownFact]) -> Result<Claim, NotKept> {
        let claim = Claim::read(fact)?;
        match &claim {
            Claim::Key(key) => {
                self.provider_of(key.key_id).ok_or(NotKept::Unneeded)?;
                // A provider key that does not open judges nothing. Once it opens, this is asked for again (`scope`).
                self.held(key.key_id)?;
                if (fact.domain, fact.key_id) != (Some(key.domain), Some(key.key_id)) {
                    return Err(BadClaim::OtherId.into());
                }
                let opened = self
                    .unlocker
                    .open(&key.wrapped, key.domain, default_deadline());
                opened.map_err(|_| BadClaim::NotSigned(key.key_id))?;
            }
            Claim::Status(status) => {
                let kek = self.held(status.key_id)?;
                let says = status.check(&kek)?;
                // Whoever has another provider's key has no say in this one's.
                let is_its =
                    |key: &KeyClaim| (key.key_id, key.domain) == (status.key_id, says.domain);
                let key = self.key(says.key, kept).ok_or(NotKept::Unneeded)?;
                if !is_its(&key) {
                    return Err(BadClaim::NotSigned(key.key_id).into());
                }
            }
            Claim::Placement(placement) => {
                let kek = self.held(placement.key_id)?;
                let says = placement.check(&kek)?;
                if says.host == self.host && !self.has_forgotten(says) {
                    return Err(NotKept::Unneeded);
                }
                if is_of_the_future(says.at, self.now) {
                    return Err(BadClaim::OfTheFuture.into());
                }
                if !self.has_key_under(says, placement.key_id, kept) {
                    return Err(BadClaim::NotSigned(placement.key_id).into());
                }
            }
            Claim::Host(says) if is_of_the_future(says.at, self.now) => {
                return Err(BadClaim::OfTheFuture.into());
            }
            // Also what this host has said, which its store may have forgotten: it was restored from a backup. Of what
            // somebody else says in its name it believes no more than of what is said in the name of others.
            Claim::Provider(_) | Claim::Slot(_) | Claim::Successor(_) | Claim::Host(_) => {}
            // Nobody asked for those.
            Claim::Event(_) | Claim::Report(_) => return Err(NotKept::Unneeded),
        }
        Ok(claim)
    }

    /// Whether a KEK of this host has signed this, so that it is no junk.
    pub(super) fn vouches(&mut self, claim: &Claim) -> bool {
        let key_id = match claim {
            Claim::Provider(signed) => signed.key_id,
            Claim::Successor(signed) => signed.key_id,
            _ => return false,
        };
        let kek = self.held(key_id);
        kek.is_ok_and(|kek| match claim {
            Claim::Provider(signed) => signed.check(&kek).is_ok(),
            Claim::Successor(signed) => signed.check(&kek).is_ok(),
            _ => false,
        })
    }

    fn held(&mut self, key_id: KeyId) -> Result<Arc<Kek>, NotKept> {
        let kek = self.unlocker.kek(key_id, default_deadline());
        kek.map_err(|_| NotKept::Unneeded)
    }

    /// Whether a key of the guest is known that this KEK wraps: who has another one has no say in this guest.
    fn has_key_under(&self, says: &PlacementClaim, key_id: KeyId, kept: &[KnownFact]) -> bool {
        let is_its = |fact: &Fact| {
            fact.kind == Kind::Key
                && fact.domain == Some(says.domain)
                && fact.key_id == Some(key_id)
        };
        let known = self.store.facts_about(says.domain, Kind::Key);
        kept.iter().any(|known| is_its(&known.fact))
            || known.is_ok_and(|facts| facts.iter().any(is_its))
    }

    /// Whether this host, whose store was restored from a backup, has said this of a run and does not know it any more.
    /// Of a run that it knows nobody else ends it: `fleet lost` says so in the name of a host that may be there.
    fn has_forgotten(&self, says: &PlacementClaim) -> bool {
        let known = self.store.placements(says.domain);
        known.is_ok_and(|known| {
            let own = known.iter().find(|it| it.is_own);
            own.is_none_or(|own| {
                let own = &own.placement;
                says.at > own.at && (says.running || !own.running)
            })
        })
    }

    /// A key that was believed, now or before.
    pub(super) fn key(&self, id: FactId, kept: &[KnownFact]) -> Option<KeyClaim> {
        let claim = match kept.iter().rev().find(|known| known.fact.id == id) {
            Some(known) => known.claim.clone(),
            None => Claim::read(self.store.facts(&[id]).ok()?.first()?).ok()?,
        };
        match claim {
            Claim::Key(key) => Some(key),
            _ => None,
        }
    }

    /// The provider of this host that has a KEK.
    pub(super) fn provider_of(&self, key_id: KeyId) -> Option<&Provider> {
        self.providers.iter().find(|it| it.key_id == key_id)
    }
}
