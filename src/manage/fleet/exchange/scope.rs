//! Which facts concern this host: those about provider keys that open here, and about guests that are defined here.

use std::collections::BTreeSet;

use super::{ClosedKey, Exchange, ExchangeError, Exchanged, SCOPED};
use crate::fleet::{Fact, Kind, Scope};
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::manage::host::default_deadline;

/// Provider keys and guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Concern {
    pub(super) keys: BTreeSet<KeyId>,
    pub(super) guests: BTreeSet<DomainUuid>,
}

const KEY: &str = "key";
const GUEST: &str = "guest";

impl Concern {
    /// As the store keeps it.
    fn stored(&self) -> BTreeSet<(String, String)> {
        let keys = self.keys.iter().map(|id| (KEY.to_owned(), id.to_string()));
        let guests = self
            .guests
            .iter()
            .map(|id| (GUEST.to_owned(), id.to_string()));
        keys.chain(guests).collect()
    }

    fn from_stored(stored: &BTreeSet<(String, String)>) -> Self {
        let of = |wanted: &'static str| {
            let all = stored.iter();
            all.filter_map(move |(kind, value)| (kind == wanted).then_some(value))
        };
        Self {
            keys: of(KEY).filter_map(|text| KeyId::parse(text)).collect(),
            guests: of(GUEST)
                .filter_map(|text| DomainUuid::parse(text).ok())
                .collect(),
        }
    }

    /// What of this is not in the other.
    fn without(&self, other: &Self) -> Self {
        Self {
            keys: &self.keys - &other.keys,
            guests: &self.guests - &other.guests,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.guests.is_empty()
    }

    /// As a question, with these kinds that concern everybody.
    pub(super) fn scope(&self, always: &[Kind], scoped: &[Kind]) -> Scope {
        Scope {
            always: always.to_vec(),
            scoped: scoped.to_vec(),
            key_ids: self.keys.iter().copied().collect(),
            domains: self.guests.iter().copied().collect(),
        }
    }

    /// Whether a fact of a kind that does not concern everybody concerns this host.
    pub(super) fn has(&self, fact: &Fact) -> bool {
        fact.key_id.is_some_and(|id| self.keys.contains(&id))
            || fact.domain.is_some_and(|id| self.guests.contains(&id))
    }
}

impl Exchange<'_> {
    /// What concerns this host now.
    pub(super) fn concern(&mut self) -> Result<Concern, ExchangeError> {
        let mut concern = Concern {
            guests: self.guests.defined().into_iter().collect(),
            ..Concern::default()
        };
        if !self.guests.are_known() {
            concern.guests = Concern::from_stored(&self.store.fleet_scope()?).guests;
        }
        for provider in &self.providers {
            match self.unlocker.kek(provider.key_id, default_deadline()) {
                Ok(_) => {
                    concern.keys.insert(provider.key_id);
                }
                Err(why) => {
                    let closed = ClosedKey {
                        provider: provider.name.clone(),
                        why: why.to_string(),
                    };
                    self.closed.insert(provider.key_id, closed);
                }
            }
        }
        Ok(concern)
    }

    /// The same, after everything was pulled that was said before of what is new in it.
    pub(super) fn catch_up(&mut self, done: &mut Exchanged) -> Result<Concern, ExchangeError> {
        let now = self.concern()?;
        let before = self.store.fleet_scope()?;
        let is_first = self.membership()?.cursor.is_empty();
        let new = now.without(&Concern::from_stored(&before));
        if !new.is_empty() && !is_first {
            let scope = new.scope(&[], SCOPED);
            self.pull_all(&scope, None, done)?;
        }
        if now.stored() != before {
            // Only now: a pull that ends early begins again.
            self.store.set_fleet_scope(&now.stored())?;
        }
        Ok(now)
    }
}
