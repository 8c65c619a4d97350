//! What must be known of a guest before its key is taken over.

use super::{Adopting, KnownGuest, Target};
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::keyring::unlock::OpenedKey;
use crate::libvirt::files::{self, StoredValue};
use crate::libvirt::secret::{Purpose, SecretError, SecretValue};
use crate::manage::host::{HostError, default_deadline};
use crate::store::StoreError;
use crate::swtpm::{StateFile, read_state};
use crate::verdict::adopt::{
    AdoptFacts, AvailableSecret, Evidence, ExistingKey, Expected, KeyComparison, Sharer,
    Undisclosed,
};
use crate::verdict::facts::{Damage, Proof, Provider, References, provider_of};

/// The facts, and the keys that were read on the way to them.
pub(super) struct Examined {
    pub(super) facts: AdoptFacts,
    /// The secret's value, if it was read.
    pub(super) value: Option<Dek>,
    /// The guest's key references that opened.
    pub(super) opened: Vec<OpenedKey>,
    /// The provider that wraps the key, or will.
    pub(super) provider: Provider,
}

impl Adopting {
    /// Looks at one guest.
    pub(super) fn examine(&mut self, target: &Target) -> Result<Examined, HostError> {
        let (secret, value) = self.available_secret(target)?;
        let state = self.state(target);
        let references = self.references(target.domain.uuid)?;
        let opened = self.opened_keys(&references, target.domain.uuid);
        let is_its_key = |key: &&OpenedKey| match &value {
            Some(value) => key.dek.same_as(value),
            None => evidence(&state, &key.dek) == Evidence::Proven,
        };
        let provider = match opened.iter().find(is_its_key) {
            Some(key) => key.provider.clone(),
            None => self.provider_for(&references),
        };
        let sharers = match &value {
            Some(dek) => self.sharers(target, dek)?,
            None => self.all_others(target),
        };
        let facts = AdoptFacts {
            secret,
            evidence: match &value {
                Some(dek) => evidence(&state, dek),
                None => Evidence::NoState,
            },
            expected: match (references.state_arrives, target.running) {
                (true, _) => Some(Expected::Arrives),
                (false, true) => Some(Expected::Runs),
                (false, false) => None,
            },
            keys: existing_keys(&references, &opened, value.as_ref(), &state),
            exported: is_exported(&references, provider.key_id),
            sharers,
            keep_plaintext: self.keep_plaintext,
        };
        Ok(Examined {
            facts,
            value,
            opened,
            provider,
        })
    }

    /// What libvirt has under the UUID of the secret, and its value as far as it can be read.
    pub(super) fn available_secret(
        &mut self,
        target: &Target,
    ) -> Result<(AvailableSecret, Option<Dek>), SecretError> {
        let secret = target.secret;
        let found = self.ask(|libvirt| libvirt.reveal(secret, default_deadline()))?;
        let Some(found) = found else {
            return Ok((AvailableSecret::Absent, None));
        };
        let definition = found.definition;
        if definition.purpose == Purpose::Other {
            return Ok((AvailableSecret::OtherUse(definition.usage), None));
        }
        if definition.guards_domain() == Some(target.domain.uuid) {
            return Ok((AvailableSecret::Own, None));
        }
        let serves_anything = definition.purpose == Purpose::Anything;
        let value = match found.value {
            SecretValue::Disclosed(dek) => Ok(Some(dek)),
            SecretValue::None => Ok(None),
            SecretValue::Private => self.value_in_files(target).map(Some),
        };
        Ok(match value {
            Err(why) => {
                let undisclosed = AvailableSecret::Undisclosed {
                    why,
                    serves_anything,
                };
                (undisclosed, None)
            }
            // libvirt takes no byte as a value, but there is nothing to wrap.
            Ok(Some(dek)) if !dek.expose().is_empty() => {
                (AvailableSecret::Value { serves_anything }, Some(dek))
            }
            Ok(_) => (AvailableSecret::NoValue { serves_anything }, None),
        })
    }

    /// The value of a private secret, from libvirt's own files.
    fn value_in_files(&self, target: &Target) -> Result<Dek, Undisclosed> {
        if !files::are_of_this_host(&self.config.secret_uri) {
            return Err(Undisclosed::NoFile);
        }
        match files::stored_value(&self.config.libvirt.secrets(), target.secret) {
            Ok(StoredValue::Value(dek)) => Ok(dek),
            Ok(StoredValue::Encrypted(path)) => {
                Err(Undisclosed::Encrypted(path.display().to_string()))
            }
            Ok(StoredValue::None) => Err(Undisclosed::NoFile),
            Err(error) => Err(Undisclosed::File(error.to_string())),
        }
    }

