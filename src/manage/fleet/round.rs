//! One exchange of this host, and what follows from it: announced provider keys are opened, signed successors are
//! followed, and from time to time the host says how it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::mem;

use serde::Serialize;

use super::announced::Announced;
use super::connection::{FleetCommandError, connect, member};
use super::exchange::{ClosedKey, Exchange, Exchanged};
use super::guests::HostGuests;
use super::opening::{Failures, OpenedKey, Wanted, open_announced};
use super::report::report;
use super::status::hosts;
use super::tell;
use crate::clock::Timestamp;
use crate::config::{Config, FleetStates, StoreAddress};
use crate::fleet::claim::{Claim, HostClaim, Signed, SuccessorClaim};
use crate::fleet::{Client, Kind, Search};
use crate::key::id::KeyId;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::manage::guests::ListedGuest;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::providers::ProvidersLock;
use crate::manage::sync::exclusive;
use crate::messages::quoted;
use crate::store::{Access, KnownFact, Membership, Store};
use crate::verdict::facts::Provider;

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
    /// Why announced keys, or those of this host's providers, do not open here.
    pub(crate) trouble: Vec<String>,
}

/// With what the program was started.
type Started = (StoreAddress, BTreeMap<String, String>);

/// What is remembered between the exchanges of one process.
#[derive(Default)]
pub(crate) struct Follower {
    /// The program, and the address and the files of credentials with which it was started.
    client: Option<(Started, Client)>,
    /// Whether the next exchange of another process is to say how this host is.
    leaves_reports: bool,
    /// Which keys it has said that it opens, and when.
    reported: Option<(BTreeSet<KeyId>, Timestamp)>,
    /// The announced keys that did not open.
    failures: Failures,
    /// The keys of this host's providers that did not open the last time: that is said once.
    closed: BTreeSet<KeyId>,
}

impl Follower {
    /// Of a rotation: it waits for the reports of other hosts, and nobody for one of this host's. A report looks at every guest,
    /// which takes longer than to re-wrap its key.
    pub(super) fn of_rotation() -> Self {
        Self {
            leaves_reports: true,
            ..Self::default()
        }
    }
}

/// Exchanges facts, if this host is in a fleet. With `compare` everything is compared.
pub(crate) fn round(
    host: &Host,
    follower: &mut Follower,
    compare: bool,
) -> Result<Option<FleetRound>, FleetCommandError> {
    if host.config()?.fleet.store.is_none() {
        return Ok(None);
    }
    match round_of_member(host, follower, compare) {
        Err(error) if error.is_of_no_fleet() => Ok(None),
        done => done.map(Some),
    }
}

/// Exchanges facts. A host that is in no fleet is an error, which says what is missing.
pub(crate) fn round_of_member(
    host: &Host,
    follower: &mut Follower,
    compare: bool,
) -> Result<FleetRound, FleetCommandError> {
    let config = host.config()?;
    // Of a host that is in no fleet libvirt is asked nothing.
    drop(member(host, Access::Read)?);
    let address = config.fleet.store.clone();
    let address = address.ok_or(FleetCommandError::NoAddress)?;
    let wanted = (address, config.fleet.credentials.clone());
    // Of thousands of guests this takes libvirt many seconds, which no other exchange and no rotation need wait for.
    let listed = host.listed_guests().ok();
    // Of two exchanges at once one would move the cursor over what the other is about to ask for.
    let exclusive = exclusive(host, None)?;
    // Only now: while it waited, this host may have left, and joined as another one.
    let (mut store, member) = member(host, Access::Write)?;
    let mut client = match follower.client.take() {
        Some((same, client)) if same == wanted => client,
        _ => connect(&config)?,
    };
    let work = Work {
        host,
        config: &config,
        member,
        listed: listed.as_deref(),
        now: Timestamp::now(),
        store: &mut store,
        client: &mut client,
        keks: UnsealedKeks::default(),
        closed: BTreeMap::new(),
    };
    let done = work.run(follower, compare, exclusive)?;
    // After an error nobody knows what the program will say next: it is started anew.
    follower.client = Some((wanted, client));
    Ok(done)
}

