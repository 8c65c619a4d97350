//! The words of findings about keys, the store and TPM states.

use std::collections::BTreeSet;

use super::{Described, seal};
use crate::cli::ui::answer::time;
use crate::cli::ui::describe::{Keep, deleted_at_stop, deleted_at_undefine, shared_secret};
use crate::ids::DomainUuid;
use crate::manage::checks::KeyFinding;
use crate::manage::dry_start::CheckedGuest;
use crate::manage::fleet::announced_name;
use crate::manage::guests::GuestRef;
use crate::manage::host::HostError;
use crate::manage::providers::ProviderRef;
use crate::messages::{Arg, Command, Words, count, kind, label, quoted, refusal};
use crate::recovery::file::RecoveryError;
use crate::store::{AlikeFindings, StoreError};
use crate::verdict::facts::Provider;
use crate::verdict::refusal::Refusal;

const LOST_WITH_HOST: &str = "if this host is lost, so is its key and every TPM that depends on it";

fn some_alike(AlikeFindings { first, others }: &AlikeFindings) -> String {
    let first: Vec<_> = first.iter().map(ToString::to_string).collect();
    let others = match others {
        0 => String::new(),
        others => format!("; and {others} more like this"),
    };
    first.join("; ") + &others
}

pub(super) fn describe(finding: &KeyFinding) -> Described {
    match finding {
        KeyFinding::StoreUnusable(error) => store_unusable(error),
        KeyFinding::Store(found) => Described::error(
            format!("the store: {}", some_alike(found)),
            "a start that needs this row may be refused",
            Command::StoreCheck.to_string(),
        ),
        KeyFinding::Clock { last, now } => Described::warning(
            format!(
                "the last decision is from {}, but the clock shows {}",
                time(Some(*last)),
                time(Some(*now))
            ),
            "the clock was set back or is wrong: the history is out of order, and notes of \
             arriving TPM state expire at the wrong time",
            Command::Timedatectl.to_string(),
        ),
        KeyFinding::Sealed(..)
        | KeyFinding::SlowToOpen { .. }
        | KeyFinding::WeakSeal { .. }
        | KeyFinding::SealedToTpm(_)
        | KeyFinding::UnusedTpm { .. } => seal::describe(finding),
        KeyFinding::NeverExported(provider) => Described::error(
            format!("provider {} was never exported", quoted(&provider.name)),
            LOST_WITH_HOST,
            export(provider),
        ),
        KeyFinding::PreviousNeverExported(provider) => Described::warning(
            format!("provider {} was never exported", quoted(&provider.name)),
            "it is a previous provider key, and store backups of its time need it",
            export(provider),
        ),
        KeyFinding::OneKind(provider, kind) => Described::warning(
            format!(
                "beside this host, only key managers of kind {} open the key of provider {}",
                quoted(kind),
                quoted(&provider.name)
            ),
            "if these and this host are lost, so is the key and every TPM that depends on it",
            export(provider),
        ),
        KeyFinding::StillOnDisk(provider) => Described::warning(
            format!(
                "the key of provider {} is on this host's disk, and provider.cache is \"boot\"",
                quoted(&provider.name)
            ),
            "a copy of this disk may open it without the key manager",
            Command::OpenOf(Arg::provider(provider)).to_string(),
        ),
        KeyFinding::Slot(provider, slot, error) => Described::error(
            format!(
                "slot {slot} of provider {} does not open: {error}",
                quoted(&provider.name)
            ),
            "one way less to the key: it is missed on the day that this host's own is lost",
            Command::SlotVerify(Arg::provider(provider)).to_string(),
        ),
        KeyFinding::RotationUnfinished { .. } | KeyFinding::RotationBegun(_) => {
            of_rotation(finding)
        }
        KeyFinding::OldExport(provider, at) => Described::warning(
            format!(
                "provider {} was last exported on {}",
                quoted(&provider.name),
                time(Some(*at))
            ),
            "a recovery file that nobody has opened for a year may be lost or damaged",
            format!("verify it: {}", Command::ProviderImportDryRun(Arg::FILE)),
        ),
        KeyFinding::Recovery(file, error) => Described::error(
            match error {
                RecoveryError::Io { .. } => error.to_string(),
                _ => format!("{}: {error}", file.display()),
            },
            "this file cannot restore a provider",
            format!("make a new one: {}", Command::ProviderExport(Arg::NAME)),
        ),
        KeyFinding::NotCovered(provider) => Described::error(
            format!(
                "none of these recovery files restores provider {} (key {})",
                quoted(&provider.name),
                provider.key_id.short()
            ),
            LOST_WITH_HOST,
            export(provider),
        ),
        _ => of_guest(finding),
    }
}

