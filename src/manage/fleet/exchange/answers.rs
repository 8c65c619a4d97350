//! Which facts this host stores again that the shared store has lost: its own, and what a KEK of this host signs or
//! opens. Others store theirs. Anybody can say something in this host's name: such junk stays away once it was removed.

use std::collections::{BTreeMap, BTreeSet};

use super::Exchange;
use crate::fleet::Fact;
use crate::fleet::claim::{Claim, HostClaim};
use crate::ids::HostUuid;
use crate::key::id::KeyId;
use crate::manage::host::default_deadline;

/// What is known of the hosts of the fleet.
pub(super) struct KnownHosts {
    /// When it was said last of each that it is there, or has left.
    last: BTreeMap<HostUuid, i64>,
    /// Those that have spoken for themselves.
    spoken: BTreeSet<HostUuid>,
}

impl KnownHosts {
    pub(super) fn of<'f>(facts: impl Iterator<Item = &'f Fact>) -> Self {
        let (mut last, mut spoken) = (BTreeMap::new(), BTreeSet::new());
        for fact in facts {
            let Ok(Claim::Host(says)) = Claim::read(fact) else {
                continue;
            };
            let at = last.entry(says.host).or_insert(says.at);
            *at = says.at.max(*at);
            if fact.host == says.host {
                spoken.insert(says.host);
            }
        }
        Self { last, spoken }
    }

    /// Whether this counts, if `host` has said it: its last word of itself, or that one which was there has left.
    fn counts(&self, says: &HostClaim, host: HostUuid) -> bool {
        let is_last = self.last.get(&says.host) == Some(&says.at);
        is_last && (says.host == host || (says.left && self.spoken.contains(&says.host)))
    }
}

impl Exchange<'_> {
    /// Whether this host stores a fact again that the shared store has lost.
    pub(super) fn answers_for(&mut self, fact: &Fact, claim: &Claim, hosts: &KnownHosts) -> bool {
        let is_own = fact.host == self.host;
        match claim {
            Claim::Key(_) | Claim::Status(_) => true,
            // Nobody signs slots: they are of use to those who have the key.
            Claim::Slot(slot) => self.provider_of(slot.key_id).is_some(),
            Claim::Provider(signed) => {
                self.vouches(claim) || (is_own && self.is_closed(signed.key_id))
            }
            Claim::Successor(signed) => {
                self.vouches(claim) || (is_own && self.is_closed(signed.key_id))
            }
            Claim::Host(says) => is_own && hosts.counts(says, self.host),
            Claim::Placement(_) | Claim::Event(_) | Claim::Report(_) => false,
        }
    }

    /// Whether this is the key of a provider of this host that does not open now, so that nobody can say what it has
    /// signed.
    fn is_closed(&mut self, key_id: KeyId) -> bool {
        self.provider_of(key_id).is_some() && self.unlocker.kek(key_id, default_deadline()).is_err()
    }
}
