//! The second half: makes sure of the stored key, and only then lets libvirt's secret go.

use std::collections::BTreeMap;

use super::examine::{evidence, is_exported};
use super::{Adopting, SecretFate, Taken, Target, Work, words};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::config::Lifetime;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::libvirt::Libvirt;
use crate::libvirt::files;
use crate::libvirt::secret::HostSecrets;
use crate::manage::host::default_deadline;
use crate::messages::label;
use crate::store::{Event, Origin};
use crate::verdict::Over;
use crate::verdict::adopt::{AvailableSecret, Evidence};
use crate::verdict::facts::References;

impl Adopting {
    /// Finishes what was taken over, secret by secret: one of several guests goes when all
    /// of them have its key.
    pub(crate) fn finish(&mut self, works: &mut [Work<'_>]) {
        let progress = Progress::new("making sure", works.len());
        let mut by_secret: BTreeMap<SecretUuid, Vec<&mut Work<'_>>> = BTreeMap::new();
        for work in works {
            if let Some(secret) = work.candidate.secret() {
                by_secret.entry(secret).or_default().push(work);
            }
        }
        for (secret, mut sharing) in by_secret {
            for work in &mut sharing {
                progress.at(&work.candidate.guest.name);
                work.go_on(|target, taken| self.make_sure(target, taken));
            }
            self.let_go(secret, &mut sharing);
            for work in &mut sharing {
                work.go_on(|target, taken| self.record(target, taken));
                work.go_on(|target, taken| self.look_behind(target, taken));
            }
        }
        progress.done();
    }

    /// Does everything anew that the secret's end rests on: what does not hold is an error.
    fn make_sure(&mut self, target: Target<'_>, taken: &Taken) -> Result<(), CommandError> {
        let goes = taken.secret == SecretFate::ToGo;
        if !goes && taken.secret != SecretFate::Kept {
            return Ok(());
        }
        let references = self.references(target.domain.uuid)?;
        let (kek, dek) = self.stored_dek(target, taken.key_ref, &references)?;
        let (at_hand, value) = self.secret_at_hand(target.secret, target.domain.uuid)?;
        let is_empty = matches!(at_hand, AvailableSecret::NoValue { .. });
        let is_the_value = value.is_some_and(|value| value.same_as(&dek));
        let proof = evidence(&self.state(target), &dek);
        let holds = proof == Evidence::Proven || (proof == Evidence::NoState && !taken.proven);
        let may_go = !goes || is_empty || is_exported(&references, kek);
        if (is_the_value || is_empty) && holds && may_go {
            Ok(())
        } else {
            Err(words::changed_meanwhile())
        }
    }

    /// The DEK of the guest's row and the KEK that wraps it. The KEK is opened anew: that the
    /// keyring still has it is what counts.
    fn stored_dek(
        &self,
        target: Target<'_>,
        key_ref: KeyRefId,
        references: &References,
    ) -> Result<(KeyId, Dek), CommandError> {
        let mut rows = references.key_refs.iter();
        let wrapped = rows
            .find(|row| row.id == key_ref)
            .and_then(|row| row.wrapped_dek.as_ref())
            .ok_or_else(words::changed_meanwhile)?;
        let not_kept = |error| words::not_kept(key_ref, error);
        let key_id = wrapped.key_id().map_err(not_kept)?;
        let kek = self.guard.keyring().open(key_id, default_deadline())?;
        let dek = wrapped.unwrap(&kek, target.domain.uuid).map_err(not_kept)?;
        Ok((key_id, dek.ok_or_else(words::changed_meanwhile)?))
    }

    /// Undefines the secret that these guests name, if all of them are sure of its key.
    fn let_go(&mut self, secret: SecretUuid, sharing: &mut [&mut Work<'_>]) {
        if !sharing.iter().any(|work| work.secret_goes()) {
            return;
        }
        let undone: Vec<_> = sharing
            .iter()
            .filter(|work| work.trouble.is_some())
            .map(|work| label(&work.candidate.guest.name))
            .collect();
        let fate = if undone.is_empty() {
            self.undefine(secret).map(|()| SecretFate::Removed)
        } else {
            Ok(SecretFate::KeptFor(undone))
        };
        for work in sharing.iter_mut().filter(|work| work.secret_goes()) {
            work.go_on(|_, taken| {
                taken.secret = fate.clone()?;
                Ok(())
            });
        }
    }

    fn undefine(&mut self, secret: SecretUuid) -> Result<(), CommandError> {
        let undefined = self.ask(|secrets| secrets.undefine(secret, default_deadline()))?;
        undefined
            .map(|_| ())
            .map_err(|error| words::not_undefined(secret, &error))
    }

    /// Notes in the history what this run has changed.
    fn record(&mut self, target: Target<'_>, taken: &Taken) -> Result<(), CommandError> {
        let removed = taken.secret == SecretFate::Removed;
        let what = match (taken.new, removed) {
            (true, true) => "its key was taken over from libvirt's secret, which is gone",
            (true, false) => "its key was taken over from libvirt's secret, which stays",
            (false, true) => "libvirt's secret of its key is gone",
            (false, false) => return Ok(()),
        };
        self.store.set_deadline(default_deadline())?;
        let (now, domain) = (Timestamp::now(), target.domain);
        let event = Event::new(now, Origin::Adopt, domain.uuid, &domain.name, what);
        self.store.record_event(&event)?;
        Ok(())
    }

    /// What comes after the secret's end: none of libvirt's files of it may be left, and
    /// `secret.lifetime = "keep"` wants one of the guard's own in its place.
    fn look_behind(&mut self, target: Target<'_>, taken: &Taken) -> Result<(), CommandError> {
        let removed = taken.secret == SecretFate::Removed;
        let uri = &self.guard.config.secret_uri;
        if (removed || taken.secret == SecretFate::Absent) && files::are_of_this_host(uri) {
            let left = files::remaining_files(&self.guard.config.libvirt.secrets(), target.secret)
                .map_err(CommandError::failed)?;
            if !left.is_empty() {
                return Err(words::left_behind(target.secret, &left));
            }
        }
        if removed && self.guard.config.secret_lifetime == Lifetime::Keep {
            let references = self.references(target.domain.uuid)?;
            let (_, dek) = self.stored_dek(target, taken.key_ref, &references)?;
            let domain = target.domain.uuid;
            let provided = self.ask(|secrets| {
                secrets.provide(
                    target.secret,
                    domain,
                    &dek,
                    Over::GuardsOwn,
                    default_deadline(),
                )
            })?;
            provided.map_err(|error| words::not_provided(target.secret, &error))?;
        }
        Ok(())
    }
}

impl Work<'_> {
    /// Whether libvirt's secret is to go, as far as this guest is concerned.
    fn secret_goes(&self) -> bool {
        let taken = self.taken.as_ref().filter(|_| self.trouble.is_none());
        taken.is_some_and(|taken| taken.secret == SecretFate::ToGo)
    }

    /// Does the next step, unless one before it failed.
    fn go_on(&mut self, step: impl FnOnce(Target<'_>, &mut Taken) -> Result<(), CommandError>) {
        if let (Some(taken), None) = (&mut self.taken, &self.trouble) {
            let target = self.candidate.target();
            self.trouble = target.and_then(|target| step(target, taken)).err();
        }
    }
}
