//! `provider rotate` in a fleet: the next key is announced with its slots, signed by the present one; when every
//! host that uses the provider has opened it, the keys of guests are re-wrapped here, and the others hear of that.
//!
//! Before that nothing is wrapped with the next key; it is kept as one that only opens. A rotation that was
//! interrupted goes on with the key that it has announced.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::announced::{Announced, kept_name};
use super::connection::{FleetCommandError, connect, member};
use super::round::{Follower, round};
use super::status::{Hosts, find_host, hosts, newest_reports};
use super::tell;
use crate::clock::{Deadline, Timestamp};
use crate::config::Config;
use crate::fleet::claim::{Claim, Signed, SuccessorClaim};
use crate::ids::{HostUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::WeakerSeal;
use crate::keyring::unlock::Unlocker;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::providers::{ProviderRef, ProvidersLock, refuse_previous_key};
use crate::manage::slots::{SlotError, place, same_slots};
use crate::manage::sync::exclusive;
use crate::store::{Access, KnownFact, NewProvider, Store, StoreError};
use crate::verdict::facts::Provider;

/// How often the other hosts are looked at while they are waited for.
const LOOK_EVERY: Duration = if cfg!(test) {
    Duration::from_millis(1)
} else {
    Duration::from_secs(2)
};

/// Why a provider's key was not rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    /// The provider, its key, or a key manager.
    #[error(transparent)]
    Slot(SlotError),
    /// The shared store.
    #[error(transparent)]
    Fleet(FleetCommandError),
    /// It ended before all key references were re-wrapped.
    #[error("interrupted")]
    Interrupted(Box<InterruptedRotation>),
    /// Some of these hosts have not opened the next key.
    #[error("not all hosts have opened the next key")]
    HostsWait(ProviderRef, Vec<HostResult>),
}

impl<E: Into<SlotError>> From<E> for RotateError {
    fn from(error: E) -> Self {
        Self::Slot(error.into())
    }
}

/// A rotation that ended before all key references were re-wrapped. What was done stays done.
#[derive(Debug)]
pub(crate) struct InterruptedRotation {
    pub(crate) provider: ProviderRef,
    /// The new key that the provider has; `None` where an earlier rotation was being completed.
    pub(crate) new_key: Option<KeyId>,
    /// So many key references are done,
    pub(crate) done: usize,
    /// of so many.
    pub(crate) of: usize,
    /// Why it ended.
    pub(crate) error: SlotError,
}

impl RotateError {
    /// The same after the provider got the key that was announced.
    pub(crate) fn of_promoted(self, provider: &Provider, next: KeyId) -> Self {
        let rotation = match self {
            Self::Interrupted(rotation) => InterruptedRotation {
                new_key: Some(next),
                ..*rotation
            },
            Self::Slot(error) => InterruptedRotation {
                provider: provider.into(),
                new_key: Some(next),
                done: 0,
                of: 0,
                error,
            },
            other @ (Self::Fleet(_) | Self::HostsWait(..)) => return other,
        };
        Self::Interrupted(Box::new(rotation))
    }
}

/// Another host of the fleet, and whether it has the next key.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HostResult {
    pub(crate) host: HostUuid,
    pub(crate) name: String,
    pub(crate) result: HostState,
}

/// Whether a host has the next key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostState {
    /// It opens there.
    Opened,
    /// It does not open there yet, or the host has not said so.
    Waiting,
    /// It has not got the provider's present key either.
    NotConcerned,
    /// The administrator goes on without it.
    LeftOut,
}

/// Whom a rotation waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// Hosts that are not waited for, by name or UUID.
    pub(crate) without: &'a [String],
    /// How long the others are waited for; two intervals if `None`.
    pub(crate) wait: Option<Duration>,
}

/// Whether this host is in a fleet that has a shared store.
pub(crate) fn is_in_fleet(host: &Host) -> Result<bool, FleetCommandError> {
    if host.config()?.fleet.store.is_none() {
        return Ok(false);
    }
    let store = host.store(Access::Read)?;
    let member = store.map(|store| store.membership()).transpose()?;
    Ok(member.flatten().is_some())
}

/// Why a host is in no fleet.
pub(crate) fn not_in_fleet(host: &Host) -> FleetCommandError {
    match host.config() {
        Ok(config) if config.fleet.store.is_some() => FleetCommandError::NoMember,
        Ok(_) => FleetCommandError::NoAddress,
        Err(error) => error.into(),
    }
}

