//! `key clone`: a cloned guest gets what its TPM needs to start.
//!
//! A copied TPM state needs the key that it is encrypted with, wrapped for the clone; a clone
//! without state gets a key of its own at its first start. The original may be a guest that
//! libvirt no longer knows, which came back under a new UUID: then its TPM state comes along.

mod error;
mod original;

pub(crate) use error::{CloneError, NotOpened};
pub(crate) use original::Original;

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use self::original::FoundState;
use super::guests::GuestRef;
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use super::providers::ProviderRef;
use super::stopped_guest::{DefinedGuest, StoppedError};
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::guard::Guard;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::store::{Access, AddKey, BindingChange, Origin, OtherKeys, Store, StoreError};
use crate::swtpm::{EncryptedState, StateFile, read_state, state_path};
use crate::tpm_copies::restore_copy;
use crate::verdict::facts::{Damage, KeyRef, Provider, Travelling, for_new_keys, provider_of};

/// What `key clone` did.
#[derive(Debug, Serialize)]
pub(crate) struct Cloned {
    #[serde(rename = "domain", serialize_with = "reference")]
    pub(crate) original: Original,
    pub(crate) clone: GuestRef,
    pub(crate) provider: ProviderRef,
    pub(crate) key_ref: KeyRefId,
    pub(crate) action: CloneAction,
    /// Where the original's state was found and copied from, where that was done.
    #[serde(skip)]
    pub(crate) copied_from: Option<PathBuf>,
    /// The secret that both guests name.
    #[serde(skip)]
    pub(crate) shared_secret: Option<SecretUuid>,
    /// The history does not have it.
    #[serde(skip)]
    pub(crate) not_recorded: Option<StoreError>,
}

/// How the clone came to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CloneAction {
    /// The original's key was wrapped for the clone.
    Copied,
    /// Likewise, and the original's TPM state was copied.
    TakenOver,
    /// A key of the clone's already opens its TPM state.
    #[serde(rename = "none")]
    HasKey,
    /// It is already bound: its first start makes a key.
    #[serde(rename = "none")]
    IsBound,
    /// It was bound: its first start makes a key.
    Made,
    /// Its placeholder was bound to another provider.
    Moved,
}

fn reference<S: Serializer>(original: &Original, to: S) -> Result<S::Ok, S::Error> {
    original.reference().serialize(to)
}

/// Gives the guest that `new_text` names the key, and if need be the state, of the one that
/// `text` names.
pub(crate) fn clone(host: &Host, text: &str, new_text: &str) -> Result<Cloned, CloneError> {
    let guard = host.guard(BrokenConfig::Fail)?;
    let clone = host.guest_with_tpm(new_text)?;
    let store = host.store(Access::Write)?.ok_or(StoreError::Missing)?;
    let original = find_original(host, &store, text, &clone)?;
    let secret = clone.vtpm.secret_uuid;
    let Some(secret) = secret else {
        return Err(CloneError::NotEncrypted(clone.reference()));
    };
    let states = guard.config.libvirt.tpm_states();
    let state = read_state(&states, clone.uuid(), &clone.vtpm);
    let mut cloning = Cloning {
        guard: &guard,
        unlocker: Unlocker::new(&host.keyring()),
        shared_secret: original.secret().filter(|other| *other == secret),
        store,
        original,
        clone,
        secret,
    };
    let done = match &state {
        StateFile::Encrypted(state) => cloning.copy_key(state)?,
        StateFile::Absent => match cloning.take_over()? {
            Some(done) => done,
            None => cloning.bind()?,
        },
        StateFile::Plain => return Err(CloneError::PlainState(cloning.clone.reference())),
        StateFile::Damaged(Damage { how, .. }) | StateFile::Unreadable(how) => {
            let guest = cloning.clone.reference();
            return Err(CloneError::UnreadableState(guest, how.clone()));
        }
    };
    Ok(Cloned {
        clone: cloning.clone.reference(),
        original: cloning.original,
        provider: (&done.provider).into(),
        key_ref: done.key_ref,
        action: done.action,
        copied_from: done.copied_from,
        shared_secret: cloning.shared_secret,
        not_recorded: done.not_recorded,
    })
}

