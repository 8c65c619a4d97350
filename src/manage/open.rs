//! `open`: brings to this host the provider keys that key managers open, and keeps them where `provider.cache` says.
//!
//! Each provider key is asked for at most once: a whole fleet may do this after a power failure.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::host::{Host, HostError, default_deadline};
use super::provider_list::SealState;
use super::providers::{ProviderError, ProviderRef, ProvidersLock};
use super::slots;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::{KekPlace, Keyring, KeyringError, WeakerSeal};
use crate::kms::KeyManagers;
use crate::store::{Access, Slot, Store, StoreError};
use crate::verdict::facts::Provider;

/// How long all key managers together may take: libvirtd waits for vtpm-guard-open.service.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after its boot a host has something else to do than to try what it does not need: its guests wait.
const STILL_BOOTING: Duration = Duration::from_secs(10 * 60);

/// What `open` did about one provider.
#[derive(Debug, Serialize)]
pub(crate) struct OpenedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    pub(crate) result: OpenResult,
    /// Through which slot it was opened.
    pub(crate) slot: Option<String>,
    pub(crate) seal: SealState,
    /// Why slots did not open it.
    pub(crate) trouble: Vec<String>,
}

/// What became of a provider's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OpenResult {
    /// It was on this host already.
    Here,
    /// A key manager has opened it.
    Opened,
    /// No key manager has opened it; it is on this host all the same.
    NotRenewed,
    /// It is not on this host.
    NotOpened,
}

impl OpenResult {
    /// Whether starts may use it.
    pub(crate) fn is_here(self) -> bool {
        self != Self::NotOpened
    }
}

/// Opens the keys of the providers that `names` names, or of all that have a key manager.
pub(crate) fn open(host: &Host, names: &[String]) -> Result<Vec<OpenedProvider>, ProviderError> {
    let config = host.config()?;
    let Some(mut store) = host.store(Access::Write)? else {
        return Ok(Vec::new());
    };
    let exclusive = ProvidersLock::acquire(host)?;
    let mut providers = store.providers()?;
    let keyring = host.keyring();
    if names.is_empty() {
        // A key on tmpfs without a slot goes back to the disk, or the next reboot loses it. Where it cannot be
        // told, `open` says why.
        let may_be_lost = |key_id| keyring.may_be_in(KekPlace::Tmpfs, key_id);
        providers.retain(|it| !it.kms.names.is_empty() || may_be_lost(it.key_id));
    } else {
        let found = names.iter().map(|text| store.provider(text));
        providers = found.collect::<Result<_, _>>()?;
    }
    let slots = store.slots()?;
    let managers = host.key_managers(&config);
    let managers = managers.within(PATIENCE, &with_slots_of(&providers, &slots));
    let mut work = Work {
        slots,
        store: &mut store,
        managers,
        keyring,
        config: &config,
    };
    let opened = providers.iter().map(|provider| work.open(provider));
    let opened = opened.collect();
    drop(exclusive);
    if may_try_old(names, uptime()) {
        let mut managers = work.managers;
        // Nothing that was asked for fails with it.
        if let Err(error) = slots::try_old(&mut store, &mut managers) {
            tracing::warn!(%error, "slots could not be tried");
        }
    }
    Ok(opened)
}

/// The key managers that have slots of these providers' keys.
fn with_slots_of<'s>(providers: &[Provider], slots: &'s [Slot]) -> BTreeSet<&'s str> {
    let is_wanted = |slot: &&Slot| providers.iter().any(|it| it.key_id == slot.key_id);
    let wanted = slots.iter().filter(is_wanted);
    wanted.map(|slot| slot.kms.as_str()).collect()
}

/// Whether slots that nobody asked for may be tried, on a host that has been up so long.
fn may_try_old(asked_for: &[String], uptime: Duration) -> bool {
    asked_for.is_empty() && uptime > STILL_BOOTING
}

/// How long this host has been up; for ever, if that cannot be read.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::MAX, Duration::from_secs)
}

struct Work<'a> {
    store: &'a mut Store,
    slots: Vec<Slot>,
    managers: KeyManagers,
    keyring: Keyring,
    config: &'a Config,
}