/// Announces the provider's next key, and waits until the other hosts have opened it. Then the provider has it, and
/// what its previous key wraps is to be re-wrapped. Returns that key, and the hosts. `waits` is told who is waited for.
pub(crate) fn change_key(
    host: &Host,
    text: &str,
    weaker: WeakerSeal,
    patience: Patience<'_>,
    waits: &mut dyn FnMut(&[HostResult]),
) -> Result<(KeyId, Vec<HostResult>), RotateError> {
    let config = host.config()?;
    let mut follower = Follower::of_rotation();
    round(host, &mut follower, false).map_err(RotateError::Fleet)?;
    // Once, before anything is announced: one that joins under such a name meanwhile is not meant.
    let left_out = left_out(host, patience.without).map_err(RotateError::Fleet)?;
    let (provider, next) = announce(host, &config, text, weaker)?;
    round(host, &mut follower, false).map_err(RotateError::Fleet)?;
    let patience_over = patience.wait.unwrap_or(config.fleet.interval * 2);
    let deadline = Deadline::after(patience_over);
    let next_kek = Unlocker::new(&host.keyring()).kek(next, default_deadline())?;
    let hosts = loop {
        let hosts = look(host, &config, &provider, &next_kek, &left_out);
        let hosts = hosts.map_err(RotateError::Fleet)?;
        let is_waiting = |it: &HostResult| it.result == HostState::Waiting;
        if !hosts.iter().any(is_waiting) {
            break hosts;
        }
        if deadline.has_passed() {
            return Err(RotateError::HostsWait((&provider).into(), hosts));
        }
        waits(&hosts);
        thread::sleep(LOOK_EVERY.min(deadline.remaining()));
    };
    finish(host, &config, provider.uuid, next)?;
    Ok((next, hosts))
}

/// Tells the others that the keys of guests were re-wrapped.
pub(crate) fn tell(host: &Host) -> Result<(), FleetCommandError> {
    round(host, &mut Follower::of_rotation(), false).map(drop)
}

/// Makes the next key and its slots, seals it, and announces it; or finds the one that was announced before.
fn announce(
    host: &Host,
    config: &Config,
    text: &str,
    weaker: WeakerSeal,
) -> Result<(Provider, KeyId), RotateError> {
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    refuse_previous_key(&store, &provider)?;
    let keyring = host.keyring();
    let mut unlocker = Unlocker::new(&keyring);
    let present = unlocker.kek(provider.key_id, default_deadline())?;
    if let Some(next) = announced_before(&store, &present)? {
        return Ok((provider, next));
    }
    let new = Kek::generate()?;
    let mut managers = host.key_managers(config);
    let slots = same_slots(&store, &mut managers, provider.key_id, &new)?;
    let place = place(config.kek_cache, &slots);
    keyring.store_only_in(place, &new, weaker, default_deadline())?;
    // What was sealed must open, before anybody hears of it.
    unlocker.kek(new.key_id(), default_deadline())?;
    let now = Timestamp::now();
    let row = NewProvider {
        uuid: ProviderUuid::random(),
        name: kept_name(&provider.name, new.key_id()),
        key_id: new.key_id(),
        key_version: provider.key_version + 1,
        is_default: false,
        exported_at: None,
    };
    store.set_deadline(default_deadline())?;
    store.create_provider(&row, &slots, now)?;
    let next = new.key_id();
    say(config, &mut store, &provider, &present, next, false)?;
    Ok((provider, next))
}

/// Whether the next key of this provider was announced and is here, and no host has finished the rotation.
pub(crate) fn is_begun(
    store: &Store,
    provider: &Provider,
    unlocker: &mut Unlocker,
) -> Result<bool, HostError> {
    if store.membership()?.is_none() {
        return Ok(false);
    }
    let Ok(present) = unlocker.kek(provider.key_id, default_deadline()) else {
        return Ok(false);
    };
    let Some(next) = announced_before(store, &present)? else {
        return Ok(false);
    };
    let announced = Announced::read(store)?;
    let mut said = announced.after(&present);
    Ok(!said.any(|says| says.new == next && says.finished))
}

