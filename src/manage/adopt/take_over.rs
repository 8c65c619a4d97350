//! The first half: the key gets into the store.

use super::examine::Examined;
use super::{Adopting, NotAdopted, SecretOutcome, StoredKey, Target, Work};
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::key::dek::Dek;
use crate::manage::host::{HostError, default_deadline};
use crate::store::{AddKey, OtherKeys};
use crate::verdict::adopt::{AdoptedKey, AvailableSecret, decide};
use crate::verdict::facts::Provider;

impl Adopting {
    /// Takes over one guest's key.
    pub(super) fn take_over(&mut self, work: &mut Work) {
        let Some(target) = &work.target else { return };
        match self.store_key(target) {
            Ok(stored) => work.result.stored = Some(stored),
            Err(error) => work.result.error = Some(error),
        }
    }

    fn store_key(&mut self, target: &Target) -> Result<StoredKey, NotAdopted> {
        let Examined {
            facts,
            value,
            opened,
            provider,
        } = self.examine(target)?;
        let adoption = match decide(&facts) {
            Ok(adoption) => adoption,
            Err(why) => {
                let provider = Box::new(provider);
                return Err(NotAdopted::Refused {
                    why,
                    provider,
                    daemons: self.daemons,
                });
            }
        };
        let (key_ref, is_new) = match (adoption.key, &value) {
            (AdoptedKey::Existing(key_ref), _) => (key_ref, false),
            (AdoptedKey::New, Some(dek)) => {
                // The guest's next start retires those that its state refutes.
                let others = if facts.keys.is_empty() {
                    OtherKeys::Refuse
                } else {
                    OtherKeys::Keep
                };
                let proven = adoption.proven;
                (self.add(target, &provider, dek, proven, others)?, true)
            }
            (AdoptedKey::New, None) => return Err(NotAdopted::Changed),
        };
        let mut opened = opened.into_iter();
        let held = opened.find(|key| key.key_ref.id == key_ref);
        Ok(StoredKey {
            key_ref,
            provider: held.map_or(provider, |key| key.provider).name,
            is_new,
            proven: adoption.proven,
            guessable: value.as_ref().is_some_and(Dek::is_guessable),
            secret: match facts.secret {
                AvailableSecret::Absent => SecretOutcome::Absent,
                AvailableSecret::Own => SecretOutcome::Own,
                _ if adoption.remove_secret => SecretOutcome::ToRemove,
                _ => SecretOutcome::Kept,
            },
        })
    }

    /// Wraps the key and adds its row. One that the state has proven has been used.
    fn add(
        &mut self,
        target: &Target,
        provider: &Provider,
        dek: &Dek,
        proven: bool,
        others: OtherKeys<'_>,
    ) -> Result<KeyRefId, HostError> {
        let guest = target.domain.uuid;
        let now = Timestamp::now();
        let known = self.store.references(guest, now)?;
        let generation =
            self.unlocker
                .next_generation(&known, Some(&target.domain), default_deadline());
        let key = self
            .unlocker
            .wrap(dek, provider, guest, generation, default_deadline())?;
        self.store.set_deadline(default_deadline())?;
        let added = self.store.add_key(&AddKey {
            domain: guest,
            provider: provider.uuid,
            key: &key,
            secret_uuid: Some(target.secret),
            first_used_at: proven.then_some(now),
            others,
            now,
        })?;
        Ok(added)
    }
}
