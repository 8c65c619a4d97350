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

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::context::{self, BrokenConfig, Context};
use super::error::AdminError;
use super::opened::{OpenedKey, opened_keys, wrap_for};
use super::stopped::{Known, stopped};
use super::{key, provider};
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::Libvirt;
use crate::report::{one_line, shell_word};
use crate::secret::SecretError;
use crate::store::{Access, Change, Store, StoreError};
use crate::swtpm::{HeldState, TpmData};
use crate::verdict::facts::{KeyRef, Provider, References};
use crate::verdict::repair::Repair;

/// What a guest's state is encrypted with.
struct Key {
    id: KeyRefId,
    dek: Dek,
    provider: Provider,
    /// How to take the key back.
    made: Option<Made>,
}

/// Where a key was made by this very command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// In a placeholder that was there.
    InPlaceholder,
    /// In a row of its own.
    InNewRow,
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

pub(super) fn run(
    context: &Context,
    text: &str,
    named: Option<&str>,
) -> Result<ExitCode, AdminError> {
    context::protect_keys()?;
    let guard = context.guard(BrokenConfig::IsAnError)?;
    let libvirt = context::libvirt();
    let (mut store, fallback) = store_and_provider(context, named)?;
    let known = stopped(&libvirt, text)?;
    let Some(held) = known.hold(&guard)? else {
        return Err(no_state(&known));
    };
    let data =
        TpmData::from_plain(held.blob()).map_err(|error| known.not_recrypted(&error.into()))?;
    let mut job = Job {
        context,
        libvirt: &libvirt,
        store: &mut store,
        known: &known,
    };
    match data {
        Some(data) => job.encrypt(held, &data, named, fallback)?,
        None => job.complete(&held)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The store, and the provider that is named, or the default one if there is one.
fn store_and_provider(
    context: &Context,
    named: Option<&str>,
) -> Result<(Store, Option<Provider>), AdminError> {
    if let Some(name) = named {
        let (store, provider) = provider::find(context, name, Access::Write)?;
        return Ok((store, Some(provider)));
    }
    let store = context.store(Access::Write)?.ok_or(StoreError::Missing)?;
    let default = store
        .providers()?
        .into_iter()
        .find(|known| known.is_default);
    Ok((store, default))
}

struct Job<'a> {
    context: &'a Context,
    libvirt: &'a Libvirt,
    store: &'a mut Store,
    known: &'a Known,
}

impl Job<'_> {
    /// The state is plain.
    fn encrypt(
        &mut self,
        held: HeldState,
        data: &TpmData,
        named: Option<&str>,
        fallback: Option<Provider>,
    ) -> Result<(), AdminError> {
        let known = self.known;
        let seen = self.store.references(known.uuid(), Timestamp::now())?;
        let secret = known.vtpm.secret_uuid;
        let (key, secret) = match self.key_at_hand(&seen, named.and(fallback.as_ref())) {
            Some(key) => {
                let its = key.key_ref.secret_uuid;
                let secret = secret.or(its).unwrap_or_else(SecretUuid::random);
                (Key::at_hand(key), secret)
            }
            None => {
                let secret = secret.unwrap_or_else(SecretUuid::random);
                (self.make_key(&seen, named, fallback, secret)?, secret)
            }
        };
        let kept = match self.carry_out(held, data, &key, secret) {
            Ok(kept) => kept,
            Err(error) => return Err(self.take_back(&key, error)),
        };
        let message = format!(
            "its TPM state is encrypted with a key of provider \"{}\" (key reference {})",
            key.provider.name, key.id
        );
        self.record(message)?;
        self.answer(Action::Encrypted, key.id, &key.provider, secret)?;
        self.context.output.note(&format!(
            "the plain state is kept until the guest has started with the encrypted one: {}",
            kept.display()
        ));
        Ok(())
    }

    /// All that follows the key. Up to the new XML, an error leaves all as it was.
    fn carry_out(
        &mut self,
        held: HeldState,
        data: &TpmData,
        key: &Key,
        secret: SecretUuid,
    ) -> Result<std::path::PathBuf, Failure> {
        let known = self.known;
        let kept = plain_state::keep(self.context.state_dir(), known.uuid(), &held)
            .map_err(|error| Failure::Before(not_kept(self.context.state_dir(), &error)))?;
        let staged = known.stage(held, data, &key.dek).map_err(Failure::Before)?;
        if known.vtpm.secret_uuid.is_none() {
            self.libvirt
                .encrypt_vtpm(known.uuid(), secret, context::patience())
                .map_err(|error| not_redefined(known, &error))
                .and_then(|changed| {
                    if changed {
                        Ok(())
                    } else {
                        Err(redefined_meanwhile(known))
                    }
                })?;
        }
        let after = |error: AdminError| Failure::After(unfinished(known, &error));
        // Before the state: what a kill leaves must never count as a key that was not used.
        let now = Timestamp::now();
        self.store
            .use_key(key.id, now)
            .and_then(|_| self.store.mark_started(known.uuid(), now))
            .map_err(|error| after(error.into()))?;
        staged
            .put_in_place()
            .map_err(|error| after(known.not_written(&error)))?;
        Ok(kept)
    }

    /// The state is encrypted: an interrupted run, or an XML that was put back.
    fn complete(&mut self, held: &HeldState) -> Result<(), AdminError> {
        let known = self.known;
        let seen = self.store.references(known.uuid(), Timestamp::now())?;
        let key = self
            .opened(&seen)
            .into_iter()
            .find(|key| TpmData::decrypt(held.blob(), &key.dek).is_ok())
            .ok_or_else(|| not_ours(known))?;
        if let Some(secret) = known.vtpm.secret_uuid {
            return self.answer(Action::None, key.key_ref.id, &key.provider, secret);
        }
        let secret = key.key_ref.secret_uuid.unwrap_or_else(SecretUuid::random);
        self.libvirt
            .encrypt_vtpm(known.uuid(), secret, context::patience())
            .map_err(|error| not_redefined(known, &error).into_error())?;
        self.record("its XML says again that its TPM is encrypted".to_owned())?;
        self.answer(Action::Completed, key.key_ref.id, &key.provider, secret)
    }

    fn opened(&self, seen: &References) -> Vec<OpenedKey> {
        let rows = seen.key_refs.iter().cloned();
        opened_keys(
            &self.context.keyring(),
            rows,
            &seen.providers,
            self.known.uuid(),
        )
    }

    /// A key that an interrupted run made, or that the guest had before: the newest of the
    /// provider that was named, if one was.
    fn key_at_hand(&self, seen: &References, named: Option<&Provider>) -> Option<OpenedKey> {
        let mut keys = self.opened(seen);
        keys.retain(|key| named.is_none_or(|named| named.uuid == key.provider.uuid));
        keys.pop()
    }

    /// Makes the guest's key, in its placeholder if it has one.
    fn make_key(
        &mut self,
        seen: &References,
        named: Option<&str>,
        fallback: Option<Provider>,
        secret: SecretUuid,
    ) -> Result<Key, AdminError> {
        let placeholder = seen.key_refs.iter().find(|row| row.wrapped_dek.is_none());
        let bound = placeholder.and_then(|row| provider::named_by(row, &seen.providers));
        let provider = match (named, bound) {
            (None, Some(bound)) => bound.clone(),
            _ => fallback.ok_or_else(no_provider)?,
        };
        let dek = Dek::generate()?;
        let new_key = wrap_for(&self.context.keyring(), &provider, &dek, self.known.uuid())?;
        let key_ref = placeholder.map(|row| row.id);
        let made = self.store.apply(&Change {
            domain: self.known.uuid(),
            seen,
            repairs: &creation(placeholder, &provider),
            new_key: Some(&new_key),
            secret_uuid: Some(secret),
            consume_incoming: false,
            event: None,
            now: Timestamp::now(),
        })?;
        Ok(Key {
            id: made.or(key_ref).ok_or(StoreError::Changed)?,
            dek,
            provider,
            made: Some(match key_ref {
                Some(_) => Made::InPlaceholder,
                None => Made::InNewRow,
            }),
        })
    }

    /// Takes back what was done for an attempt that failed before libvirt had the new XML.
    fn take_back(&mut self, key: &Key, failure: Failure) -> AdminError {
        let error = match failure {
            Failure::Before(error) => error,
            Failure::After(error) => return error,
        };
        let undone = plain_state::forget(self.context.state_dir(), self.known.uuid())
            .map_err(AdminError::failed)
            .and_then(|_| Ok(self.take_back_key(key)?));
        match undone {
            Ok(()) => error,
            // It does no harm: the next attempt uses it.
            Err(left) => AdminError::failed(format!("{error}; what it made is left: {left}")),
        }
    }

    fn take_back_key(&mut self, key: &Key) -> Result<(), StoreError> {
        let Some(made) = key.made else {
            return Ok(());
        };
        let (domain, now) = (self.known.uuid(), Timestamp::now());
        self.store.take_back_fresh_key(domain, now)?;
        if made == Made::InPlaceholder {
            return Ok(());
        }
        let seen = self.store.references(domain, now)?;
        self.store.apply(&Change {
            domain,
            seen: &seen,
            repairs: &[Repair::DeletePlaceholder { key_ref: key.id }],
            new_key: None,
            secret_uuid: None,
            consume_incoming: false,
            event: None,
            now,
        })?;
        Ok(())
    }

    fn record(&mut self, message: String) -> Result<(), StoreError> {
        let event = self.known.event("encrypt", message, Timestamp::now());
        self.store.record_event(&event)
    }

    fn answer(
        &self,
        action: Action,
        key_ref: KeyRefId,
        provider: &Provider,
        secret: SecretUuid,
    ) -> Result<(), AdminError> {
        let action_word = match action {
            Action::Encrypted => "encrypted",
            Action::Completed => "completed",
            Action::None => "none",
        };
        let document = json!({
            "domain": key::document(&self.known.named()),
            "provider": { "name": provider.name, "uuid": provider.uuid.to_string() },
            "key_ref": key_ref.0,
            "secret_uuid": secret.to_string(),
            "action": action_word,
        });
        let (label, provider) = (self.known.label(), one_line(&provider.name));
        self.context.output.answer(&document, |out| match action {
            Action::Encrypted => writeln!(
                out,
                "the TPM of {label} is encrypted with a key of provider \"{provider}\" (key \
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
                 \"{provider}\"): nothing changed"
            ),
        })
    }
}

