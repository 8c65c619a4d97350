//! `state persist`, `--persistent-state`: `persistent_state='yes'` in a guest's XML, with which
//! libvirt keeps the TPM's state when the guest is undefined, and when it stops although it is
//! transient. And whose state libvirt would delete without it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::guests::{GuestRef, ListedGuest};
use super::host::{Host, HostError, default_deadline};
use super::stopped_guest::{DefinedGuest, StoppedError};
use crate::config::KeptStates;
use crate::domain::{self, Vtpm};
use crate::ids::DomainUuid;
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::store::Access;
use crate::verdict::facts::TransientState;

/// What became of one guest.
#[derive(Debug)]
pub(crate) struct PersistedState {
    pub(crate) guest: GuestRef,
    /// Whether it runs: then its present run goes by the XML that it started with.
    pub(crate) running: bool,
    /// Whether its XML was changed, because it did not say so already; or why it could not be.
    pub(crate) changed: Result<bool, PersistError>,
}

/// Why a guest's XML was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PersistError {
    /// The guest was not found, or its definition has no emulated TPM or cannot be read.
    #[error(transparent)]
    Guest(StoppedError),
    /// It has no definition: its XML is in the hands of whoever creates it.
    #[error("transient")]
    Transient(GuestRef),
    /// libvirt did not change the XML, or its answer was lost.
    #[error("{1}")]
    NotRedefined(GuestRef, SecretError),
    /// libvirt has another definition than it was given.
    #[error("not read back")]
    NotReadBack(GuestRef),
}

impl<E: Into<StoppedError>> From<E> for PersistError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Sets it for the guests of these names or UUIDs, or for all that are defined and have an encrypted vTPM. One for which
/// it cannot be set does not keep the others from it; a text that names no guest with an emulated TPM does.
pub(crate) fn persist(
    host: &Host,
    texts: Option<&[String]>,
) -> Result<Vec<PersistedState>, PersistError> {
    let guests = match texts {
        Some(texts) => {
            let read = texts.iter().map(|text| host.guest_with_tpm(text));
            read.map(|guest| Ok(Ok(guest?)))
                .collect::<Result<_, PersistError>>()?
        }
        None => encrypted(host.guests()?),
    };
    let mut unreachable = None;
    let persist = |guest| match guest {
        Ok(guest) => persist_next(host, &guest, &mut unreachable),
        Err(left) => left,
    };
    Ok(guests.into_iter().map(persist).collect())
}

/// Those of these guests that are defined and have an encrypted vTPM; and what became of those whose definition cannot be
/// read, and which may have one.
fn encrypted(guests: Vec<Guest>) -> Vec<Result<DefinedGuest, PersistedState>> {
    let defined = guests.into_iter().filter(|guest| guest.persistent);
    let read = |guest: Guest| {
        let (reference, running) = (GuestRef::from(&guest), guest.running);
        match DefinedGuest::read(guest) {
            Ok(guest) => guest.vtpm.secret_uuid.is_some().then_some(Ok(guest)),
            Err(StoppedError::NoEmulatedTpm(_)) => None,
            Err(error) => Some(Err(PersistedState {
                guest: reference,
                running,
                changed: Err(error.into()),
            })),
        }
    };
    defined.filter_map(read).collect()
}

/// Sets it for one of several guests. A libvirt that did not answer is not waited for again.
fn persist_next(
    host: &Host,
    guest: &DefinedGuest,
    unreachable: &mut Option<SecretError>,
) -> PersistedState {
    let reference = guest.reference();
    let changed = match unreachable {
        Some(error) => Err(PersistError::NotRedefined(reference.clone(), error.clone())),
        None => persist_one(host, guest),
    };
    if let Err(PersistError::NotRedefined(_, error @ SecretError::Unreachable(_))) = &changed {
        *unreachable = Some(error.clone());
    }
    PersistedState {
        guest: reference,
        running: guest.guest.running,
        changed,
    }
}