struct Work<'a> {
    host: &'a Host,
    config: &'a Config,
    member: Membership,
    listed: Option<&'a [ListedGuest]>,
    now: Timestamp,
    store: &'a mut Store,
    client: &'a mut Client,
    /// The provider keys that open here: each is unsealed once for all that is done.
    keks: UnsealedKeks,
    /// Those of this host's providers that do not.
    closed: BTreeMap<KeyId, ClosedKey>,
}

impl Work<'_> {
    fn run(
        mut self,
        follower: &mut Follower,
        compare: bool,
        exclusive: File,
    ) -> Result<FleetRound, FleetCommandError> {
        let mut round = FleetRound {
            exchanged: self.exchange(compare)?,
            ..FleetRound::default()
        };
        let announced = Announced::read(self.store)?;
        let found = open_announced(
            self.host,
            self.config,
            self.store,
            &announced,
            Wanted::All,
            &mut follower.failures,
            &mut self.unlocker(),
        )?;
        (round.opened, round.trouble) = (found.keys, found.trouble);
        if !round.opened.is_empty() {
            // That they did not open was remembered, too.
            self.keks = UnsealedKeks::default();
        }
        round.followed = self.follow_successors(&announced, &mut round.trouble)?;
        self.finish_rotations(&announced)?;
        if !round.opened.is_empty() || !round.followed.is_empty() {
            // With another key more is to be heard, and more to be said.
            let again = self.exchange(false)?;
            round.exchanged.add(again);
        }
        round.trouble.extend(self.newly_closed(follower));
        self.say_that_it_is_there()?;
        // A report looks at every guest, which no other exchange and no rotation need wait for.
        drop(exclusive);
        self.say_how_it_is(follower)?;
        Ok(round)
    }

    fn unlocker(&self) -> Unlocker {
        Unlocker::sharing(self.host.keyring(), self.keks.clone())
    }

    fn exchange(&mut self, compare: bool) -> Result<Exchanged, FleetCommandError> {
        let mut unlocker = self.unlocker();
        let mut guests = HostGuests::of(&self.config.libvirt, self.listed);
        let (store, shared) = (&mut *self.store, &mut *self.client);
        let mut exchange = Exchange::new(store, &mut unlocker, &mut guests, shared, self.now)?;
        if self.config.fleet.states == FleetStates::Off {
            exchange = exchange.without_states();
        }
        let done = exchange.run(compare)?;
        self.closed = exchange.into_closed();
        Ok(done)
    }

    /// What is said of keys of this host's providers that do not open, but for those of which the last round said it.
    fn newly_closed(&self, follower: &mut Follower) -> Vec<String> {
        let said = mem::replace(&mut follower.closed, self.closed.keys().copied().collect());
        let new = self.closed.iter().filter(|(id, _)| !said.contains(id));
        new.map(|(_, ClosedKey { provider, why })| {
            let provider = quoted(provider);
            format!("the key of provider {provider} does not open, and what the fleet says of its guests waits: {why}")
        })
        .collect()
    }

    /// Gives providers of this host the keys that follow theirs, if the key before signed that, and they open here.
    /// Why one cannot follow now is `trouble`: the next exchange tries again.
    fn follow_successors(
        &mut self,
        announced: &Announced,
        trouble: &mut Vec<String>,
    ) -> Result<Vec<String>, HostError> {
        if announced.successors.is_empty() {
            return Ok(Vec::new());
        }
        let mut unlocker = self.unlocker();
        let mut followed = Vec::new();
        // Of a host that was away for two rotations the second follows the first.
        while let Some(name) = self.follow_one(announced, &mut unlocker, trouble)? {
            if !followed.contains(&name) {
                followed.push(name);
            }
        }
        Ok(followed)
    }

    fn follow_one(
        &mut self,
        announced: &Announced,
        unlocker: &mut Unlocker,
        trouble: &mut Vec<String>,
    ) -> Result<Option<String>, HostError> {
        let Some((provider, ..)) = self.successor(announced, unlocker)? else {
            return Ok(None);
        };
        let _exclusive = match ProvidersLock::acquire(self.host) {
            Ok(exclusive) => exclusive,
            Err(why) => {
                let name = quoted(&provider.name);
                trouble.push(format!(
                    "provider {name} does not follow another host's rotation yet: {why}"
                ));
                return Ok(None);
            }
        };
        // As they are now: another command may have come before.
        let Some((provider, new, version)) = self.successor(announced, unlocker)? else {
            return Ok(None);
        };
        tracing::info!(provider = provider.name, key = %new.key_id, "its key follows");
        self.store.set_deadline(default_deadline())?;
        self.store.promote_key(&provider, &new, version, self.now)?;
        Ok(Some(provider.name))
    }

    /// A provider that is to have another key, that key as it was announced, and its version.
    fn successor(
        &self,
        announced: &Announced,
        unlocker: &mut Unlocker,
    ) -> Result<Option<(Provider, Provider, i64)>, HostError> {
        let providers = self.store.providers()?;
        for provider in providers.iter().filter(|it| it.previous_key_of().is_none()) {
            let Ok(kek) = unlocker.kek(provider.key_id, default_deadline()) else {
                continue;
            };
            let next = announced
                .after(&kek)
                .filter(|says| says.finished)
                .max_by_key(|says| (says.key_version, says.new));
            let Some(says) = next else {
                continue;
            };
            let is_new = |it: &&Provider| it.key_id == says.new && it.announced_as().is_some();
            let Some(new) = providers.iter().find(is_new) else {
                continue;
            };
            // What does not open wraps nothing.
            if unlocker.kek(says.new, default_deadline()).is_ok() {
                return Ok(Some((provider.clone(), new.clone(), says.key_version)));
            }
        }
        Ok(None)
    }

    /// Says that a rotation is finished that ended before it could: others wait for it.
    fn finish_rotations(&mut self, announced: &Announced) -> Result<(), FleetCommandError> {
        let mut unlocker = self.unlocker();
        let providers = self.store.providers()?.into_iter();
        let current = providers.filter(|it| it.previous_key_of().is_none());
        let current: BTreeSet<KeyId> = current.map(|it| it.key_id).collect();
        for signed in &announced.successors {
            let says = &signed.says;
            if !current.contains(&says.new) {
                continue;
            }
            let Ok(kek) = unlocker.kek(says.old, default_deadline()) else {
                continue;
            };
            // As that key has signed it: anybody could say that the others need not wait any more, and nobody would.
            let mut said = announced.after(&kek);
            let is_said = said.any(|it| it.finished && it.new == says.new);
            if signed.check(&kek).is_ok() && !is_said {
                let finished = SuccessorClaim {
                    finished: true,
                    ..says.clone()
                };
                self.say(Claim::Successor(Signed::new(finished, &kek)))?;
            }
        }
        Ok(())
    }

    /// A host that was not announced, or has another name, or was taken for lost, is there all the same.
    fn say_that_it_is_there(&mut self) -> Result<(), FleetCommandError> {
        let Membership { host, name, .. } = &self.member;
        if hosts(self.store)?.get(host) == Some(name) {
            return Ok(());
        }
        self.say(Claim::Host(HostClaim::new(*host, name, self.now, false)))
    }

    fn say_how_it_is(&mut self, follower: &mut Follower) -> Result<(), FleetCommandError> {
        if follower.leaves_reports {
            return Ok(());
        }
        let keks: BTreeSet<KeyId> = self.store.providers()?.iter().map(|it| it.key_id).collect();
        if follower.reported.is_none() {
            follower.reported = self.reported()?;
        }
        let is_known = follower
            .reported
            .as_ref()
            .is_some_and(|(said, at)| *said == keks && !at.is_due(REPORT_EVERY, self.now));
        if is_known {
            return Ok(());
        }
        let (member, listed) = (&self.member, self.listed);
        self.say(report(
            self.host, self.store, member, listed, &self.keks, self.now,
        )?)?;
        follower.reported = Some((keks, self.now));
        Ok(())
    }

    /// What this host said last of itself, perhaps in another process, as far as nobody else can have said it.
    fn reported(&mut self) -> Result<Option<(BTreeSet<KeyId>, Timestamp)>, FleetCommandError> {
        let last = Search {
            kinds: vec![Kind::Report],
            domain: None,
            host: Some(self.member.host),
            since: None,
            until: None,
            limit: 1,
        };
        let found = self.client.search(&last, default_deadline())?.facts;
        let said = found.first().and_then(|fact| match Claim::read(fact) {
            Ok(Claim::Report(said)) if said.host == self.member.host => Some(said),
            _ => None,
        });
        // One of a clock that was ahead says nothing of now.
        let Some(said) = said.filter(|said| said.at <= self.now.0) else {
            return Ok(None);
        };
        let mut unlocker = self.unlocker();
        let keks = said.keks.iter().filter_map(|text| KeyId::parse(text));
        let keks = keks.filter(|key_id| {
            let kek = unlocker.kek(*key_id, default_deadline());
            kek.is_ok_and(|kek| said.proves(&kek))
        });
        Ok(Some((keks.collect(), Timestamp(said.at))))
    }

    /// Tells the fleet, and remembers what it was told.
    fn say(&mut self, claim: Claim) -> Result<(), FleetCommandError> {
        let said = [KnownFact::said(claim, self.member.host, self.now)];
        tell::push(self.client, &said)?;
        // What was done before may have taken longer than the store was to be waited for.
        self.store.set_deadline(default_deadline())?;
        Ok(self.store.mark_sent(&said, &[])?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::clock::Deadline;
    use crate::manage::tests::fixture::Fixture;
    use crate::manage::tests::fleet_shared::SharedStore;
    use crate::manage::tests::meanwhile::once_listed;

    /// With thousands of guests nobody else could exchange anything, and no provider be rotated, for as long as libvirt takes
    /// to list them.
    #[test]
    fn libvirt_lists_its_guests_before_others_have_to_wait() {
        let shared = SharedStore::new();
        let one = shared.host("one");
        let another = exclusive(&one.host, None).unwrap();
        let lets_go = once_listed(&one, move || drop(another));
        round(&one.host, &mut Follower::default(), false).unwrap();
        lets_go.join().unwrap();
    }

    /// Else an exchange that waited would say that the host which has left is there.
    #[test]
    fn it_speaks_as_who_this_host_is_when_others_have_ended() {
        let shared = SharedStore::new();
        let one = shared.host("one");
        let another = exclusive(&one.host, None).unwrap();
        let root = one.root().to_owned();
        let joins_again = once_listed(&one, move || {
            let mut store = Fixture::at(&root).store();
            store.leave_fleet().unwrap();
            let uuid = store.join_fleet("two", Timestamp::now()).unwrap();
            drop(another);
            uuid
        });
        round(&one.host, &mut Follower::default(), false).unwrap();
        let uuid = joins_again.join().unwrap();
        let claims = shared.claims(Kind::Host);
        let [Claim::Host(said)] = &claims[..] else {
            panic!("{claims:?}");
        };
        assert_eq!((said.host, &*said.name), (uuid, "two"));
    }

    /// After a report that took longer than the store's deadline, a lock of a moment was one for too long.
    #[test]
    fn what_took_long_leaves_the_store_its_time() {
        let shared = SharedStore::new();
        let one = shared.host("one");
        let config = one.host.config().unwrap();
        let (mut store, member) = member(&one.host, Access::Write).unwrap();
        store.set_deadline(Deadline::after(Duration::ZERO)).unwrap();
        let mut work = Work {
            host: &one.host,
            config: &config,
            member,
            listed: None,
            now: Timestamp::now(),
            store: &mut store,
            client: &mut connect(&config).unwrap(),
            keks: UnsealedKeks::default(),
            closed: BTreeMap::new(),
        };
        let other = rusqlite::Connection::open(one.host.state_dir().join("store.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let lets_go = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            other.execute_batch("COMMIT").unwrap();
        });
        work.say_that_it_is_there().unwrap();
        lets_go.join().unwrap();
        assert_eq!(shared.claims(Kind::Host).len(), 1);
    }
}