impl Work<'_> {
    /// What goes wrong with one provider's key does not concern the others.
    fn open(&mut self, provider: &Provider) -> OpenedProvider {
        let mut opened = OpenedProvider {
            provider: provider.into(),
            key_id: provider.key_id,
            result: OpenResult::NotOpened,
            slot: None,
            seal: SealState::Missing,
            trouble: Vec::new(),
        };
        if let Err(error) = self.try_open(provider, &mut opened) {
            opened.trouble.push(error.to_string());
        }
        opened.seal = SealState::of(&self.keyring, provider.key_id);
        opened
    }

    fn try_open(
        &mut self,
        provider: &Provider,
        opened: &mut OpenedProvider,
    ) -> Result<(), HostError> {
        let key_id = provider.key_id;
        let here = self.keyring.place(key_id);
        let its: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.key_id == key_id)
            .cloned()
            .collect();
        let wanted = slots::place(self.config.kek_cache, &its);
        let is_here = self.keyring.open(key_id, default_deadline());
        let needs_kms = match (&here, &is_here) {
            // Long before `provider.max_age` is over.
            (Ok(place), Ok(_)) if *place == wanted => self.is_older_than_a(2, provider),
            // From tmpfs to the disk: no key manager is needed.
            (Ok(KekPlace::Tmpfs), Ok(kek)) => {
                self.keyring
                    .store_only_in(wanted, kek, WeakerSeal::Refused, default_deadline())?;
                self.is_older_than_a(2, provider)
            }
            // It is not here; or it is on the disk, and only what a key manager opens now may leave that.
            _ => true,
        };
        if is_here.is_ok() && !self.is_older_than_a(1, provider) {
            opened.result = OpenResult::NotRenewed;
        }
        if !needs_kms {
            opened.result = OpenResult::Here;
        } else if its.is_empty() {
            let why = is_here.as_ref().err().map(KeyringError::to_string);
            opened.trouble.extend(why);
        } else if let Some(slot) = self.try_slots(&its, wanted, &mut opened.trouble)? {
            opened.slot = Some(slot);
            opened.result = OpenResult::Opened;
        }
        Ok(())
    }

    /// Whether a key manager has opened it longer ago than this part of `provider.max_age`: 2 is a half.
    fn is_older_than_a(&self, part: i64, provider: &Provider) -> bool {
        let max_age = self.config.kek_max_age_ms();
        max_age.is_some_and(|age| provider.kms.is_older_than(age / part, Timestamp::now()))
    }

    /// Opens the first slot that opens, and keeps the key. Returns the slot's name.
    fn try_slots(
        &mut self,
        slots: &[Slot],
        place: KekPlace,
        trouble: &mut Vec<String>,
    ) -> Result<Option<String>, HostError> {
        for slot in slots {
            match slots::open(&mut self.managers, slot) {
                Ok(kek) => {
                    let left = self.keep(slot, &kek, place)?;
                    trouble.extend(left.map(|error| error.to_string()));
                    return Ok(Some(format!("{}:{}", slot.kms, slot.remote_key)));
                }
                Err(error) => trouble.push(error.to_string()),
            }
        }
        Ok(None)
    }

    /// Keeps a key that a slot has opened. Returns why that could not be recorded, though the key is here.
    fn keep(
        &mut self,
        slot: &Slot,
        kek: &Kek,
        place: KekPlace,
    ) -> Result<Option<StoreError>, HostError> {
        if place == KekPlace::Tmpfs && self.keyring.may_be_in(KekPlace::Disk, kek.key_id()) {
            // A key leaves the disk only when the store says that a slot has opened it.
            self.mark(slot)?;
            self.keyring
                .store_only_in(place, kek, WeakerSeal::Refused, default_deadline())?;
            return Ok(None);
        }
        // Otherwise the key counts more: the store may be on a full disk.
        self.keyring
            .store_only_in(place, kek, WeakerSeal::Refused, default_deadline())?;
        Ok(self.mark(slot).err())
    }

    fn mark(&mut self, slot: &Slot) -> Result<(), StoreError> {
        self.store.set_deadline(default_deadline())?;
        self.store.mark_slot_verified(slot.uuid, Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn the_time_is_for_the_key_managers_of_those_that_are_opened() {
        let fixture = Fixture::new();
        let slots = [("a", "vault"), ("a", "hsm"), ("b", "site-b")]
            .map(|(provider, kms)| fixture.put_slot(provider, "transit", (kms, "key"), None));
        let needed = |names: &[&str]| {
            let providers: Vec<_> = names.iter().map(|name| fixture.provider(name)).collect();
            let needed = with_slots_of(&providers, &slots);
            needed.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(needed(&["a"]), ["hsm", "vault"]);
        assert_eq!(needed(&["b"]), ["site-b"]);
        assert_eq!(needed(&["a", "b"]), ["hsm", "site-b", "vault"]);
        assert_eq!(needed(&[]), [""; 0]);
    }

    #[test]
    fn slots_that_nobody_asked_for_are_tried_only_when_the_host_has_been_up_for_a_while() {
        let later = STILL_BOOTING + Duration::from_secs(1);
        assert!(may_try_old(&[], later));
        assert!(!may_try_old(&[], STILL_BOOTING));
        assert!(!may_try_old(&["a".to_owned()], later));
    }
}
