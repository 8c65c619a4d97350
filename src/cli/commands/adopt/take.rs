//! The first half: the key gets into the store.

use super::examine::{Examined, provider_of};
use super::{Adopting, Candidate, SecretFate, Taken, Target, words};
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::key::dek::Dek;
use crate::key::new_key::NewKey;
use crate::key::wrap::{self, WrappedDek};
use crate::manage::host::default_deadline;
use crate::manage::providers::named_by;
use crate::store::{AddKey, OtherKeys};
use crate::verdict::adopt::{AdoptedKey, AvailableSecret, decide};
use crate::verdict::facts::{Provider, References};

impl Adopting {
    /// Takes over one guest's key. `others` are the guests that will not be adopted with it.
    pub(crate) fn take_over(
        &mut self,
        candidate: &Candidate,
        others: &[&Candidate],
    ) -> Result<Taken, CommandError> {
        let target = candidate.target()?;
        let Examined {
            facts,
            references,
            value,
            provider,
        } = self.examine(target, others)?;
        let adoption = decide(&facts).map_err(|why| words::refusal(why, target, &provider))?;
        let (key_ref, new) = match (adoption.key, &value) {
            (AdoptedKey::Existing(key_ref), _) => (key_ref, false),
            (AdoptedKey::New, Some(dek)) => {
                (self.add(target, &provider, dek, adoption.proven)?, true)
            }
            (AdoptedKey::New, None) => return Err(words::changed_meanwhile()),
        };
        let provider = match provider_of(&references, key_ref) {
            Some(wraps) if !new => wraps.name.clone(),
            _ => provider.name,
        };
        let secret = match facts.secret {
            AvailableSecret::Absent => SecretFate::Absent,
            AvailableSecret::Own => SecretFate::Own,
            _ if adoption.remove_secret => SecretFate::ToGo,
            _ => SecretFate::Kept,
        };
        Ok(Taken {
            key_ref,
            provider,
            new,
            proven: adoption.proven,
            guessable: value.as_ref().is_some_and(Dek::is_guessable),
            secret,
        })
    }

    /// The provider whose KEK wraps a key of this guest: the one that was named, else the one
    /// that its placeholder names, else the default.
    pub(crate) fn provider_for(&self, references: &References) -> Provider {
        let mut placeholders = references
            .key_refs
            .iter()
            .filter(|row| row.wrapped_dek.is_none());
        let bound = placeholders.find_map(|row| named_by(row, &references.providers));
        bound
            .filter(|_| !self.provider_named)
            .unwrap_or(&self.provider)
            .clone()
    }

    /// Wraps the key and adds its row. One that the state has proven has been used.
    fn add(
        &mut self,
        target: Target<'_>,
        provider: &Provider,
        dek: &Dek,
        proven: bool,
    ) -> Result<KeyRefId, CommandError> {
        let kek = self.kek(provider.key_id)?;
        let wrapped_dek = WrappedDek::wrap(kek, dek, target.domain.uuid)
            .map_err(|error| CommandError::failed(format!("its key cannot be wrapped: {error}")))?;
        let now = Timestamp::now();
        self.store.set_deadline(default_deadline())?;
        let added = self.store.add_key(&AddKey {
            domain: target.domain.uuid,
            provider: provider.uuid,
            key: &NewKey {
                wrapped_dek,
                key_id: provider.key_id,
                key_version: provider.key_version,
                algorithm: wrap::ALGORITHM,
            },
            secret_uuid: Some(target.secret),
            first_used_at: proven.then_some(now),
            others: OtherKeys::Refuse,
            now,
        });
        Ok(added?)
    }
}