    /// The guest's TPM state as it is now.
    pub(super) fn state(&self, target: &Target) -> StateFile {
        let states = self.config.libvirt.tpm_states();
        read_state(&states, target.domain.uuid, &target.vtpm)
    }

    /// The rows of one guest, read under a deadline of their own.
    pub(super) fn references(&mut self, guest: DomainUuid) -> Result<References, StoreError> {
        self.store.set_deadline(default_deadline())?;
        self.store.references(guest, Timestamp::now())
    }

    /// The keys of one guest, as far as they open here.
    fn opened_keys(&mut self, references: &References, guest: DomainUuid) -> Vec<OpenedKey> {
        let rows = references.key_refs.iter().cloned();
        let providers = &references.providers;
        self.unlocker
            .open_rows(rows, providers, guest, default_deadline())
    }

    /// The provider for a new key of this guest: the one that was named, else the one that its
    /// placeholder names, else the default.
    fn provider_for(&self, references: &References) -> Provider {
        let mut placeholders = references
            .key_refs
            .iter()
            .filter(|row| row.wrapped_dek.is_none());
        let bound = placeholders.find_map(|row| provider_of(row, &references.providers));
        bound
            .filter(|_| !self.provider_named)
            .unwrap_or(&self.provider)
            .clone()
    }

    /// The other guests that name this secret.
    fn all_others(&self, target: &Target) -> Vec<Sharer> {
        let others = self.others_with_the_secret(target);
        others.map(|other| other.guest.clone()).collect()
    }

    fn others_with_the_secret(&self, target: &Target) -> impl Iterator<Item = &KnownGuest> {
        let (this, secret) = (target.domain.uuid, target.secret);
        let others = self.encrypted.iter();
        others.filter(move |other| other.secret == secret && other.guest.uuid != this)
    }

    /// The other guests that name this secret, will not be adopted with this one, and whose key is
    /// not in the store, wrapped by a provider key that has been exported.
    fn sharers(&mut self, target: &Target, value: &Dek) -> Result<Vec<Sharer>, StoreError> {
        let sharing: Vec<_> = self
            .others_with_the_secret(target)
            .filter(|other| !other.is_chosen)
            .map(|other| other.guest.clone())
            .collect();
        let mut sharers = Vec::new();
        for sharer in sharing {
            let references = self.references(sharer.uuid)?;
            let is_safe = |key: &OpenedKey| {
                key.dek.same_as(value) && is_exported(&references, key.provider.key_id)
            };
            if !self
                .opened_keys(&references, sharer.uuid)
                .iter()
                .any(is_safe)
            {
                sharers.push(sharer);
            }
        }
        Ok(sharers)
    }
}

/// What the guest's rows with a key hold, compared with this value.
fn existing_keys(
    references: &References,
    opened: &[OpenedKey],
    value: Option<&Dek>,
    state: &StateFile,
) -> Vec<ExistingKey> {
    let rows = references.key_refs.iter();
    let keyed = rows.filter(|row| row.wrapped_dek.is_some());
    keyed
        .map(|row| ExistingKey {
            key_ref: row.id,
            key: match opened.iter().find(|key| key.key_ref.id == row.id) {
                None => KeyComparison::NotOpened,
                Some(key) if value.is_some_and(|value| value.same_as(&key.dek)) => {
                    KeyComparison::Same
                }
                Some(key) => KeyComparison::Another(match evidence(state, &key.dek) {
                    Evidence::Proven => Proof::Proven,
                    Evidence::Refuted => Proof::Refuted,
                    _ => Proof::None,
                }),
            },
        })
        .collect()
}

/// What the TPM state says of a key.
pub(super) fn evidence(state: &StateFile, dek: &Dek) -> Evidence {
    match state {
        StateFile::Encrypted(state) if state.is_opened_by(dek) => Evidence::Proven,
        StateFile::Encrypted(_) => Evidence::Refuted,
        StateFile::Absent => Evidence::NoState,
        StateFile::Plain => Evidence::Plain,
        StateFile::Damaged(Damage { how: why, .. }) | StateFile::Unreadable(why) => {
            Evidence::Unreadable(why.clone())
        }
    }
}

/// Whether a provider with this key has been exported, or a key manager opens its key.
pub(super) fn is_exported(references: &References, provider_key: KeyId) -> bool {
    let mut providers = references.providers.iter();
    providers.any(|known| {
        let is_safe = known.exported_at.is_some() || known.kms.opened_at.is_some();
        known.key_id == provider_key && is_safe
    })
}
