//! The second half: verifies the stored keys, and only then removes libvirt's secrets.

use std::collections::BTreeMap;

use super::examine::{evidence, is_exported};
use super::{Adopting, NotAdopted, SecretOutcome, Step, StoredKey, Target, Work};
use crate::clock::Timestamp;
use crate::config::Lifetime;
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::files;
use crate::manage::host::default_deadline;
use crate::store::{Event, Origin};
use crate::verdict::Over;
use crate::verdict::adopt::{AvailableSecret, Evidence};
use crate::verdict::facts::References;

impl Adopting {
    /// Completes what was taken over, secret by secret: the secret of several guests goes when all
    /// of them have its key.
    pub(super) fn release(&mut self, guests: &mut [Work], progress: &mut dyn FnMut(Step<'_>)) {
        let mut by_secret: BTreeMap<SecretUuid, Vec<&mut Work>> = BTreeMap::new();
        for work in guests {
            if let Some(secret) = work.result.secret {
                by_secret.entry(secret).or_default().push(work);
            }
        }
        for (secret, mut sharing) in by_secret {
            for work in &mut sharing {
                progress(Step::Guest(&work.name));
                work.proceed(|target, stored| self.verify(target, stored));
            }
            self.remove(secret, &mut sharing);
            for work in &mut sharing {
                work.proceed(|target, stored| self.record(target, stored));
                work.proceed(|target, stored| self.replace(target, stored));
            }
        }
    }

    /// Does everything once more that the removal of the secret rests on.
    fn verify(&mut self, target: &Target, stored: &StoredKey) -> Result<(), NotAdopted> {
        let removes = stored.secret == SecretOutcome::ToRemove;
        if !removes && stored.secret != SecretOutcome::Kept {
            return Ok(());
        }
        let references = self.references(target.domain.uuid)?;
        let (wrapped, dek) = self.reopen(target, stored, &references)?;
        let (available, value) = self.available_secret(target)?;
        let is_empty = matches!(available, AvailableSecret::NoValue { .. });
        let is_the_value = value.is_some_and(|value| value.same_as(&dek));
        let proof = evidence(&self.state(target), &dek);
        let holds = proof == Evidence::Proven || (proof == Evidence::NoState && !stored.proven);
        let provider_key = wrapped.key_id();
        let exported = provider_key.is_ok_and(|key_id| is_exported(&references, key_id));
        let may_go = !removes || is_empty || exported;
        if (is_the_value || is_empty) && holds && may_go {
            Ok(())
        } else {
            Err(NotAdopted::Changed)
        }
    }

    /// The guest's wrapped key as the store has it now, and what it opens to. The provider key is
    /// unsealed once more: what counts is that the keyring still has it.
    fn reopen<'r>(
        &self,
        target: &Target,
        stored: &StoredKey,
        references: &'r References,
    ) -> Result<(&'r WrappedDek, Dek), NotAdopted> {
        let key_ref = stored.key_ref;
        let mut rows = references.key_refs.iter();
        let row = rows.find(|row| row.id == key_ref);
        let Some(wrapped) = row.and_then(|row| row.wrapped_dek.as_ref()) else {
            return Err(NotAdopted::Changed);
        };
        let opened =
            Unlocker::new(&self.keyring).open(wrapped, target.domain.uuid, default_deadline());
        match opened {
            Ok(dek) => Ok((wrapped, dek)),
            Err(error) => Err(NotAdopted::NotOpened { key_ref, error }),
        }
    }

    /// Undefines the secret that these guests name, if the key of each of them was verified.
    fn remove(&mut self, secret: SecretUuid, sharing: &mut [&mut Work]) {
        let is_to_go = |work: &Work| {
            let stored = work.stored();
            stored.is_some_and(|stored| stored.secret == SecretOutcome::ToRemove)
        };
        if !sharing.iter().any(|work| is_to_go(work)) {
            return;
        }
        let missing: Vec<_> = sharing
            .iter()
            .filter(|work| work.result.error.is_some())
            .map(|work| work.result.guest.clone())
            .collect();
        let outcome = if missing.is_empty() {
            let undefined = self.ask(|libvirt| libvirt.undefine(secret, default_deadline()));
            undefined.map(|_| SecretOutcome::Removed)
        } else {
            Ok(SecretOutcome::KeptFor(missing))
        };
        for work in sharing.iter_mut().filter(|work| is_to_go(work)) {
            work.proceed(|_, stored| {
                stored.secret = outcome.clone().map_err(NotAdopted::NotUndefined)?;
                Ok(())
            });
        }
    }

    /// Records in the history what this run has changed.
    fn record(&mut self, target: &Target, stored: &StoredKey) -> Result<(), NotAdopted> {
        let removed = stored.secret == SecretOutcome::Removed;
        let what = match (stored.is_new, removed) {
            (true, true) => "its key was taken over from libvirt's secret, which was removed",
            (true, false) => "its key was taken over from libvirt's secret, which stays",
            (false, true) => "libvirt's secret with its key was removed",
            (false, false) => return Ok(()),
        };
        let (now, domain) = (Timestamp::now(), &target.domain);
        let event = Event::new(now, Origin::Adopt, domain.uuid, &domain.name, what);
        self.store
            .set_deadline(default_deadline())
            .and_then(|()| self.store.record_event(&event))
            .map_err(NotAdopted::NotRecorded)
    }

    /// What follows the removal: none of libvirt's files of the secret may be left, and
    /// `secret.lifetime = "keep"` wants one of the guard's own in its place.
    fn replace(&mut self, target: &Target, stored: &StoredKey) -> Result<(), NotAdopted> {
        let removed = stored.secret == SecretOutcome::Removed;
        let config = &self.config;
        if (removed || stored.secret == SecretOutcome::Absent)
            && files::are_of_this_host(&config.secret_uri)
        {
            let left = files::remaining_files(&config.libvirt.secrets(), target.secret)?;
            if !left.is_empty() {
                return Err(NotAdopted::FilesLeft(left));
            }
        }
        if removed && config.secret_lifetime == Lifetime::Keep {
            let guest = target.domain.uuid;
            let references = self.references(guest)?;
            let (_, dek) = self.reopen(target, stored, &references)?;
            let over = Over::GuardsOwn;
            self.ask(|libvirt| {
                libvirt.provide(target.secret, guest, &dek, over, default_deadline())
            })
            .map_err(NotAdopted::NotProvided)?;
        }
        Ok(())
    }
}
