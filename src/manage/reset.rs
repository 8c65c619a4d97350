//! `reset`: the next start of a guest may make a new TPM.

use std::path::PathBuf;

use serde::Serialize;

use super::guests::{GuestError, GuestRef};
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use crate::clock::Timestamp;
use crate::domain::{Domain, Emulator, TpmVersion};
use crate::guard::{
    Guard, KeySources, LearnError, Learnt, has_managed_save, learn, restore_links, state_elsewhere,
};
use crate::store::{Access, Store};
use crate::swtpm::{LockError, StateFile, StatePath, read_state, remove_empty_directory};
use crate::tpm_copies::CopyStore;
use crate::verdict::elsewhere::StateElsewhere;
use crate::verdict::facts::References;

/// What `reset` did.
#[derive(Debug, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, for an answer"
)]
pub(crate) struct Reset {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) changed: bool,
    /// How many saved copies were set aside: each would take the place of a state that is gone.
    pub(crate) copies_set_aside: usize,
    /// Whether a new TPM would be made under a key that the guest has.
    #[serde(skip)]
    pub(crate) has_key: bool,
    /// Whether its keys, or its state that was seen, count as unused now.
    #[serde(skip)]
    pub(crate) was_used: bool,
    /// Why the fleet's store, which may have a used key of it, did not answer, where this host has none.
    #[serde(skip)]
    pub(crate) fleet_silent: Option<String>,
    /// Whether its keys are retired, and no provider is there to make it another one.
    #[serde(skip)]
    pub(crate) is_unbound: bool,
    /// State directories without a state that could not be removed: libvirt would not set up a
    /// new TPM in them.
    #[serde(skip)]
    pub(crate) left_directories: Vec<(PathBuf, LockError)>,
}

/// Why a guest was not reset. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
    /// This host has no key of it, and nothing else to reset.
    #[error("no key")]
    NoKey(GuestRef),
    /// Likewise, and libvirt does not know it: its XML may bring a key to its start.
    #[error("not defined")]
    NotDefined(GuestRef),
    /// This host has no key of it, and the fleet's store, which may have one, did not answer: why.
    #[error("the fleet's store did not answer: {1}")]
    FleetSilent(GuestRef, String),
    /// It has a managed save, and its TPM is in there.
    #[error("managed save")]
    ManagedSave(GuestRef),
    /// Its TPM state exists; its XML does not name it.
    #[error("state elsewhere")]
    StateElsewhere(Domain, StateElsewhere),
    /// Its TPM state may exist at this path, which cannot be looked at.
    #[error("{1}: {2}")]
    Unseen(GuestRef, PathBuf, String),
}

impl<E: Into<GuestError>> From<E> for ResetError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Allows the next start of the guest that `text` names to make a new TPM.
pub(crate) fn reset(host: &Host, text: &str) -> Result<Reset, ResetError> {
    let guest = host.guest(text)?;
    // By the defaults a state would be looked for in the wrong place, and not be found beside this.
    let guard = host.guard(BrokenConfig::Fail)?;
    if guest
        .name
        .as_ref()
        .is_some_and(|name| has_managed_save(&guard, name))
    {
        return Err(ResetError::ManagedSave(guest));
    }
    let answer = host.ask_definition(guest.uuid);
    let definition = host.definition_by(&answer, guest.uuid);
    let now = Timestamp::now();
    let mut store = host.store(Access::Write)?;
    let found = match &store {
        Some(store) => store.references(guest.uuid, now)?,
        None => References::default(),
    };
    let rows = &found.key_refs;
    let is_known = rows.iter().any(|row| row.wrapped_dek.is_some());
    if let Some((domain, vtpm)) = &definition {
        refuse_beside_state(&guard, store.as_ref(), (domain, vtpm), &guest)?;
    }
    let domain = definition.as_ref().map(|(domain, _)| domain);
    // The next start would find the key of its XML, or of the fleet, as one that was used.
    let key = if is_known {
        KeyHere::Yes
    } else {
        learn_key(host, &guard, domain)?
    };
    let has_key = matches!(key, KeyHere::Yes);
    let vtpm = definition.as_ref().map(|(_, vtpm)| vtpm);
    let from_links = set_links_aside(&guard, &guest, vtpm)?;
    let copies = CopyStore::of(host.state_dir(), guest.uuid).set_aside(now)? + from_links;
    let forgotten = match &mut store {
        Some(store) => store.clear_seen_state(guest.uuid)?,
        None => false,
    };
    // It would keep the guard from binding the guest to a provider by itself.
    let is_retired = !has_key && rows.is_empty() && found.used_and_retired().is_some();
    let was_used = match &mut store {
        Some(store) if has_key || is_retired => store.reset_first_used(guest.uuid, now)? > 0,
        _ if copies == 0 && !forgotten => {
            return Err(match key {
                KeyHere::FleetSilent(why) => ResetError::FleetSilent(guest, why),
                _ if host.is_defined_by(&answer, guest.uuid) => ResetError::NoKey(guest),
                _ => ResetError::NotDefined(guest),
            });
        }
        _ => forgotten,
    };
    Ok(Reset {
        left_directories: remove_empty_directories(&guard, &guest),
        fleet_silent: match key {
            KeyHere::FleetSilent(why) => Some(why),
            KeyHere::Yes | KeyHere::No => None,
        },
        guest,
        changed: was_used || copies > 0,
        copies_set_aside: copies,
        has_key,
        was_used,
        is_unbound: is_retired && guard.config.policy.auto_bind.is_none(),
    })
}