/// The next key that was announced for the present one, and opens here.
fn announced_before(store: &Store, present: &Kek) -> Result<Option<KeyId>, HostError> {
    let announced = Announced::read(store)?;
    let providers = store.providers()?;
    let mut open = announced.after(present).filter(|says| !says.finished);
    // The key of another provider of this host follows nothing, whoever says so.
    let is_next = |it: &Provider, new| it.key_id == new && it.announced_as().is_some();
    let is_here = |says: &&SuccessorClaim| providers.iter().any(|it| is_next(it, says.new));
    Ok(open.find(is_here).map(|says| says.new))
}

/// Says, signed with the key before, which key follows.
fn say(
    config: &Config,
    store: &mut Store,
    provider: &Provider,
    present: &Kek,
    new: KeyId,
    finished: bool,
) -> Result<(), RotateError> {
    let no_member = || RotateError::Fleet(FleetCommandError::NoMember);
    let member = store.membership()?.ok_or_else(no_member)?;
    let says = SuccessorClaim {
        name: provider.name.clone(),
        old: present.key_id(),
        new,
        key_version: provider.key_version + 1,
        finished,
    };
    let claim = Claim::Successor(Signed::new(says, present));
    let said = [KnownFact::said(claim, member.host, Timestamp::now())];
    // Here first: what the shared store is not told now, it is told when everything is compared.
    store.mark_sent(&said, &[])?;
    let push = || Ok(tell::push(&mut connect(config)?, &said)?);
    push().map_err(RotateError::Fleet)
}

/// The hosts that are not waited for. Each text names one of them: a host that was installed again may be here twice under
/// its name, and the one that runs must not be left out with the one that is gone.
fn left_out(host: &Host, without: &[String]) -> Result<BTreeSet<HostUuid>, FleetCommandError> {
    let (store, own) = member(host, Access::Read)?;
    let mut others = hosts(&store)?;
    others.remove(&own.host);
    let this: Hosts = [(own.host, own.name)].into();
    let each = without.iter().map(|text| {
        // This host itself is never waited for: to name it changes nothing.
        find_host(&others, text).or_else(|error| match error {
            FleetCommandError::NoHost(_) => find_host(&this, text),
            other => Err(other),
        })
    });
    each.collect()
}

/// The other hosts, and whether they have the next key: that they prove with it.
fn look(
    host: &Host,
    config: &Config,
    provider: &Provider,
    next: &Kek,
    left_out: &BTreeSet<HostUuid>,
) -> Result<Vec<HostResult>, FleetCommandError> {
    let (store, own) = member(host, Access::Read)?;
    let known = hosts(&store)?;
    let reports = newest_reports(&mut connect(config)?, &known)?;
    let others = known.into_iter().filter(|(uuid, _)| *uuid != own.host);
    let result = |(uuid, name): (HostUuid, String)| {
        let said = reports.get(&uuid).map(Vec::as_slice).unwrap_or_default();
        let present = provider.key_id.to_string();
        let result = if left_out.contains(&uuid) {
            HostState::LeftOut
        } else {
            match said.first() {
                Some(_) if said.iter().any(|it| it.proves(next)) => HostState::Opened,
                Some(newest) if !newest.keks.contains(&present) => HostState::NotConcerned,
                _ => HostState::Waiting,
            }
        };
        HostResult {
            host: uuid,
            name,
            result,
        }
    };
    let mut hosts: Vec<_> = others.map(result).collect();
    hosts.sort_by(|one, other| (&one.name, one.host).cmp(&(&other.name, other.host)));
    Ok(hosts)
}

/// The provider has the next key from now on.
fn finish(
    host: &Host,
    config: &Config,
    provider: ProviderUuid,
    next: KeyId,
) -> Result<(), RotateError> {
    let mut store = host.store(Access::Write)?.ok_or(StoreError::Missing)?;
    // An exchange goes by the keys that providers have as it begins.
    let _exchanges = exclusive(host, None).map_err(|error| RotateError::Fleet(error.into()))?;
    let providers_lock = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(provider)?;
    if provider.key_id == next {
        return Ok(());
    }
    let providers = store.providers()?;
    let announced = providers.iter().find(|it| it.key_id == next);
    let announced = announced.ok_or(StoreError::Changed)?;
    let mut unlocker = Unlocker::new(&host.keyring());
    let present = unlocker.kek(provider.key_id, default_deadline())?;
    unlocker.kek(next, default_deadline())?;
    let version = provider.key_version + 1;
    store.set_deadline(default_deadline())?;
    store.promote_key(&provider, announced, version, Timestamp::now())?;
    drop(providers_lock);
    say(config, &mut store, &provider, &present, next, true)
}
