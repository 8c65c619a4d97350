//! One exchange of facts with the shared store: push what the outbox says, pull what others said, and from time to
//! time compare everything both ways.
//!
//! Nothing that the shared store says is believed before it proves itself: see `believe`. An exchange that ends
//! anywhere is continued by the next one, and what was done twice is done once.

mod answers;
mod believe;
mod compare;
mod learn;
mod pull;
mod push;
mod rows;
mod scope;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

pub(super) use self::believe::is_of_the_future;
use crate::clock::Timestamp;
use crate::fleet::shared::SharedStore;
use crate::fleet::{FactId, FleetError, Kind};
use crate::ids::{DomainUuid, HostUuid};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::keyring::unlock::Unlocker;
use crate::manage::fleet::tell;
use crate::manage::host::default_deadline;
use crate::store::{KnownFact, Membership, Store, StoreError};
use crate::verdict::facts::Provider;

/// How long after a comparison of everything the next one is due, in milliseconds: a day.
const COMPARED_EVERY: i64 = 24 * 60 * 60 * 1000;

/// The kinds that concern every host.
const ALWAYS: &[Kind] = &[Kind::Provider, Kind::Slot, Kind::Successor, Kind::Host];

/// The kinds that concern hosts that hold the KEK, or define the guest.
const SCOPED: &[Kind] = &[Kind::Key, Kind::Status, Kind::Placement];

/// The kinds that are compared: placements are old news soon.
const COMPARED: &[Kind] = &[Kind::Key, Kind::Status];

/// Why facts were not exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The shared store.
    #[error(transparent)]
    Shared(#[from] FleetError),
    /// The store of this host.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This host is in no fleet.
    #[error("this host is in no fleet")]
    NoMember,
    /// There are more facts than any fleet has.
    #[error("the shared store has more facts than one exchange takes")]
    Endless,
}

/// What is known of the guests of this host.
pub(crate) trait Guests {
    /// Whether libvirt has said which guests are defined here.
    fn are_known(&self) -> bool;

    /// The guests that are defined here, as far as that is known.
    fn defined(&self) -> Vec<DomainUuid>;

    /// Whether this guest is among them. It is asked for each key: a host may have ten thousand guests.
    fn is_defined(&self, guest: DomainUuid) -> bool;

    /// Whether this guest is defined here, its TPM state is here, and this key opens it. `None` where that cannot be
    /// read at the moment.
    fn opens_state(&mut self, guest: DomainUuid, dek: &Dek) -> Option<bool>;
}

/// What is exchanged, and with what.
pub(crate) struct Exchange<'a> {
    store: &'a mut Store,
    unlocker: &'a mut Unlocker,
    guests: &'a mut dyn Guests,
    shared: &'a mut dyn SharedStore,
    /// Who this host is.
    host: HostUuid,
    /// What it is called.
    host_name: String,
    now: Timestamp,
    /// The providers of this host.
    providers: Vec<Provider>,
    /// Of these the keys that do not open.
    closed: BTreeMap<KeyId, ClosedKey>,
    /// The last fact that was stored, of those that stay.
    witness: Option<FactId>,
    /// Whether TPM states that wait are sent.
    sends_states: bool,
}

/// A provider key of this host that does not open here, so that what the fleet says of its guests waits.
pub(crate) struct ClosedKey {
    /// The provider's name.
    pub(crate) provider: String,
    pub(crate) why: String,
}

/// What an exchange did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Exchanged {
    /// Facts that were pushed.
    pub(crate) pushed: usize,
    /// TPM states that were pushed.
    pub(crate) states: usize,
    /// Facts that were pulled and believed.
    pub(crate) pulled: usize,
    /// Facts that were pulled and not believed.
    pub(crate) rejected: usize,
    /// Key references that were added.
    pub(crate) added: usize,
    /// Key references that were changed.
    pub(crate) changed: usize,
    /// Whether everything was compared.
    pub(crate) compared: bool,
}

