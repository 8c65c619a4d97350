//! One exchange of this host, and what follows from it: announced provider keys are opened, signed successors are
//! followed, and from time to time the host says how it is.

use std::collections::BTreeSet;

use serde::Serialize;

use super::announced::{Announced, OpenedKey, open_all};
use super::connection::{FleetCommandError, connect};
use super::exchange::{Exchange, Exchanged};
use super::guests::HostGuests;
use super::report::report;
use super::status::hosts;
use crate::clock::{Deadline, Timestamp};
use crate::config::{Config, StoreAddress};
use crate::fleet::Client;
use crate::fleet::claim::{Claim, HostClaim, Signed, SuccessorClaim};
use crate::fleet::shared::SharedStore;
use crate::key::id::KeyId;
use crate::keyring::unlock::Unlocker;
use crate::manage::guests::ListedGuest;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::providers::ProvidersLock;
use crate::manage::sync::exclusive;
use crate::store::{Access, KnownFact, Membership, Store, previous_key_name};

/// How often a host says how it is, in milliseconds.
const REPORT_EVERY: i64 = 15 * 60 * 1000;

/// What one exchange did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct FleetRound {
    #[serde(flatten)]
    pub(crate) exchanged: Exchanged,
    /// Announced provider keys that were opened.
    pub(crate) opened: Vec<OpenedKey>,
    /// Providers that have a new key, by name.
    pub(crate) followed: Vec<String>,
    /// Why announced keys do not open here.
    pub(crate) trouble: Vec<String>,
}

/// What is remembered between the exchanges of one process.
#[derive(Default)]
pub(crate) struct Follower {
    /// The program, and the address that it speaks with.
    client: Option<(StoreAddress, Client)>,
    /// Which keys it has said that it opens, and when.
    reported: Option<(BTreeSet<KeyId>, Timestamp)>,
    /// When announced keys were last tried that did not open.
    tried: Option<Timestamp>,
}

/// Exchanges facts, if this host is in a fleet. With `compare` everything is compared.
pub(crate) fn round(
    host: &Host,
    follower: &mut Follower,
    compare: bool,
) -> Result<Option<FleetRound>, FleetCommandError> {
    let config = host.config()?;
    let Some(address) = config.fleet.store.clone() else {
        return Ok(None);
    };
    let Some(mut store) = host.store(Access::Write)? else {
        return Ok(None);
    };
    let Some(member) = store.membership()? else {
        return Ok(None);
    };
    // Of two exchanges at once one would move the cursor over what the other is about to ask for.
    let _exclusive = exclusive(host, None)?;
    let mut client = match follower.client.take() {
        Some((same, client)) if same == address => client,
        _ => connect(host, &config)?,
    };
    let listed = host.listed_guests().ok();
    let work = Work {
        host,
        config: &config,
        member,
        listed: listed.as_deref(),
        now: Timestamp::now(),
    };
    let done = work.run(&mut store, &mut client, follower, compare)?;
    // After an error nobody knows what the program will say next: it is started anew.
    follower.client = Some((address, client));
    Ok(Some(done))
}

struct Work<'a> {
    host: &'a Host,
    config: &'a Config,
    member: Membership,
    listed: Option<&'a [ListedGuest]>,
    now: Timestamp,
}

