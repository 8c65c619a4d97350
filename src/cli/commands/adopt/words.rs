//! Why a guest is not adopted, and what helps.

use std::path::PathBuf;

use super::Target;
use crate::cli::ui::error::CommandError;
use crate::domain::Domain;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::wrap::UnwrapError;
use crate::libvirt::secret::SecretError;
use crate::messages::{Arg, Named, label, quoted};
use crate::verdict::adopt::{AvailableSecret, NotAdoptable, Sharer, Undisclosed};
use crate::verdict::facts::Provider;

/// A refusal of the decision. `provider` is the one whose key wraps, or would.
pub(crate) fn refusal(why: NotAdoptable, target: Target<'_>, provider: &Provider) -> CommandError {
    let guest = Arg::guest(target.domain);
    let secret = target.secret;
    let (message, hint) = match why {
        NotAdoptable::NothingToAdopt(at_hand) => nothing_to_adopt(&at_hand, secret, &guest),
        NotAdoptable::OtherUse(usage) => (
            format!("the secret {secret} is not one for a vTPM; its usage is \"{usage}\""),
            format!("let its XML name a secret of usage type vtpm: virsh edit {guest}"),
        ),
        NotAdoptable::Undisclosed { why, held } => undisclosed(why, held, secret, &guest),
        NotAdoptable::DoesNotOpen => (
            format!("the value of the secret {secret} does not open its TPM state"),
            format!(
                "set the right one: virsh secret-set-value {secret}; see: vtpm-guard explain VG204"
            ),
        ),
        NotAdoptable::StatePlain => (
            "its TPM state is not encrypted, so the secret's value is no key of it".to_owned(),
            format!("encrypt it: vtpm-guard encrypt {guest}; see: vtpm-guard explain VG503"),
        ),
        NotAdoptable::StateUnreadable(why) => (
            format!("its TPM state cannot be read, so nothing proves the key: {why}"),
            "nothing was changed; adopt it when the state is whole again".to_owned(),
        ),
        NotAdoptable::StateArrives => (
            "its TPM state is still on its way, so nothing proves the key".to_owned(),
            format!("adopt it when it runs: vtpm-guard adopt {guest}"),
        ),
        NotAdoptable::RunsWithoutState => (
            "it runs, and its TPM state is not where libvirt keeps it: nothing proves the key"
                .to_owned(),
            format!("shut it down, see what its start would do: vtpm-guard check {guest}"),
        ),
        NotAdoptable::HasAnotherKey { key_ref, opened } => {
            let kind = if opened {
                "another key"
            } else {
                "a key that nothing opens here"
            };
            (
                format!("the guard holds {kind} for it (key reference {key_ref})"),
                format!(
                    "see what it opens: vtpm-guard key show {guest}; put it out of use: \
                     vtpm-guard key retire {key_ref}"
                ),
            )
        }
        NotAdoptable::ServesAnything => (
            format!(
                "the secret {secret} has no usage, so it may serve other things than this vTPM \
                 and is not removed"
            ),
            format!(
                "adopt with --keep-plaintext; when nothing else needs it: \
                 virsh secret-undefine {secret}"
            ),
        ),
        NotAdoptable::Shared(others) => (
            format!("{} needs the secret {secret}, too", names(&others)),
            format!("adopt them together: vtpm-guard adopt {guest} {}", {
                let others: Vec<_> = others.iter().map(|other| arg(other).to_string()).collect();
                others.join(" ")
            }),
        ),
        NotAdoptable::NeverExported => (
            format!(
                "provider {} was never exported, and libvirt's secret is the only other copy of \
                 the key",
                quoted(&provider.name)
            ),
            format!(
                "export it: vtpm-guard provider export {} --output FILE; or leave the secret as it \
                 is: --keep-plaintext",
                Arg::provider(provider)
            ),
        ),
    };
    CommandError::refused(message).with_hint(hint)
}

fn names(sharers: &[Sharer]) -> String {
    let names: Vec<_> = sharers.iter().map(|sharer| label(&sharer.name)).collect();
    names.join(", ")
}

