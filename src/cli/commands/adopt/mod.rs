//! `adopt`: takes over the keys in existing libvirt secrets.
//!
//! For each guest: read the value, prove it against the TPM state, wrap it, store it. Then,
//! once more from the beginning: read the stored row, unwrap it, compare it with libvirt's
//! value, prove it. Only what has passed that loses its secret. Every step leaves the guest
//! able to start, and a run that was killed is continued by the next one.

mod answer;
mod examine;
mod finish;
mod take;
mod words;

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::domain::{self, Domain, Emulator};
use crate::guard::Guard;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::libvirt::{Guest, LibvirtClient};
use crate::manage::guests::GuestError;
use crate::manage::host::BrokenConfig;
use crate::manage::providers::ProvidersLock;
use crate::store::Store;
use crate::verdict::facts::Provider;

/// A guest that libvirt knows, and its definition.
struct Candidate {
    guest: Guest,
    domain: Result<Domain, String>,
}

/// A guest with an encrypted vTPM.
#[derive(Clone, Copy)]
struct Target<'k> {
    domain: &'k Domain,
    vtpm: &'k Emulator,
    secret: SecretUuid,
    running: bool,
}

/// A guest that is to be adopted, and how far that has come.
struct Work<'k> {
    candidate: &'k Candidate,
    /// Its key, once that is in the store.
    taken: Option<Taken>,
    /// Why it did not go further.
    trouble: Option<CommandError>,
}

/// A guest whose key is in the store.
struct Taken {
    key_ref: KeyRefId,
    /// The provider that wraps it, by name.
    provider: String,
    /// Whether this run put it there.
    new: bool,
    /// Whether the TPM state has proven it.
    proven: bool,
    /// Whether it is so short that it can be guessed.
    guessable: bool,
    secret: SecretFate,
}

/// What becomes of libvirt's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SecretFate {
    /// libvirt has none.
    Absent,
    /// It is the guard's own.
    Own,
    /// It stays, as was asked for.
    Kept,
    /// It stays until these guests are adopted, too.
    KeptFor(Vec<String>),
    /// It is to go.
    ToGo,
    /// It is gone.
    Removed,
}

/// What adopting works with.
struct Adopting {
    guard: Guard,
    store: Store,
    secrets: LibvirtClient,
    /// The provider that was named, or the default.
    provider: Provider,
    /// Whether it was named: else a guest's placeholder may name another.
    provider_named: bool,
    keep_plaintext: bool,
    /// The KEKs that were opened.
    keks: BTreeMap<KeyId, Kek>,
    /// Why libvirt's secrets cannot be asked for any more: nobody waits for them again.
    unreachable: Option<CommandError>,
}

pub(crate) fn run(
    context: &Context,
    which: &Domains,
    provider: Option<&str>,
    keep_plaintext: bool,
) -> Result<ExitCode, CommandError> {
    let guard = context.host.guard(BrokenConfig::Fail)?;
    let (store, found) = match provider {
        Some(name) => context.host.provider_for_new_keys(Some(name))?,
        None => context.host.provider_for_new_keys(None)?,
    };
    let known = known_guests(context)?;
    let (chosen, others) = choose(context, which, &known)?;
    // A provider that is deleted or rotated meanwhile would take the key with it.
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let mut adopting = Adopting {
        secrets: LibvirtClient::at(&guard.config.secret_uri).with_dirs(&guard.config.libvirt),
        guard,
        store,
        provider: found,
        provider_named: provider.is_some(),
        keep_plaintext,
        keks: BTreeMap::new(),
        unreachable: None,
    };
    let progress = Progress::new("taking keys over", chosen.len());
    let mut works = Vec::new();
    for candidate in chosen {
        progress.at(&candidate.guest.name);
        let (taken, trouble) = match adopting.take_over(candidate, &others) {
            Ok(taken) => (Some(taken), None),
            Err(trouble) => (None, Some(trouble)),
        };
        works.push(Work {
            candidate,
            taken,
            trouble,
        });
    }
    progress.done();
    adopting.finish(&mut works);
    answer::print(&context.output, &works)?;
    answer::warn(&context.output, &works);
    Ok(answer::status(&works))
}

/// All guests that libvirt knows, by name.
fn known_guests(context: &Context) -> Result<Vec<Candidate>, CommandError> {
    let guests = context.host.guests()?;
    let read = |guest: Guest| Candidate {
        domain: domain::read(guest.xml.as_bytes()).map_err(|error| error.to_string()),
        guest,
    };
    Ok(guests.into_iter().map(read).collect())
}

/// The guests to adopt, each once, and all others. With `--all` those without an encrypted
/// vTPM are left out; one whose XML cannot be read may have one.
fn choose<'k>(
    context: &Context,
    which: &Domains,
    known: &'k [Candidate],
) -> Result<(Vec<&'k Candidate>, Vec<&'k Candidate>), CommandError> {
    let mut wanted = Vec::new();
    for text in &which.domains {
        let found = context
            .host
            .pick(text, known.iter().map(|one| &one.guest))?;
        wanted.push(
            found
                .ok_or_else(|| GuestError::NotFound(text.to_owned()))?
                .uuid,
        );
    }
    let is_chosen = |one: &&Candidate| {
        let may_have_one = one.domain.is_err() || one.secret().is_some();
        wanted.contains(&one.guest.uuid) || (which.all && may_have_one)
    };
    Ok(known.iter().partition(is_chosen))
}

impl Candidate {
    /// The secret of its encrypted vTPM.
    fn secret(&self) -> Option<SecretUuid> {
        let (_, secret) = self.domain.as_ref().ok()?.encrypted_vtpm()?;
        Some(secret)
    }

    fn target(&self) -> Result<Target<'_>, CommandError> {
        let domain = self
            .domain
            .as_ref()
            .map_err(|why| words::xml_unreadable(why))?;
        let (vtpm, secret) = domain
            .encrypted_vtpm()
            .ok_or_else(|| words::no_encrypted_vtpm(domain))?;
        Ok(Target {
            domain,
            vtpm,
            secret,
            running: self.guest.running,
        })
    }
}