/// Whether a guest's TPM state survives, after a command that changed its key.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Survival {
    /// Whether this run set `persistent_state='yes'` in its XML.
    pub(crate) persistent_state_set: bool,
    /// Whether libvirt deletes it all the same.
    #[serde(skip)]
    pub(crate) deleted: DeletedStates,
}

impl Survival {
    /// Of the guest that `text` names, whose XML gets `persistent_state='yes'` if that is wanted.
    pub(crate) fn of(host: &Host, text: &str, persist: bool) -> Result<Self, PersistError> {
        let changed = persist.then(|| persist_one(host, &host.guest_with_tpm(text)?));
        let changed = changed.transpose()?.unwrap_or_default();
        let guest = host.named_guests(&[text.to_owned()]).ok();
        // What cannot be told is no reason to fail: the key is changed.
        let deleted = guest.and_then(|guest| DeletedStates::find(host, &guest).ok());
        Ok(Self {
            persistent_state_set: changed,
            deleted: deleted.unwrap_or_default(),
        })
    }
}

/// Returns whether its XML did not say so already.
fn persist_one(host: &Host, guest: &DefinedGuest) -> Result<bool, PersistError> {
    let reference = guest.reference();
    if !guest.guest.persistent {
        return Err(PersistError::Transient(reference));
    }
    let changed = host
        .libvirt()
        .persist_vtpm_state(guest.uuid(), default_deadline())
        .map_err(|error| PersistError::NotRedefined(reference.clone(), error))?;
    // `false` may also mean that the definition is not what it was.
    let known = host.libvirt().guest(guest.uuid(), default_deadline());
    let known = known.map_err(|error| PersistError::NotRedefined(reference.clone(), error))?;
    let read = known.and_then(|known| domain::read(known.xml.as_bytes()).ok());
    match read.and_then(|read| read.vtpm) {
        Some(Vtpm::Emulator(vtpm)) if vtpm.persistent_state => Ok(changed),
        _ => Err(PersistError::NotReadBack(reference)),
    }
}

/// Guests with an encrypted vTPM and a used key whose TPM state libvirt deletes, and of which no
/// copy is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeletedStates {
    /// When they are undefined.
    pub(crate) at_undefine: Vec<GuestRef>,
    /// When they stop: they are transient.
    pub(crate) at_stop: Vec<GuestRef>,
}

impl DeletedStates {
    /// When libvirt deletes the TPM state of this guest, in a word.
    pub(crate) fn moment(&self, guest: DomainUuid) -> Option<&'static str> {
        let has = |guests: &[GuestRef]| guests.iter().any(|one| one.uuid == guest);
        let undefine = has(&self.at_undefine).then_some("undefine");
        undefine.or(has(&self.at_stop).then_some("stop"))
    }

    /// Which of these guests it concerns.
    pub(crate) fn find(host: &Host, guests: &[ListedGuest]) -> Result<Self, HostError> {
        let mut found = Self::default();
        // A broken configuration is reported elsewhere.
        let config = host.config().unwrap_or_default();
        let keeps_all = config.kept_states == KeptStates::All;
        let Some(store) = host.store(Access::Read)?.filter(|_| !keeps_all) else {
            return Ok(found);
        };
        let mut used = BTreeMap::<DomainUuid, bool>::new();
        for row in store.all_key_refs(None, false)? {
            let is_used = row.key_ref.wrapped_dek.is_some() && row.key_ref.first_used_at.is_some();
            *used.entry(row.domain).or_default() |= is_used;
        }
        let definitions = host.libvirt_dirs().definitions();
        for domain in guests.iter().flat_map(|guest| &guest.domain) {
            let Some((vtpm, _)) = domain.encrypted_vtpm() else {
                continue;
            };
            if vtpm.persistent_state || used.get(&domain.uuid) != Some(&true) {
                continue;
            }
            let guest = GuestRef::called(domain.uuid, &domain.name);
            if definitions.join(format!("{}.xml", domain.name)).exists() {
                found.at_undefine.push(guest);
            } else if config.policy.transient_state == TransientState::Keep {
                found.at_stop.push(guest);
            }
        }
        Ok(found)
    }
}