impl Key {
    fn at_hand(key: OpenedKey) -> Self {
        Self {
            id: key.key_ref.id,
            dek: key.dek,
            provider: key.provider,
            made: None,
        }
    }
}

/// The changes that make a key, in the placeholder if there is one.
fn creation(placeholder: Option<&KeyRef>, provider: &Provider) -> Vec<Repair> {
    let key_ref = placeholder.map(|row| row.id);
    let is_bound = placeholder.is_some_and(|row| {
        row.provider_uuid == Some(provider.uuid) && row.provider_name == provider.name
    });
    let bind = (!is_bound).then(|| Repair::BindProvider {
        key_ref,
        provider: provider.uuid,
        provider_name: provider.name.clone(),
    });
    let create = Repair::CreateKey {
        key_ref,
        provider: provider.uuid,
    };
    bind.into_iter().chain([create]).collect()
}

/// Where it went wrong.
enum Failure {
    /// Before libvirt had the new XML: all can be as it was.
    Before(AdminError),
    /// After: only going on makes it whole.
    After(AdminError),
}

impl Failure {
    fn into_error(self) -> AdminError {
        match self {
            Self::Before(error) | Self::After(error) => error,
        }
    }
}

fn not_redefined(known: &Known, error: &SecretError) -> Failure {
    let message = format!("the XML of {} was not changed: {error}", known.label());
    match error {
        SecretError::Refused(_) | SecretError::Conflict(_) => {
            Failure::Before(AdminError::failed(message))
        }
        // It may have heard, and only its answer not have come.
        SecretError::Unreachable(_) => Failure::After(unfinished(
            known,
            &AdminError::failed(format!("libvirt: {error}")),
        )),
    }
}