fn store_unusable(error: &HostError) -> Described {
    // `store check` would only say the same of one that is too new.
    let fix = match error {
        HostError::Store(StoreError::TooNew { .. }) => format!(
            "reinstall the newer version of vtpm-guard, or restore a backup: {}",
            Command::StoreRestore(Arg::FILE)
        ),
        _ => Command::StoreCheck.to_string(),
    };
    Described::error(
        format!("the store cannot be used: {error}"),
        "no guest's key is known",
        fix,
    )
}

/// A rotation that is not finished.
fn of_rotation(finding: &KeyFinding) -> Described {
    match finding {
        KeyFinding::RotationUnfinished { provider, key_refs } => Described::warning(
            format!(
                "not re-wrapped with the key of provider {}: {}",
                quoted(&provider.name),
                count(*key_refs, "key reference")
            ),
            "its rotation was interrupted, or another tool brought them back: they still need a previous key",
            rotate(provider),
        ),
        KeyFinding::RotationBegun(provider) => Described::warning(
            format!(
                "the next key of provider {} is announced in the fleet, and its rotation is not finished",
                quoted(&provider.name)
            ),
            "the keys of guests stay under the present key until it is",
            format!("unless it runs now on another host: {}", rotate(provider)),
        ),
        _ => unreachable!("only findings about rotations come here"),
    }
}

/// What concerns the key or the TPM state of a guest.
fn of_guest(finding: &KeyFinding) -> Described {
    match finding {
        KeyFinding::OnDisk {
            file,
            encrypted,
            secret,
            guests,
        } => {
            let (what, why) = if *encrypted {
                (
                    "holds a vTPM's key, encrypted by libvirt",
                    "a recovery file of vtpm-guard does not restore it on another host",
                )
            } else {
                (
                    "holds a vTPM's key in plaintext",
                    "whoever has this disk, or a backup of it, opens the guest's TPM",
                )
            };
            Described::warning(
                format!("{} {what}", file.display()),
                why,
                on_disk(secret.map_or(Arg::UUID, Arg::from), guests.as_deref()),
            )
        }
        KeyFinding::Shared(shared) => {
            let (what, fix) = shared_secret(shared);
            Described::warning(
                what,
                "libvirt has one value for a secret, so that one of them waits, or is refused \
                 (VG303), while another one starts",
                fix,
            )
        }
        KeyFinding::DeletedAtUndefine(guests) => {
            let Keep { what, fix } = deleted_at_undefine(guests);
            Described::note(
                what,
                "a guest that is defined again has lost its TPM: Windows asks for its BitLocker \
                 recovery key",
                fix,
            )
        }
        KeyFinding::DeletedAtStop(guests) => {
            let Keep { what, fix } = deleted_at_stop(guests);
            let why = "the guest cannot start on another host, nor once this one is lost";
            Described::warning(what, why, fix)
        }
        KeyFinding::NotTravelling(guests) => not_travelling(guests),
        KeyFinding::NotAccepted(providers) => not_accepted(providers),
        KeyFinding::WouldNotStart { guests, why } => would_not_start(guests, why),
        KeyFinding::Copy(error) => Described::error(
            format!("a saved copy of TPM state cannot be used: {error}"),
            "if the state of that guest is lost, its next start is refused",
            Command::StateList.to_string(),
        ),
        KeyFinding::OldCopy {
            guest,
            name,
            saved_at,
        } => {
            let name = name.as_deref().map_or_else(|| guest.to_string(), label);
            Described::warning(
                format!(
                    "the copy of the TPM state of {name} was saved on {}, and the guest has not \
                     started since",
                    time(Some(*saved_at))
                ),
                "if it never does, the copy is no longer needed",
                format!(
                    "{}; if the guest is gone: {}",
                    Command::StateShow(Arg::uuid(*guest)),
                    Command::StateDrop(Arg::uuid(*guest))
                ),
            )
        }
        KeyFinding::OldStateLeft { guest, file } => Described::warning(
            format!(
                "{} also holds parts of an earlier TPM state of {}",
                file.display(),
                guest.label()
            ),
            "that state may be unencrypted, or its key may have been replaced because others know it",
            format!(
                "shut the guest down, and overwrite them: {}",
                Command::Encrypt(guest.arg.clone())
            ),
        ),
        KeyFinding::PlainState {
            guest,
            name,
            is_known,
        } => plain_state(*guest, name.as_deref(), *is_known),
        _ => unreachable!("only findings about guests come here"),
    }
}

