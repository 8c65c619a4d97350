//! The sentences of what `adopt` refuses, and what helps.

use std::path::Path;

use crate::cli::ui::error::CommandError;
use crate::ids::SecretUuid;
use crate::libvirt::Daemons;
use crate::manage::guests::GuestRef;
use crate::messages::{Arg, Command, Named, kind, label, quoted};
use crate::verdict::adopt::{
    AvailableSecret, HeldKey, NotAdoptable, SecretNeeded, Sharer, Undisclosed,
};
use crate::verdict::code::Code;
use crate::verdict::facts::Provider;

/// Why this guest's key may not be taken over, or its secret not be removed. `provider` is the one
/// whose key wraps the guest's, or would.
pub(super) fn refused(
    why: NotAdoptable,
    guest: &GuestRef,
    secret: Option<SecretUuid>,
    provider: &Provider,
    daemons: Daemons,
) -> CommandError {
    let arg = guest.arg.clone();
    let secret: Arg<kind::Secret> = secret.map_or(Arg::UUID, Arg::from);
    let (message, hint) = match why {
        NotAdoptable::NothingToAdopt(available) => nothing_to_adopt(&available, secret, arg),
        NotAdoptable::OtherUse(usage) => (
            format!(
                "the secret {secret} is not one for a vTPM; its usage is {}",
                quoted(&usage)
            ),
            format!(
                "let its XML name a secret of usage type vtpm: {}",
                Command::VirshEdit(arg)
            ),
        ),
        NotAdoptable::Undisclosed { why, held } => {
            let message = undisclosed(&why, &secret);
            let hint = match held {
                Some(held) => hint_beside(held, secret, arg, provider),
                None => how_to_disclose(&why, arg, daemons),
            };
            (message, hint)
        }
        NotAdoptable::DoesNotOpen => (
            format!("the value of the secret {secret} does not open its TPM state"),
            format!(
                "set the right one: {}; for details: {}",
                Command::VirshSecretSetValue(secret),
                Command::ExplainCode(Code::KeyDoesNotOpenTpm.into())
            ),
        ),
        NotAdoptable::StatePlain => (
            "its TPM state is not encrypted, so the secret's value is not its key".to_owned(),
            format!(
                "encrypt it: {}; for details: {}",
                Command::Encrypt(arg),
                Command::ExplainCode(Code::EncryptionMismatch.into())
            ),
        ),
        NotAdoptable::StateUnreadable(why) => (
            format!("its TPM state cannot be read, so it does not verify the key: {why}"),
            "restore the state first; nothing has changed".to_owned(),
        ),
        NotAdoptable::StateArrives => (
            "its TPM state has not arrived yet, so nothing verifies the key".to_owned(),
            format!("adopt it when it runs: {}", Command::Adopt(arg)),
        ),
        NotAdoptable::RunsWithoutState => (
            "it is running, and its TPM state is not where libvirt keeps it, so nothing verifies \
             the key"
                .to_owned(),
            format!(
                "shut it down; for what its start would do then: {}",
                Command::Check(arg)
            ),
        ),
        NotAdoptable::HasAnotherKey { key_ref, opened } => {
            let which = if opened {
                "another key"
            } else {
                "a key that does not open on this host"
            };
            (
                format!("the guard has {which} for it (key reference {key_ref})"),
                format!(
                    "show what it opens: {}; retire it: {}",
                    Command::KeyShow(arg),
                    Command::KeyRetire(key_ref.into())
                ),
            )
        }
        NotAdoptable::SecretNeeded(needed) => still_needed(needed, secret, arg, provider),
    };
    CommandError::refused(message).with_hint(hint)
}

fn as_arg(sharer: &Sharer) -> Arg {
    Arg::guest(Named {
        name: &sharer.name,
        uuid: Some(sharer.uuid),
    })
}

fn nothing_to_adopt(
    available: &AvailableSecret,
    secret: Arg<kind::Secret>,
    guest: Arg,
) -> (String, String) {
    match available {
        AvailableSecret::Own => (
            format!(
                "the secret {secret} is the guard's own, and no key of the guest opens its TPM"
            ),
            format!("for details: {}", Command::Check(guest)),
        ),
        AvailableSecret::NoValue { .. } => (
            format!("the secret {secret} has no value"),
            format!("set it: {}", Command::VirshSecretSetValue(secret)),
        ),
        _ => (
            format!("libvirt has no secret {secret}"),
            format!(
                "a new guest needs none: {}",
                Command::KeyBind(guest, Arg::NAME)
            ),
        ),
    }
}

