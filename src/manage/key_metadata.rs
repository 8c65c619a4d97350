//! `key metadata`: the element with which a guest's keys travel, for files of definitions; or written
//! for this one guest, whatever the configuration says.

use serde::Serialize;

use super::guests::{GuestError, GuestRef};
use super::host::{Host, HostError, default_deadline};
use super::sync::Facts;
use super::travelling::{Change, KnownKeys, StayingKey, TravelFinding};
use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::key::wrap::Generation;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::MetadataChange;
use crate::store::{Access, WrittenKeys};

/// The element of a guest.
#[derive(Debug, Serialize)]
pub(crate) struct KeyMetadata {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// The element, in the domain XML's words.
    pub(crate) element: String,
    pub(crate) keys: Vec<ElementKey>,
    /// Whether it was written to libvirt now; `None` where that was not asked for.
    pub(crate) written: Option<bool>,
    pub(crate) findings: Vec<TravelFinding>,
}

/// A key in the element.
#[derive(Debug, Serialize)]
pub(crate) struct ElementKey {
    pub(crate) key_ref: KeyRefId,
    pub(crate) generation: Generation,
    pub(crate) provider: String,
    pub(crate) key_id: Option<KeyId>,
}

/// Why there is no element, or it was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyMetadataError {
    /// The guest has no key in use.
    #[error("no key")]
    NoKey(GuestRef),
    /// None of its keys can travel.
    #[error("no key travels")]
    NoneTravels(GuestRef, Vec<StayingKey>),
    /// A job of the guest is in the way.
    #[error("busy")]
    Busy(GuestRef),
    /// Something in its XML would be lost.
    #[error("prevented")]
    Prevented(GuestRef, TravelFinding),
    /// libvirt has something else than was written.
    #[error("not kept")]
    NotKept(GuestRef),
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
}

impl<E: Into<GuestError>> From<E> for KeyMetadataError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// The element of the guest that `text` names.
pub(crate) fn show(host: &Host, text: &str) -> Result<KeyMetadata, KeyMetadataError> {
    let guest = host.guest(text)?;
    let facts = Facts::read(host, true)?;
    let known = travelling(&facts, &guest)?;
    let stay = known.stay.iter().copied().map(TravelFinding::Stays);
    Ok(KeyMetadata {
        findings: stay.collect(),
        ..KeyMetadata::new(guest, &known)
    })
}

/// Writes it into the definitions of the guest that `text` names.
pub(crate) fn write(host: &Host, text: &str) -> Result<KeyMetadata, KeyMetadataError> {
    let defined = host.defined_guest(text)?;
    let guest = GuestRef::from(&defined);
    let facts = Facts::read(host, true)?;
    let known = travelling(&facts, &guest)?;
    let (libvirt, deadline) = (host.libvirt(), default_deadline());
    let gone = || GuestError::NotFound(text.to_owned());
    let found = libvirt
        .metadata(guest.uuid, deadline)
        .map_err(HostError::from)?;
    let mut unlocker = Unlocker::new(&host.keyring());
    let plan = known.plan(guest.uuid, &found.ok_or_else(gone)?, true, |domain, key| {
        facts.hold(&mut unlocker, domain, key)
    });
    if let Some(finding) = plan.findings.iter().find(|finding| finding.prevents()) {
        return Err(KeyMetadataError::Prevented(guest, finding.clone()));
    }
    // From here on they are a hand's, which `sync` does not remove.
    if !known.written.is_empty()
        && let Some(mut store) = host.store(Access::Write)?
    {
        let forgotten = WrittenKeys::from([(guest.uuid, Vec::new())]);
        store
            .keep_written_keys(&forgotten)
            .map_err(HostError::from)?;
    }
    let written = match &plan.change {
        Change::Set(keys) => {
            let element = keys.for_libvirt();
            let set = libvirt.set_metadata(guest.uuid, Some(&element), deadline);
            match set.map_err(HostError::from)? {
                MetadataChange::Done(found) if plan.change.is_done(&found) => true,
                MetadataChange::Done(_) => return Err(KeyMetadataError::NotKept(guest)),
                MetadataChange::Busy => return Err(KeyMetadataError::Busy(guest)),
                MetadataChange::Gone => return Err(gone().into()),
            }
        }
        Change::None | Change::Remove => false,
    };
    Ok(KeyMetadata {
        written: Some(written),
        findings: plan.findings,
        ..KeyMetadata::new(guest, &known)
    })
}

fn travelling(facts: &Facts, guest: &GuestRef) -> Result<KnownKeys, KeyMetadataError> {
    let known = facts.known(guest.uuid);
    if known.travel() {
        Ok(known)
    } else if known.stay.is_empty() {
        Err(KeyMetadataError::NoKey(guest.clone()))
    } else {
        Err(KeyMetadataError::NoneTravels(guest.clone(), known.stay))
    }
}

impl KeyMetadata {
    fn new(guest: GuestRef, known: &KnownKeys) -> Self {
        let keys = known.own.iter().map(|own| ElementKey {
            key_ref: own.key_ref,
            generation: own.generation,
            provider: own.key.provider.clone(),
            key_id: own.key.wrapped_dek.key_id().ok(),
        });
        Self {
            element: known.element(guest.uuid).to_xml(),
            keys: keys.collect(),
            written: None,
            findings: Vec::new(),
            guest,
        }
    }
}