fn not_accepted(providers: &[ProviderRef]) -> Described {
    let owner = |it: &ProviderRef| announced_name(&it.name).to_owned();
    let names: BTreeSet<_> = providers.iter().map(owner).collect();
    let accept = names
        .iter()
        .map(|name| Command::ProviderAccept(Arg::provider_named(name)).to_string());
    let quoted: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    Described::note(
        format!(
            "announced by other hosts, and not accepted here: {}",
            quoted.join(", ")
        ),
        "what these providers wrap opens on this host; new keys cannot be wrapped with them here",
        accept.collect::<Vec<_>>().join(" && "),
    )
}

fn not_travelling(guests: &[GuestRef]) -> Described {
    let names: Vec<_> = guests.iter().map(GuestRef::label).collect();
    Described::warning(
        format!(
            "not in the domain XML yet: the keys of {}",
            names.join(", ")
        ),
        "on another host these guests would not start by what travels with them",
        Command::Sync.to_string(),
    )
}

/// What helps against a key of libvirt's on the disk.
fn on_disk(secret: Arg<kind::Secret>, guests: Option<&[GuestRef]>) -> String {
    let adopt = |guests| format!("adopt it: {}", Command::AdoptWith(guests, Arg::NAME));
    match guests {
        None => adopt(Arg::DOMAIN),
        Some([]) => format!(
            "no guest of this host names it; if none will need it again, not even a transient \
             one: {}",
            Command::VirshSecretUndefine(secret)
        ),
        Some(guests) => adopt(guests.iter().map(|guest| guest.arg.clone()).collect()),
    }
}

/// Guests whose starts end with one code; `why` is that of the first.
fn would_not_start(guests: &[CheckedGuest], why: &Refusal) -> Described {
    let first = guests.first().map_or("".into(), CheckedGuest::named);
    let Words { message, hint } = refusal(first, why);
    let (name, others) = (label(first.name), guests.len().saturating_sub(1));
    let (who, hint) = match others {
        0 => (name, hint),
        _ => (
            format!("{name} and {}", count(others, "other guest")),
            format!("{hint}; for details of each: {}", Command::CheckAll),
        ),
    };
    Described::error(
        format!("{who} would not start: {}: {message}", why.code()),
        "the next start is refused, or fails in QEMU",
        hint,
    )
}

fn plain_state(guest: DomainUuid, name: Option<&str>, is_known: bool) -> Described {
    let called = name.map_or_else(
        || guest.to_string(),
        |name| format!("{} ({guest})", label(name)),
    );
    let drop = Command::StateDrop(Arg::uuid(guest));
    let (unknown, fix) = if is_known {
        let start = Command::VirshStart(Arg::uuid(guest));
        let fix = format!("start the guest, which proves the encrypted one: {start}");
        ("", fix)
    } else {
        let unknown = ", and libvirt no longer knows the guest";
        (unknown, format!("remove it: {drop}"))
    };
    Described::warning(
        format!(
            "the unencrypted TPM state of {called}, from before its encryption, is still \
             kept{unknown}"
        ),
        "whoever has this disk, or a backup of it, opens the guest's TPM as it was",
        fix,
    )
}

fn rotate(provider: &Provider) -> String {
    Command::ProviderRotate(Arg::provider(provider)).to_string()
}

pub(super) fn export(provider: &Provider) -> String {
    Command::ProviderExport(Arg::provider(provider)).to_string()
}