fn arg(Sharer { name, uuid }: &Sharer) -> Arg {
    Arg::guest(Named {
        name,
        uuid: Some(*uuid),
    })
}

fn nothing_to_adopt(
    at_hand: &AvailableSecret,
    secret: SecretUuid,
    guest: &Arg,
) -> (String, String) {
    match at_hand {
        AvailableSecret::Own => (
            format!("the secret {secret} is the guard's own, and no key of its opens the TPM"),
            format!("see what there is: vtpm-guard key show {guest}"),
        ),
        AvailableSecret::NoValue { .. } => (
            format!("the secret {secret} has no value"),
            format!("set it: virsh secret-set-value {secret}"),
        ),
        _ => (
            format!("libvirt has no secret {secret}"),
            format!("a new guest needs none: vtpm-guard key bind {guest} --provider NAME"),
        ),
    }
}

fn undisclosed(
    why: Undisclosed,
    held: Option<KeyRefId>,
    secret: SecretUuid,
    guest: &Arg,
) -> (String, String) {
    let why = match why {
        Undisclosed::NoFile => "and keeps no file of it on this host".to_owned(),
        Undisclosed::Encrypted(path) => format!("and keeps it encrypted in {path}"),
        Undisclosed::File(why) => format!("and its file was not taken: {why}"),
    };
    let hint = match held {
        Some(key_ref) => format!(
            "key reference {key_ref} opens the TPM, so the secret can go: \
             virsh secret-undefine {secret}"
        ),
        None => format!(
            "who knows its value can give it to a new secret that is not private (virsh \
             secret-define, secret-set-value), let the guest name that one (virsh edit {guest}), \
             and adopt again"
        ),
    };
    (
        format!("the secret {secret} is private: libvirt tells its value to nobody, {why}"),
        hint,
    )
}

pub(crate) fn xml_unreadable(why: &str) -> CommandError {
    CommandError::refused(format!("its XML cannot be read: {why}"))
        .with_hint("see: vtpm-guard explain VG501")
}

pub(crate) fn no_encrypted_vtpm(domain: &Domain) -> CommandError {
    let hint = match domain.vtpm {
        Some(_) => format!("encrypt it: vtpm-guard encrypt {}", Arg::guest(domain)),
        None => "see its XML: virsh dumpxml".to_owned(),
    };
    CommandError::refused("it has no encrypted vTPM").with_hint(hint)
}

/// What was seen while taking over and what was seen while making sure are not the same.
pub(crate) fn changed_meanwhile() -> CommandError {
    CommandError::failed("its key, its secret or its TPM state changed meanwhile")
        .with_hint("try again; libvirt's secret is as it was")
}

pub(crate) fn not_kept(key_ref: KeyRefId, error: UnwrapError) -> CommandError {
    CommandError::failed(format!(
        "key reference {key_ref} does not give its key back: {error}"
    ))
    .with_hint("libvirt's secret is as it was; see: vtpm-guard store check")
}

pub(crate) fn not_undefined(secret: SecretUuid, error: &SecretError) -> CommandError {
    match error {
        SecretError::Unreachable(_) | SecretError::Starting => error.clone().into(),
        SecretError::Refused(_)
        | SecretError::Conflict(_)
        | SecretError::OfGuest(_)
        | SecretError::Changed => CommandError::failed(format!(
            "its key is in the store, but the secret {secret} stays: {error}"
        ))
        .with_hint("try again, or remove it: virsh secret-undefine"),
    }
}

pub(crate) fn not_provided(secret: SecretUuid, error: &SecretError) -> CommandError {
    CommandError::failed(format!(
        "it is adopted, but libvirt did not take the secret {secret} of the guard's: {error}"
    ))
    .with_hint("its next start tries again")
}

pub(crate) fn left_behind(secret: SecretUuid, files: &[PathBuf]) -> CommandError {
    let files: Vec<_> = files
        .iter()
        .map(|file| Arg::file(file).to_string())
        .collect();
    CommandError::failed(format!(
        "its key is in the store and libvirt has no secret {secret} any more, but left behind {}",
        files.join(" and ")
    ))
    .with_hint(format!("remove what is left: rm {}", files.join(" ")))
}
