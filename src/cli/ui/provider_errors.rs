//! Errors about providers, recovery files and backups, in the administrator's words.

use std::path::Path;

use super::error::CommandError;
use crate::host::trusted::Reason;
use crate::manage::name::BadName;
use crate::manage::providers::ProviderError;
use crate::messages::{Arg, Command, quoted};
use crate::recovery::file::RecoveryError;
use crate::store::{StoreError, UnavailableReason};

impl From<ProviderError> for CommandError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Host(error) => error.into(),
            ProviderError::NoDefault => Self::usage(error).with_hint(format!(
                "name one: --provider NAME; or choose one: {}",
                Command::ProviderSetDefault(Arg::NAME)
            )),
            ProviderError::Busy => Self::failed(error).with_hint("retry when it is done"),
            ProviderError::BadName(name, why) => bad_name(&name, why),
            ProviderError::KeyLeft(provider, error) => Self::failed(format!(
                "provider {} is deleted, but its sealed key is not: {error}",
                quoted(&provider.name)
            ))
            .with_hint("manually remove the file named after the key ID"),
            ProviderError::AnnouncedKey { provider, owner } => Self::refused(format!(
                "provider {} is a key that other hosts of the fleet announced for provider {}",
                quoted(&provider.name),
                quoted(&owner)
            ))
            .with_hint(accept(&owner)),
            ProviderError::PreviousKey {
                provider,
                owner,
                owner_exists,
            } => {
                let hint = if owner_exists {
                    format!("name that provider: {}", Arg::provider_named(&owner))
                } else {
                    format!(
                        "that provider was deleted; to make this key a provider of its own: {}",
                        Command::ProviderRename(provider.arg(), Arg::NAME)
                    )
                };
                Self::refused(format!(
                    "provider {} is a previous key of provider {}",
                    quoted(&provider.name),
                    quoted(&owner)
                ))
                .with_hint(hint)
            }
        }
    }
}

/// How an announced key comes to wrap new keys.
pub(crate) fn accept(owner: &str) -> String {
    format!(
        "to let it wrap new keys here: {}",
        Command::ProviderAccept(Arg::provider_named(owner))
    )
}

/// What is wrong with a name for a provider.
pub(crate) fn bad_name(name: &str, why: BadName) -> CommandError {
    bad_name_of("a provider", name, why)
}

/// What is wrong with a name for this.
pub(super) fn bad_name_of(what: &str, name: &str, why: BadName) -> CommandError {
    let why = match why {
        BadName::Empty => "is empty",
        BadName::TooLong => "is longer than 64 characters",
        BadName::TooManyBytes => "is longer than 246 bytes",
        BadName::OuterSpace => "begins or ends with white space",
        BadName::LikeAnOption => "begins with \"-\", as options do",
        BadName::Slash => "contains \"/\"",
        BadName::Invisible => "contains characters that cannot be seen",
        BadName::LikeAUuid => "looks like a UUID",
    };
    let name = quoted(name);
    CommandError::usage(format!("{name} cannot be {what}'s name: it {why}"))
}

/// What is wrong with the backup that is to be restored, or with restoring it. The store of
/// before may be damaged, or too new: that is what a backup is for.
pub(crate) fn backup(error: StoreError) -> CommandError {
    match &error {
        StoreError::Corrupt { .. } => {
            CommandError::failed(format!("the backup is damaged: {error}"))
                .with_hint("use another copy of it")
        }
        StoreError::TooNew { .. } => {
            CommandError::failed(format!("the backup is too new: {error}"))
                .with_hint("install a newer vtpm-guard")
        }
        StoreError::Unavailable {
            reason:
                UnavailableReason::Untrusted(Reason::NotAFile)
                | UnavailableReason::NotAStore
                | UnavailableReason::TooLong(_),
            ..
        } => CommandError::failed(error)
            .with_hint(format!("make one: {}", Command::StoreBackup(Arg::FILE))),
        StoreError::Unavailable {
            path,
            reason: UnavailableReason::Program { kind, name },
        } => {
            let name = name.replace('"', "\"\"");
            let hint = format!(
                "use a backup that nobody has changed, or remove it: {}",
                Command::Sqlite(
                    Arg::file(path),
                    Arg::statement(&format!("DROP {kind} \"{name}\""))
                )
            );
            CommandError::refused(error).with_hint(hint)
        }
        _ => error.into(),
    }
}

/// What is wrong with a recovery file; the file's name is part of it.
pub(crate) fn recovery(file: &Path, error: RecoveryError) -> CommandError {
    let named = |error: RecoveryError| CommandError::failed(format!("{}: {error}", file.display()));
    match error {
        RecoveryError::Exists(_) => {
            CommandError::refused(error).with_hint("nothing is overwritten: name a new file")
        }
        RecoveryError::Io { .. } | RecoveryError::NoMemory { .. } | RecoveryError::Random(_) => {
            CommandError::failed(error)
        }
        RecoveryError::UnusableName => CommandError::refused(error).with_hint(format!(
            "rename it first: {}",
            Command::ProviderRename(Arg::NAME, Arg::NEW)
        )),
        RecoveryError::NotARecoveryFile => {
            named(error).with_hint(format!("make one: {}", Command::ProviderExport(Arg::NAME)))
        }
        RecoveryError::TooNew(_) => named(error).with_hint("install a newer vtpm-guard"),
        RecoveryError::Damaged => named(error).with_hint("use another copy of it"),
        RecoveryError::WrongPassphrase => named(error)
            .with_hint("the file itself is whole; only the passphrase of its export opens it"),
        RecoveryError::TooCostly => named(error),
    }
}