/// Where the key of a guest is that `reset` marks as unused.
enum KeyHere {
    /// In the store, by now.
    Yes,
    /// Nowhere that was looked.
    No,
    /// Nowhere, and the fleet's store did not answer: why.
    FleetSilent(String),
}

/// Stores the key of the guest's XML, or of the fleet's store, if that is all that there is.
fn learn_key(host: &Host, guard: &Guard, defined: Option<&Domain>) -> Result<KeyHere, ResetError> {
    let Some(defined) = defined else {
        return Ok(KeyHere::No);
    };
    let sources = KeySources::XmlAndFleet;
    match learn(guard, defined, sources, true, default_deadline()) {
        Ok(Learnt::Stored { .. }) => Ok(KeyHere::Yes),
        Ok(_) => Ok(KeyHere::No),
        Err(LearnError::Store(error)) => Err(error.into()),
        Err(LearnError::FleetSilent(why)) => Ok(KeyHere::FleetSilent(why)),
        Err(LearnError::Access(why)) => Err(host.not_read(why).into()),
    }
}

/// The state that a failed start has left in hard links would come back at the next start.
fn set_links_aside(
    guard: &Guard,
    guest: &GuestRef,
    defined: Option<&Emulator>,
) -> Result<usize, HostError> {
    let usual = usual_vtpms();
    let vtpms = defined.map_or(&usual[..], std::slice::from_ref);
    let name = guest.name.as_deref().unwrap_or_default();
    let mut set_aside = 0;
    for vtpm in vtpms {
        set_aside += usize::from(restore_links::set_aside(guard, (guest.uuid, name), vtpm)?);
    }
    Ok(set_aside)
}

/// Those whose states are in libvirt's own directory.
fn usual_vtpms() -> [Emulator; 2] {
    [TpmVersion::V2_0, TpmVersion::V1_2].map(|version| Emulator {
        version,
        secret_uuid: None,
        persistent_state: false,
        source: None,
    })
}

/// A state directory without a state would keep libvirt from setting up the new TPM completely.
fn remove_empty_directories(guard: &Guard, guest: &GuestRef) -> Vec<(PathBuf, LockError)> {
    let states = guard.config.libvirt.tpm_states();
    let left = usual_vtpms().map(|vtpm| {
        let place = StatePath::of(&states, guest.uuid, &vtpm);
        let error = remove_empty_directory(&place).err()?;
        Some((place.directory().to_owned(), error))
    });
    left.into_iter().flatten().collect()
}

/// A TPM state that the guest's XML only does not name is not gone.
fn refuse_beside_state(
    guard: &Guard,
    store: Option<&Store>,
    (defined, vtpm): (&Domain, &Emulator),
    guest: &GuestRef,
) -> Result<(), ResetError> {
    let state = read_state(&guard.config.libvirt.tpm_states(), guest.uuid, vtpm);
    let seen = store.map(|store| store.seen_state(guest.uuid)).transpose();
    let seen = seen.map_err(HostError::from)?.flatten();
    let seen = seen.map(|seen| seen.path);
    match state_elsewhere(guard, defined, vtpm, seen.as_deref()) {
        Ok(Some(found)) if matches!(state, StateFile::Absent) => {
            Err(ResetError::StateElsewhere(defined.clone(), found))
        }
        Err((path, why)) if matches!(state, StateFile::Absent) => {
            Err(ResetError::Unseen(guest.clone(), path, why))
        }
        _ => Ok(()),
    }
}