/// The guest of this name or UUID that libvirt knows, else the one that the store remembers.
/// A name that is the clone's by now means the one that had it before.
fn find_original(
    host: &Host,
    store: &Store,
    text: &str,
    clone: &DefinedGuest,
) -> Result<Original, CloneError> {
    let guests = host.libvirt().guests_called(text, default_deadline())?;
    if let Some(guest) = host.pick(text, &guests)?
        && guest.uuid != clone.uuid()
    {
        // Its keys are what the clone needs. It may have given up its vTPM since.
        let secret = match DefinedGuest::read(guest.clone()) {
            Ok(guest) => guest.vtpm.secret_uuid,
            Err(StoppedError::NoEmulatedTpm(_) | StoppedError::UnreadableXml(..)) => None,
            Err(error) => return Err(error.into()),
        };
        return Ok(Original::Defined(guest.into(), secret));
    }
    let uuid = if let Ok(uuid) = DomainUuid::parse(text) {
        Some(uuid)
    } else {
        let mut users = store.users_of_name(text)?.into_iter();
        users.find(|uuid| *uuid != clone.uuid())
    };
    match uuid {
        Some(uuid) if uuid == clone.uuid() => Err(CloneError::Itself(clone.reference())),
        Some(uuid) => {
            let name = store.last_name(uuid)?;
            Ok(Original::Remembered(GuestRef::of_uuid(uuid, name)))
        }
        None if text == clone.guest.name => Err(CloneError::NoNamesake(clone.reference())),
        None => Err(CloneError::UnknownOriginal(text.to_owned())),
    }
}

/// The original and its clone.
struct Cloning<'a> {
    guard: &'a Guard,
    unlocker: Unlocker,
    store: Store,
    original: Original,
    clone: DefinedGuest,
    /// The secret that the clone's XML names.
    secret: SecretUuid,
    /// The same, where the original's XML names it too.
    shared_secret: Option<SecretUuid>,
}

/// What was done for the clone.
struct Done {
    action: CloneAction,
    key_ref: KeyRefId,
    provider: Provider,
    copied_from: Option<PathBuf>,
    not_recorded: Option<StoreError>,
}