/// Why the guard has the guest's key, or can have it, and libvirt's secret may not go.
fn still_needed(
    needed: SecretNeeded,
    secret: Arg<kind::Secret>,
    guest: Arg,
    provider: &Provider,
) -> (String, String) {
    match needed {
        SecretNeeded::ServesAnything => (
            format!(
                "the secret {secret} has no usage, so it may serve other things than this vTPM \
                 and is not removed"
            ),
            format!(
                "adopt with --keep-plaintext; when nothing else needs it: {}",
                Command::VirshSecretUndefine(secret)
            ),
        ),
        SecretNeeded::Shared(others) => {
            let together = [guest].into_iter().chain(others.iter().map(as_arg));
            (
                format!("{} needs the secret {secret}, too", names(&others)),
                format!(
                    "adopt them together: {}",
                    Command::Adopt(together.collect())
                ),
            )
        }
        SecretNeeded::NeverExported => (
            format!(
                "provider {} was never exported, and libvirt's secret is the only other copy of \
                 the key",
                quoted(&provider.name)
            ),
            format!(
                "export it: {}; or leave the secret as it is: --keep-plaintext",
                Command::ProviderExport(provider.into())
            ),
        ),
    }
}

fn names(guests: &[Sharer]) -> String {
    let names: Vec<_> = guests.iter().map(|guest| label(&guest.name)).collect();
    names.join(", ")
}

fn undisclosed(why: &Undisclosed, secret: &Arg<kind::Secret>) -> String {
    let why = match why {
        Undisclosed::NoFile => "and has no file of it on this host".to_owned(),
        Undisclosed::Encrypted(path) => format!("and keeps it encrypted in {path}"),
        Undisclosed::File(why) => format!("and its file is not usable: {why}"),
    };
    format!("libvirt does not disclose the value of the private secret {secret}, {why}")
}

/// What becomes of a secret that nobody can read, where the guard's key opens the TPM. Its value may
/// be the only key of somebody else.
fn hint_beside(
    held: HeldKey,
    secret: Arg<kind::Secret>,
    guest: Arg,
    provider: &Provider,
) -> String {
    let opens = format!("key reference {} opens the TPM", held.key_ref);
    let undefine = Command::VirshSecretUndefine(secret);
    match held.secret_needed {
        None => format!("{opens}, so the secret can be removed: {undefine}"),
        Some(SecretNeeded::ServesAnything) => format!(
            "{opens}, but the secret has no usage, so it may serve other things than this vTPM; \
             when nothing else needs it: {undefine}"
        ),
        Some(SecretNeeded::Shared(others)) => format!(
            "{opens}; {} may need the secret, so give this guest a secret UUID of its own in \
             <encryption secret=…> ({} prints one): {}",
            names(&others),
            Command::Uuidgen,
            Command::VirshEdit(guest)
        ),
        Some(SecretNeeded::NeverExported) => format!(
            "{opens}, but provider {} was never exported; export it: {}; then the secret can be \
             removed: {undefine}",
            quoted(&provider.name),
            Command::ProviderExport(provider.into())
        ),
    }
}

fn how_to_disclose(why: &Undisclosed, guest: Arg, daemons: Daemons) -> String {
    match why {
        Undisclosed::Encrypted(path) => make_readable(Path::new(path), guest, daemons),
        Undisclosed::NoFile | Undisclosed::File(_) => format!(
            "if you know its value: give it to a new secret that is not private ({}, \
             secret-set-value), let the guest name that one ({}), and adopt again",
            Command::VirshSecretDefine(Arg::FILE),
            Command::VirshEdit(guest)
        ),
    }
}

/// How libvirt is made to disclose a value that it keeps encrypted in this file: it never changes
/// whether a secret is private, but reads it from the definition when its daemon starts.
fn make_readable(value: &Path, guest: Arg, daemons: Daemons) -> String {
    format!(
        "make it readable in its definition ({}), restart the daemon that has libvirt's secrets ({}), \
         and adopt it: {}",
        Command::SecretNotPrivate(Arg::file(&value.with_extension("xml"))),
        Command::SystemctlRestart(daemons.of_secrets().into()),
        Command::Adopt(guest)
    )
}