impl Work<'_> {
    fn run(
        &self,
        store: &mut Store,
        client: &mut Client,
        follower: &mut Follower,
        compare: bool,
    ) -> Result<FleetRound, FleetCommandError> {
        let mut round = FleetRound {
            exchanged: self.exchange(store, client, compare)?,
            ..FleetRound::default()
        };
        let is_due = |at: Timestamp| self.now.0.saturating_sub(at.0) >= REPORT_EVERY;
        if follower.tried.is_none_or(is_due) || round.exchanged.pulled > 0 {
            let (opened, trouble) = open_all(self.host, self.config, store)?;
            follower.tried = (!trouble.is_empty()).then_some(self.now);
            (round.opened, round.trouble) = (opened, trouble);
        }
        round.followed = self.follow_successors(store)?;
        self.finish_rotations(store, client)?;
        if !round.opened.is_empty() || !round.followed.is_empty() {
            // With another key more is to be heard, and more to be said.
            let again = self.exchange(store, client, false)?;
            round.exchanged.add(again);
        }
        self.say_that_it_is_there(store, client)?;
        self.say_how_it_is(store, client, follower)?;
        Ok(round)
    }

    fn exchange(
        &self,
        store: &mut Store,
        client: &mut Client,
        compare: bool,
    ) -> Result<Exchanged, FleetCommandError> {
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let mut guests = HostGuests::of(self.host, self.listed);
        let mut exchange = Exchange::new(store, &mut unlocker, &mut guests, client, self.now)?;
        Ok(exchange.run(compare)?)
    }

    /// Gives providers of this host the keys that follow theirs, if the key before signed that, and they open here.
    fn follow_successors(&self, store: &mut Store) -> Result<Vec<String>, HostError> {
        let announced = Announced::read(store)?;
        if announced.successors.is_empty() {
            return Ok(Vec::new());
        }
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let mut followed = Vec::new();
        // Of a host that was away for two rotations the second follows the first.
        while let Some(name) = self.follow_one(store, &announced, &mut unlocker)? {
            if !followed.contains(&name) {
                followed.push(name);
            }
        }
        Ok(followed)
    }

    fn follow_one(
        &self,
        store: &mut Store,
        announced: &Announced,
        unlocker: &mut Unlocker,
    ) -> Result<Option<String>, HostError> {
        let providers = store.providers()?;
        for provider in providers.iter().filter(|it| it.previous_key_of().is_none()) {
            let Ok(kek) = unlocker.kek(provider.key_id, default_deadline()) else {
                continue;
            };
            let next = announced
                .successors
                .iter()
                .filter_map(|signed| signed.check(&kek).ok())
                .filter(|says| says.old == provider.key_id && says.finished)
                .max_by_key(|says| (says.key_version, says.new));
            let Some(says) = next else {
                continue;
            };
            let own_name = previous_key_name(&provider.name, says.new);
            let is_new = |it: &&crate::verdict::facts::Provider| {
                it.key_id == says.new && it.previous_key_of().is_some()
            };
            let Some(new) = providers.iter().find(is_new) else {
                continue;
            };
            // What does not open wraps nothing.
            if unlocker.kek(says.new, default_deadline()).is_err() {
                continue;
            }
            let Ok(_exclusive) = ProvidersLock::acquire(self.host) else {
                continue;
            };
            tracing::info!(provider = provider.name, key = own_name, "its key follows");
            store.set_deadline(default_deadline())?;
            store.promote_key(provider, new, says.key_version, self.now)?;
            return Ok(Some(provider.name.clone()));
        }
        Ok(None)
    }

    /// Says that a rotation is finished that ended before it could: others wait for it.
    fn finish_rotations(
        &self,
        store: &mut Store,
        client: &mut Client,
    ) -> Result<(), FleetCommandError> {
        let announced = Announced::read(store)?;
        let mut unlocker = Unlocker::new(&self.host.keyring());
        for provider in store.providers()? {
            for signed in &announced.successors {
                let says = &signed.says;
                let is_said = |it: &Signed<SuccessorClaim>| {
                    it.says.finished && (it.says.old, it.says.new) == (says.old, says.new)
                };
                let is_due = provider.previous_key_of().is_none()
                    && provider.key_id == says.new
                    && !announced.successors.iter().any(is_said);
                let kek = is_due.then(|| unlocker.kek(says.old, default_deadline()).ok());
                let Some(kek) = kek.flatten().filter(|kek| signed.check(kek).is_ok()) else {
                    continue;
                };
                let finished = SuccessorClaim {
                    finished: true,
                    ..says.clone()
                };
                let claim = Claim::Successor(Signed::new(finished, &kek));
                let fact = claim.write(self.member.host, self.now);
                let facts = [fact.clone()];
                SharedStore::push(
                    client,
                    &facts,
                    &[],
                    Deadline::after(super::exchange::QUESTION),
                )?;
                store.mark_sent(&[KnownFact { fact, claim }], &[])?;
            }
        }
        Ok(())
    }

    /// A host that was not announced, or was taken for lost, is there all the same.
    fn say_that_it_is_there(
        &self,
        store: &mut Store,
        client: &mut Client,
    ) -> Result<(), FleetCommandError> {
        if hosts(store)?.contains_key(&self.member.host) {
            return Ok(());
        }
        let claim = Claim::Host(HostClaim {
            host: self.member.host,
            name: self.member.name.clone(),
            at: self.now.0,
            left: false,
        });
        let fact = claim.write(self.member.host, self.now);
        let facts = [fact.clone()];
        SharedStore::push(
            client,
            &facts,
            &[],
            Deadline::after(super::exchange::QUESTION),
        )?;
        Ok(store.mark_sent(&[KnownFact { fact, claim }], &[])?)
    }

    fn say_how_it_is(
        &self,
        store: &Store,
        client: &mut Client,
        follower: &mut Follower,
    ) -> Result<(), FleetCommandError> {
        let keks: BTreeSet<KeyId> = store.providers()?.iter().map(|it| it.key_id).collect();
        let is_known = follower.reported.as_ref().is_some_and(|(said, at)| {
            *said == keks && self.now.0.saturating_sub(at.0) < REPORT_EVERY
        });
        if is_known {
            return Ok(());
        }
        let said: Claim = report(self.host, store, &self.member, self.listed, self.now)?;
        let fact = said.write(self.member.host, self.now);
        SharedStore::push(
            client,
            &[fact],
            &[],
            Deadline::after(super::exchange::QUESTION),
        )?;
        follower.reported = Some((keks, self.now));
        Ok(())
    }
}