impl Cloning<'_> {
    /// The clone has a state: it needs the very key that it is encrypted with.
    fn copy_key(&mut self, state: &EncryptedState) -> Result<Done, CloneError> {
        let clone = self.clone.uuid();
        if let Some((key, retired)) = self.opening(clone, state)? {
            let key_ref = key.key_ref.id;
            if retired {
                return Err(CloneError::Retired(self.clone.reference(), key_ref));
            }
            return Ok(Done {
                action: CloneAction::HasKey,
                key_ref,
                provider: key.provider,
                copied_from: None,
                not_recorded: None,
            });
        }
        let row = self.opening(self.original.uuid(), state)?;
        let key = match row {
            Some((key, _)) => Some(key),
            None => self.opening_of_xml(state)?,
        };
        match key {
            Some(key) => self.wrap_for_clone(&key, CloneAction::Copied),
            None => Err(CloneError::NotOpened(
                self.original.clone(),
                self.clone.reference(),
                self.not_opened()?,
            )),
        }
    }

    /// The key in the clone's XML that opens this state: the XML is a copy of the original's, and has its keys also where
    /// the store knows nothing of the original.
    fn opening_of_xml(&mut self, state: &EncryptedState) -> Result<Option<OpenedKey>, HostError> {
        let known = self
            .store
            .references(self.original.uuid(), Timestamp::now())?;
        let of_original = self.xml_of_original();
        let opened = self
            .unlocker
            .open_travelling(&known, Some(&of_original), default_deadline());
        let mut opened = opened.into_iter();
        Ok(opened.find(|key| state.is_opened_by(&key.dek)))
    }

    /// The clone's XML as the original's, which it is a copy of: keys in it are wrapped for that guest.
    fn xml_of_original(&self) -> Domain {
        Domain {
            uuid: self.original.uuid(),
            ..self.clone.domain.clone()
        }
    }

    /// No key opens the clone's state: what there is of the original's.
    fn not_opened(&self) -> Result<NotOpened, HostError> {
        let original = self.original.uuid();
        let known = self.store.references(original, Timestamp::now())?;
        let in_xml = Travelling::of(&self.xml_of_original(), &known, Timestamp::now()).keys;
        let mut homeless = in_xml.into_iter().filter(|key| key.provider_uuid.is_none());
        Ok(if let Some(key) = homeless.next() {
            NotOpened::NoProvider(key.provider_name)
        } else if self.store.all_key_refs(Some(original), true)?.is_empty() {
            NotOpened::NoKey(self.unlocker.why_not())
        } else {
            NotOpened::OtherKeys(self.unlocker.why_not())
        })
    }

    /// The key of a guest that opens this state, and whether it is retired: the clone may be
    /// older than the original's present key.
    fn opening(
        &mut self,
        guest: DomainUuid,
        state: &EncryptedState,
    ) -> Result<Option<(OpenedKey, bool)>, HostError> {
        let providers = self.store.providers()?;
        let rows = self.store.all_key_refs(Some(guest), true)?.into_iter();
        let (retired, in_use): (Vec<_>, Vec<_>) = rows.partition(|row| row.retired_at.is_some());
        for (rows, are_retired) in [(in_use, false), (retired, true)] {
            let rows = rows.into_iter().map(|row| row.key_ref);
            let opened = self
                .unlocker
                .open_rows(rows, &providers, guest, default_deadline());
            if let Some(key) = opened.into_iter().find(|key| state.is_opened_by(&key.dek)) {
                return Ok(Some((key, are_retired)));
            }
        }
        Ok(None)
    }

    /// The clone gets this key as one that a guest has run with: without its state it must not
    /// start.
    fn wrap_for_clone(&mut self, key: &OpenedKey, action: CloneAction) -> Result<Done, CloneError> {
        let (clone, now) = (self.clone.uuid(), Timestamp::now());
        let provider = for_new_keys(&key.provider, &self.store.providers()?).clone();
        let known = self.store.references(clone, now)?;
        let domain = Some(&self.clone.domain);
        let generation = self.unlocker.generation_of_chosen(
            &key.dek,
            key.key_ref.generation(),
            &known,
            domain,
            default_deadline(),
        );
        let wrapped =
            self.unlocker
                .wrap(&key.dek, &provider, clone, generation, default_deadline())?;
        let key_ref = self.store.add_key(&AddKey {
            domain: clone,
            provider: provider.uuid,
            key: &wrapped,
            secret_uuid: Some(self.secret),
            first_used_at: Some(now),
            // Its own keys do not open its state, which has proven this one; should its own
            // state come back, they do.
            others: OtherKeys::Keep,
            now,
        })?;
        let original = self.original.label();
        let message = format!("the key of {original} for its TPM state (key reference {key_ref})");
        Ok(Done {
            action,
            key_ref,
            provider,
            copied_from: None,
            not_recorded: self.record(message),
        })
    }

    /// The original came back under a new UUID: its TPM state, which a key of its opens, goes
    /// into the clone's place. The state goes first: a kill before the key leaves what doing it
    /// again completes.
    fn take_over(&mut self) -> Result<Option<Done>, CloneError> {
        let (found, unreadable) = self.original.states(self.guard, &self.store, &self.clone)?;
        let is_untried = !found.is_empty();
        for FoundState { path, copy } in found {
            let StateFile::Encrypted(state) = copy.state() else {
                continue;
            };
            let Some((key, _)) = self.opening(self.original.uuid(), &state)? else {
                continue;
            };
            if self.clone.guest.running {
                return Err(CloneError::Running(self.clone.reference()));
            }
            let states = self.guard.config.libvirt.tpm_states();
            let start = (states.as_path(), self.clone.uuid(), &self.clone.vtpm);
            restore_copy(&copy, Some(start))
                .map_err(|error| CloneError::NotRestored(self.clone.reference(), error))?;
            let done = self.wrap_for_clone(&key, CloneAction::TakenOver)?;
            return Ok(Some(Done {
                copied_from: Some(path),
                ..done
            }));
        }
        if !self.original.is_defined() && self.store.has_used_key(self.original.uuid())? {
            let states = self.guard.config.libvirt.tpm_states();
            let place = state_path(&states, self.clone.uuid(), &self.clone.vtpm);
            let (original, clone) = (self.original.clone(), self.clone.reference());
            let untried = self.unlocker.why_not().filter(|_| is_untried);
            let unreadable = unreadable.map(|error| error.to_string());
            return Err(match untried.or(unreadable) {
                Some(why) => CloneError::NotTried(original, why),
                None => CloneError::NoStateLeft(original, clone, place),
            });
        }
        Ok(None)
    }

    /// The clone has no state: its first start makes a new TPM, and a key for it.
    fn bind(&mut self) -> Result<Done, CloneError> {
        let (original, clone) = (self.original.clone(), self.clone.reference());
        if let Some(secret) = self.shared_secret {
            return Err(CloneError::OneSecret(original, clone, secret));
        }
        let now = Timestamp::now();
        let seen = self.store.references(original.uuid(), now)?;
        let keyed = |row: &&KeyRef| row.wrapped_dek.is_some();
        let rows = &seen.key_refs;
        let row = rows.iter().find(keyed).or_else(|| rows.first());
        let named = row.and_then(|row| provider_of(row, &seen.providers));
        let Some(named) = named else {
            return Err(CloneError::NotBound(original, clone));
        };
        let provider = for_new_keys(named, &seen.providers).clone();
        let change = self.store.bind(clone.uuid, provider.uuid, now)?;
        let (action, key_ref) = match change {
            BindingChange::Unchanged(id) => (CloneAction::IsBound, id),
            BindingChange::Added(id) => (CloneAction::Made, id),
            BindingChange::Moved { key_ref, .. } => (CloneAction::Moved, key_ref),
        };
        let message = format!(
            "bound to provider {}, as {} is",
            provider.name,
            original.label()
        );
        let not_recorded = match action {
            CloneAction::IsBound => None,
            _ => self.record(message),
        };
        Ok(Done {
            action,
            key_ref,
            provider,
            copied_from: None,
            not_recorded,
        })
    }

    fn record(&mut self, message: String) -> Option<StoreError> {
        self.clone
            .record(&mut self.store, Origin::Clone, message)
            .err()
    }
}