impl Exchanged {
    /// Whether anything was told or learnt.
    pub(crate) fn did_something(&self) -> bool {
        let Self {
            pushed,
            states,
            pulled,
            rejected,
            added,
            changed,
            compared: _,
        } = self;
        pushed + states + pulled + rejected + added + changed > 0
    }

    /// Adds what a second exchange did.
    pub(super) fn add(&mut self, other: Self) {
        self.pushed += other.pushed;
        self.states += other.states;
        self.pulled += other.pulled;
        self.rejected += other.rejected;
        self.added += other.added;
        self.changed += other.changed;
        self.compared |= other.compared;
    }
}

impl<'a> Exchange<'a> {
    /// Prepares an exchange of this host.
    pub(crate) fn new(
        store: &'a mut Store,
        unlocker: &'a mut Unlocker,
        guests: &'a mut dyn Guests,
        shared: &'a mut dyn SharedStore,
        now: Timestamp,
    ) -> Result<Self, ExchangeError> {
        let member = store.membership()?.ok_or(ExchangeError::NoMember)?;
        Ok(Self {
            providers: store.providers()?,
            store,
            unlocker,
            guests,
            shared,
            host: member.host,
            host_name: member.name,
            now,
            closed: BTreeMap::new(),
            witness: None,
            sends_states: true,
        })
    }

    /// TPM states stay here, also those that wait since before.
    pub(crate) fn without_states(mut self) -> Self {
        self.sends_states = false;
        self
    }

    /// Exchanges facts. With `compare` everything is compared, even if that is not due.
    pub(crate) fn run(&mut self, compare: bool) -> Result<Exchanged, ExchangeError> {
        let mut done = Exchanged::default();
        let status = self.shared.status(default_deadline())?;
        let member = self.membership()?;
        let database = (status.system, status.epoch);
        let is_other = member.database != database || self.was_restored(&member)?;
        if is_other {
            // First: what was said again twice is said once.
            self.say_again()?;
            self.store.set_fleet_database(&database)?;
        }
        let member = self.membership()?;
        let is_due = member
            .compared_at
            .is_none_or(|at| at.is_due(COMPARED_EVERY, self.now));
        self.settle(&mut done)?;
        if member.compared_at.is_none() && self.store.count_facts(Kind::Key)? > 0 {
            // The keys that it lacks before where their guests are: nobody believes that of a guest without a key.
            self.compare(&mut done)?;
        }
        self.push(&mut done)?;
        self.pull(&mut done)?;
        if compare || is_other || is_due {
            // Other tools note nothing. What the fleet knows as it is gives no facts.
            self.store.announce_rows()?;
            self.push(&mut done)?;
            self.compare(&mut done)?;
            done.compared = true;
        }
        // What was learnt may have to be answered.
        self.push(&mut done)?;
        self.store.set_deadline(default_deadline())?;
        let witness = self.witness;
        self.store.mark_synced(done.compared, witness, self.now)?;
        Ok(done)
    }

    /// The provider keys of this host that did not open.
    pub(crate) fn into_closed(self) -> BTreeMap<KeyId, ClosedKey> {
        self.closed
    }

    /// Whether the shared store has lost what this host has stored there, though it calls itself the same: then it was
    /// restored from a backup.
    fn was_restored(&mut self, member: &Membership) -> Result<bool, ExchangeError> {
        let Some(witness) = member.witness else {
            return Ok(false);
        };
        let found = self.shared.fetch(&[witness], default_deadline())?;
        Ok(!found.iter().any(|fact| fact.id == witness))
    }

    /// Stores facts in the shared store.
    fn tell(&mut self, facts: &[KnownFact]) -> Result<(), ExchangeError> {
        tell::push(self.shared, facts)?;
        // History is removed from there in time, and of what concerns everybody too much is left out.
        let mut lasting = facts.iter().filter(|it| SCOPED.contains(&it.fact.kind));
        if let Some(last) = lasting.next_back() {
            self.witness = Some(last.fact.id);
        }
        Ok(())
    }

    fn membership(&self) -> Result<Membership, ExchangeError> {
        self.store.membership()?.ok_or(ExchangeError::NoMember)
    }
}
