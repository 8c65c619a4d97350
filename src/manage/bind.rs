//! `key bind`: ties a guest to a provider, and never a key to one that does not open it.

use std::path::Path;
use std::slice;

use serde::{Serialize, Serializer};

use super::dry_start;
use super::guests::{GuestError, GuestRef};
use super::host::{Host, HostError, default_deadline};
use super::persist_state::Survival;
use super::providers::{ProviderError, ProviderRef};
use crate::clock::Timestamp;
use crate::domain;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::keyring::Keyring;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::secret::{LibvirtSecret, Purpose, SecretValue};
use crate::store::{BindingChange, Change, Store, StoreError};
use crate::swtpm::StateFile;
use crate::verdict::facts::{KeyRef, Provider, References};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;

/// What `key bind` did.
#[derive(Debug, Serialize)]
pub(crate) struct Bound {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) provider: ProviderRef,
    #[serde(flatten)]
    pub(crate) action: BindAction,
    #[serde(flatten)]
    pub(crate) survival: Survival,
    /// What an administrator should know before the guest's next start.
    #[serde(skip)]
    pub(crate) remarks: Vec<BindRemark>,
}

/// How the guest came to be bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BindAction {
    /// This placeholder was added.
    Made(KeyRefId),
    /// This placeholder was bound to the provider of this name before.
    Moved(KeyRefId, String),
    /// The provider's key opens these keys, which name it now.
    Rebound(Vec<KeyRefId>),
    /// This key reference is bound to it already.
    Unchanged(KeyRefId),
}

/// Something to know about a guest that was bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BindRemark {
    /// libvirt does not know the guest.
    NotDefined,
    /// libvirt defines the guest, without an emulated TPM.
    NoTpm,
    /// Its vTPM is not encrypted: no key is made at its start.
    NotEncrypted {
        /// Whether it has a TPM state, which could be encrypted.
        has_state: bool,
    },
    /// libvirt has a value for its secret, which root can read: that is its key.
    ReadableValue(SecretUuid),
    /// libvirt has a value that nobody can read: no key is made while it has.
    PrivateValue(SecretUuid),
    /// It has a TPM state already: no key is made over it.
    HasState,
    /// These guests name its secret too.
    SharedSecret(SecretUuid, Vec<String>),
    /// It has a key, and its start would be refused all the same.
    WouldNotStart(Refusal),
    /// Its secret or its name is that of this guest, which has used its key and which libvirt no
    /// longer knows.
    FormerGuest(DomainUuid),
    /// It has used this key, which is retired: without its TPM state, the next start makes a new TPM.
    UsedKeyRetired(KeyRefId),
}

/// Why a guest was not bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The provider cannot be had.
    #[error(transparent)]
    Provider(ProviderError),
    /// No guest was found.
    #[error(transparent)]
    Guest(GuestError),
    /// It has keys of these providers, and this provider's key opens none of them.
    #[error("another provider's key")]
    OtherKey {
        guest: GuestRef,
        provider: Provider,
        keys: Vec<(KeyRefId, String)>,
    },
}

impl From<ProviderError> for BindError {
    fn from(error: ProviderError) -> Self {
        Self::Provider(error)
    }
}

impl<E: Into<GuestError>> From<E> for BindError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

impl Serialize for BindAction {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            action: &'a str,
            key_refs: &'a [KeyRefId],
        }
        let (action, key_refs) = match self {
            Self::Made(id) => ("made", slice::from_ref(id)),
            Self::Moved(id, _) => ("moved", slice::from_ref(id)),
            Self::Rebound(ids) => ("rebound", &ids[..]),
            Self::Unchanged(id) => ("none", slice::from_ref(id)),
        };
        Document { action, key_refs }.serialize(to)
    }
}

/// Binds the guest that `text` names to this provider, or to the default one.
pub(crate) fn bind(host: &Host, text: &str, provider: Option<&str>) -> Result<Bound, BindError> {
    let states = host.configured_libvirt_dirs()?.tpm_states();
    let (mut store, provider) = host.provider_for_new_keys(provider)?;
    let guest = host.present_guest(text)?;
    let now = Timestamp::now();
    let seen = store.references(guest.uuid, now)?;
    let keyed = seen.key_refs.iter().filter(|row| row.wrapped_dek.is_some());
    let keyed: Vec<_> = keyed.collect();
    let is_bound = |row: &&KeyRef| row.is_bound_to(&provider);
    let mut remarks = Vec::new();
    let action = if keyed.is_empty() {
        let change = store.bind(guest.uuid, provider.uuid, now)?;
        remarks = host.remarks(&store, &guest, &states)?;
        let retired = seen.used_and_retired().map(|row| row.id);
        remarks.extend(retired.map(BindRemark::UsedKeyRetired));
        match change {
            BindingChange::Added(id) => BindAction::Made(id),
            BindingChange::Moved { key_ref, from } => BindAction::Moved(key_ref, from),
            BindingChange::Unchanged(id) => BindAction::Unchanged(id),
        }
    } else if let Some(row) = keyed.iter().copied().find(is_bound) {
        let defined = host.defined_guest(&guest.uuid.to_string()).ok();
        let domain = defined.and_then(|defined| domain::read(defined.xml.as_bytes()).ok());
        let why = domain.and_then(|domain| dry_start::refusal(host, &domain));
        remarks.extend(why.map(BindRemark::WouldNotStart));
        BindAction::Unchanged(row.id)
    } else {
        let opened = opened_by(&host.keyring(), &keyed, &provider, guest.uuid)?;
        if opened.is_empty() {
            let name = |row: &&KeyRef| (row.id, row.provider_name.clone());
            let keys = keyed.iter().map(name).collect();
            return Err(BindError::OtherKey {
                guest,
                provider,
                keys,
            });
        }
        rebind(&mut store, &seen, &opened, &provider, guest.uuid)?;
        BindAction::Rebound(opened)
    };
    Ok(Bound {
        guest,
        provider: (&provider).into(),
        action,
        survival: Survival::default(),
        remarks,
    })
}

