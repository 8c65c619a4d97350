//! `encrypt`: a stopped guest's plain TPM state becomes an encrypted one, and its XML says so.
//!
//! In this order, so that a kill after any step leaves a guest that starts as before or is
//! refused with the advice to run `encrypt` again, which goes on from there:
//!
//! | done | state | XML | a start |
//! | --- | --- | --- | --- |
//! | the key is made and in the store | plain | plain | as before; the key lies ready |
//! | the plain state is kept beside the store, the new one lies beside the old | plain | plain | as before |
//! | libvirt has the new XML | plain | encrypted | VG503, `encrypt` |
//! | the new state is in place | encrypted | encrypted | with the key |
//!
//! The state is held under swtpm's lock all the while: nothing can start in between.

mod key;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use self::key::{Choice, Key, opened};
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::guest_errors::not_recorded;
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::ids::{KeyRefId, SecretUuid};
use crate::libvirt::Libvirt;
use crate::libvirt::secret::SecretError;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::stopped_guest::{DefinedGuest, StoppedError};
use crate::messages::quoted;
use crate::store::{Origin, Store};
use crate::swtpm::{LockedState, TpmData};
use crate::verdict::facts::Provider;

pub(crate) fn run(
    context: &Context,
    text: &str,
    named: Option<&str>,
) -> Result<ExitCode, CommandError> {
    let guard = context.host.guard(BrokenConfig::Fail)?;
    let libvirt = context.host.libvirt();
    let (mut store, choice) = Choice::of(context, named)?;
    let known = context.host.stopped_guest(text)?;
    let held = known
        .lock_state(&guard)?
        .ok_or_else(|| words::no_state(&known))?;
    let data = TpmData::from_plain(held.blob())
        .map_err(|error| StoppedError::Recrypt(known.reference(), error.into()))?;
    let mut job = Job {
        context,
        libvirt: &*libvirt,
        store: &mut store,
        known: &known,
    };
    match data {
        Some(data) => job.encrypt(held, &data, choice)?,
        None => job.complete(&held)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One guest's encryption.
struct Job<'a> {
    context: &'a Context,
    libvirt: &'a dyn Libvirt,
    store: &'a mut Store,
    known: &'a DefinedGuest,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The state was encrypted.
    Encrypted,
    /// The state was encrypted already; now the XML says so too.
    Completed,
    /// Nothing was left to do.
    None,
}

/// Where it went wrong.
enum Failure {
    /// Before libvirt had the new XML: all can be as it was.
    Before(CommandError),
    /// After, or nobody knows: only going on makes it whole.
    After(CommandError),
}

impl Job<'_> {
    /// The state is plain.
    fn encrypt(
        &mut self,
        held: LockedState,
        data: &TpmData,
        choice: Choice,
    ) -> Result<(), CommandError> {
        let domain = self.known.uuid();
        let secret = self.known.vtpm.secret_uuid;
        let key = Key::find_or_make(self.context, self.store, domain, choice, secret)?;
        let kept = match self.carry_out(held, data, &key) {
            Ok(kept) => kept,
            Err(Failure::After(error)) => return Err(words::unfinished(self.known, &error)),
            Err(Failure::Before(error)) => return Err(self.take_back(&key, error)),
        };
        self.record(format!(
            "its TPM state is encrypted with a key of provider \"{}\" (key reference {})",
            key.provider.name, key.id
        ));
        self.answer(Action::Encrypted, key.id, &key.provider, key.secret)?;
        self.context.output.note(&format!(
            "the plain state is kept until the guest has started with the encrypted one: {}",
            kept.display()
        ));
        Ok(())
    }

    /// All that follows the key. Gives the place where the plain state is kept.
    fn carry_out(
        &mut self,
        held: LockedState,
        data: &TpmData,
        key: &Key,
    ) -> Result<PathBuf, Failure> {
        let (known, state_dir) = (self.known, self.context.host.state_dir());
        let kept = plain_state::save(state_dir, known.uuid(), &held)
            .map_err(|error| Failure::Before(words::not_kept(state_dir, &error)))?;
        let staged = known
            .stage(held, data, &key.dek)
            .map_err(|error| Failure::Before(error.into()))?;
        if known.vtpm.secret_uuid.is_none() {
            self.redefine(key.secret)?;
        }
        // Before the state: the key of a state that is there must never count as unused.
        let now = Timestamp::now();
        self.store
            .use_key(key.id, now)
            .and_then(|_| self.store.mark_started(known.uuid(), now))
            .map_err(|error| Failure::After(error.into()))?;
        staged.install().map_err(|error| {
            Failure::After(StoppedError::Write(known.reference(), error).into())
        })?;
        Ok(kept)
    }

    /// The state is encrypted: the XML was put back, or there is nothing to do.
    fn complete(&mut self, held: &LockedState) -> Result<(), CommandError> {
        let known = self.known;
        let seen = self.store.references(known.uuid(), Timestamp::now())?;
        let key = opened(self.context, &seen, known.uuid())
            .into_iter()
            .find(|key| TpmData::decrypt(held.blob(), &key.dek).is_ok())
            .ok_or_else(|| words::not_ours(known))?;
        let id = key.key_ref.id;
        if let Some(secret) = known.vtpm.secret_uuid {
            return self.answer(Action::None, id, &key.provider, secret);
        }
        let secret = key.key_ref.secret_uuid.unwrap_or_else(SecretUuid::random);
        match self.redefine(secret) {
            Ok(()) => {}
            Err(Failure::Before(error)) => return Err(error),
            Err(Failure::After(error)) => return Err(words::unfinished(known, &error)),
        }
        self.record("its XML says again that its TPM is encrypted".to_owned());
        self.answer(Action::Completed, id, &key.provider, secret)
    }

    /// Lets the XML say that the TPM is encrypted.
    fn redefine(&self, secret: SecretUuid) -> Result<(), Failure> {
        let known = self.known;
        let asked = self
            .libvirt
            .encrypt_vtpm(known.uuid(), secret, default_deadline());
        match asked {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Before(words::redefined_meanwhile(known))),
            // It may have done it, and only its answer not have come.
            Err(SecretError::Unreachable(why)) => Err(Failure::After(CommandError::failed(
                format!("libvirt: {why}"),
            ))),
            Err(error) => Err(Failure::Before(words::not_redefined(known, &error))),
        }
    }

    /// Takes back what was done for an attempt that failed.
    fn take_back(&mut self, key: &Key, error: CommandError) -> CommandError {
        let domain = self.known.uuid();
        let forgotten = plain_state::remove(self.context.host.state_dir(), domain);
        let undone = forgotten
            .map_err(CommandError::failed)
            .and_then(|_| Ok(key.take_back(self.store, domain)?));
        match undone {
            Ok(()) => error,
            // It does no harm: the next attempt uses it.
            Err(left) => CommandError::failed(format!("{error}; what it made is left: {left}")),
        }
    }

    fn record(&mut self, message: String) {
        if let Err(error) = self.known.record(self.store, Origin::Encrypt, message) {
            self.context.output.note(&not_recorded(&error));
        }
    }

    fn answer(
        &self,
        action: Action,
        key_ref: KeyRefId,
        provider: &Provider,
        secret: SecretUuid,
    ) -> Result<(), CommandError> {
        let action_word = match action {
            Action::Encrypted => "encrypted",
            Action::Completed => "completed",
            Action::None => "none",
        };
        let document = json!({
            "domain": super::key::document(&self.known.reference()),
            "provider": { "name": provider.name, "uuid": provider.uuid.to_string() },
            "key_ref": key_ref.0,
            "secret_uuid": secret.to_string(),
            "action": action_word,
        });
        let (label, provider) = (self.known.label(), quoted(&provider.name));
        self.context.output.answer(&document, |out| match action {
            Action::Encrypted => writeln!(
                out,
                "the TPM of {label} is encrypted with a key of provider {provider} (key \
                 reference {key_ref}); its XML names the secret {secret}"
            ),
            Action::Completed => writeln!(
                out,
                "the TPM of {label} was encrypted already (key reference {key_ref}); its XML \
                 names the secret {secret} now"
            ),
            Action::None => writeln!(
                out,
                "the TPM of {label} is encrypted already (key reference {key_ref} of provider \
                 {provider}): nothing changed"
            ),
        })
    }
}