fn redefined_meanwhile(known: &Known) -> Failure {
    Failure::Before(
        AdminError::failed(format!(
            "the XML of {} was changed by somebody else just now",
            known.label()
        ))
        .with_hint("try again"),
    )
}

fn not_kept(state_dir: &Path, error: &std::io::Error) -> AdminError {
    AdminError::failed(format!(
        "the plain state cannot be kept in {}: {error}; nothing was changed",
        state_dir.display()
    ))
}

fn unfinished(known: &Known, error: &AdminError) -> AdminError {
    AdminError::failed(format!("{} is encrypted by half: {error}", known.label())).with_hint(
        format!(
            "run it again, it goes on from here: vtpm-guard encrypt {}",
            shell_word(&known.guest.name)
        ),
    )
}

fn no_provider() -> AdminError {
    AdminError::usage("there is no default provider")
        .with_hint("name one: --provider NAME; or choose one: vtpm-guard provider set-default NAME")
}

/// Nothing to encrypt: the guest's first start makes an encrypted TPM if its XML says so.
fn no_state(known: &Known) -> AdminError {
    let word = shell_word(&known.guest.name);
    let hint = match known.vtpm.secret_uuid {
        Some(_) => format!("see what its start would do: vtpm-guard check {word}"),
        None => format!(
            "let its first start make an encrypted one: vtpm-guard key bind {word} --provider \
             NAME; virsh edit {word}, in the TPM's <backend>: <encryption secret='{}'/>",
            SecretUuid::random()
        ),
    };
    AdminError::refused(format!(
        "{} has no TPM state that could be encrypted",
        known.label()
    ))
    .with_hint(hint)
}

fn not_ours(known: &Known) -> AdminError {
    let word = shell_word(&known.guest.name);
    AdminError::refused(format!(
        "the TPM state of {} is encrypted already, and no key in the store opens it on this host",
        known.label()
    ))
    .with_hint(format!(
        "see what its keys need: vtpm-guard key show {word}"
    ))
}