/// Those of a guest's rows that the provider's key opens.
fn opened_by(
    keyring: &Keyring,
    keyed: &[&KeyRef],
    provider: &Provider,
    guest: DomainUuid,
) -> Result<Vec<KeyRefId>, HostError> {
    let mut unlocker = Unlocker::new(keyring);
    // A key that cannot be unsealed is an error, not one that opens none of them.
    unlocker.kek(provider.key_id, default_deadline())?;
    let rows = keyed.iter().map(|&row| row.clone());
    let providers = slice::from_ref(provider);
    let opened = unlocker.open_rows(rows, providers, guest, default_deadline());
    Ok(opened.into_iter().map(|key| key.key_ref.id).collect())
}

fn rebind(
    store: &mut Store,
    seen: &References,
    rows: &[KeyRefId],
    provider: &Provider,
    guest: DomainUuid,
) -> Result<(), StoreError> {
    let rebinding = |key_ref: &KeyRefId| Repair::RebindProvider {
        key_ref: *key_ref,
        provider: provider.uuid,
        provider_name: provider.name.clone(),
    };
    let repairs: Vec<_> = rows.iter().map(rebinding).collect();
    store.apply(&Change {
        domain: guest,
        seen,
        repairs: &repairs,
        new_key: None,
        secret_uuid: None,
        clients_key: None,
        event: None,
        now: Timestamp::now(),
    })?;
    Ok(())
}

impl Host {
    fn remarks(
        &self,
        store: &Store,
        bound: &GuestRef,
        states: &Path,
    ) -> Result<Vec<BindRemark>, HostError> {
        let answer = self.libvirt().guest(bound.uuid, default_deadline());
        let Some((defined, vtpm)) = self.definition_by(&answer, bound.uuid) else {
            return Ok(match answer {
                Ok(None) => vec![BindRemark::NotDefined],
                Ok(Some(guest)) if domain::read(guest.xml.as_bytes()).is_ok() => {
                    vec![BindRemark::NoTpm]
                }
                Ok(Some(_)) | Err(_) => Vec::new(),
            });
        };
        let has_state = || {
            let place = super::tpm_place::find(states, bound.uuid, Some(&vtpm), None);
            !matches!(place.state, StateFile::Absent)
        };
        let Some(secret) = vtpm.secret_uuid else {
            let has_state = has_state();
            return Ok(vec![BindRemark::NotEncrypted { has_state }]);
        };
        let first = match self.foreign_value(secret) {
            None => has_state().then_some(BindRemark::HasState),
            remark => remark,
        };
        let mut remarks: Vec<_> = first.into_iter().collect();
        // It is bound: what else there is to know must not fail it.
        let Ok(known) = self.guests() else {
            return Ok(remarks);
        };
        let names_it = |xml: &str| {
            let read = domain::read(xml.as_bytes());
            read.is_ok_and(|read| {
                read.encrypted_vtpm()
                    .is_some_and(|(_, uuid)| uuid == secret)
            })
        };
        let sharers = known
            .iter()
            .filter(|guest| guest.uuid != bound.uuid && names_it(&guest.xml));
        let sharers: Vec<_> = sharers.map(|guest| guest.name.clone()).collect();
        if !sharers.is_empty() {
            remarks.push(BindRemark::SharedSecret(secret, sharers));
        }
        let users = store.users_of_secret(secret)?.into_iter();
        let mut users = users.chain(store.users_of_name(&defined.name)?);
        let is_known = |uuid: DomainUuid| known.iter().any(|guest| guest.uuid == uuid);
        let former = users.find(|uuid| *uuid != bound.uuid && !is_known(*uuid));
        remarks.extend(former.map(BindRemark::FormerGuest));
        Ok(remarks)
    }

    /// A value that libvirt has for a secret, and that is not the guard's.
    fn foreign_value(&self, secret: SecretUuid) -> Option<BindRemark> {
        let inspected = self.secrets().inspect(secret, default_deadline());
        let LibvirtSecret { definition, value } = inspected.ok().flatten()?;
        if definition.guards_domain().is_some() || definition.purpose == Purpose::Other {
            return None;
        }
        match value {
            SecretValue::Disclosed(dek) if !dek.expose().is_empty() => {
                Some(BindRemark::ReadableValue(secret))
            }
            SecretValue::Private => Some(BindRemark::PrivateValue(secret)),
            SecretValue::Disclosed(_) | SecretValue::None => None,
        }
    }
}
