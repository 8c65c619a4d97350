//! Errors of the parts below, in the administrator's words: which kind they are, what helps.

use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;

use super::error::AdminError;
use crate::guard::MakeKeyError;
use crate::key::random::RandomError;
use crate::keyring::KeyringError;
use crate::keyring::unlock::WrapError;
use crate::messages::Arg;
use crate::recovery::file::RecoveryError;
use crate::staging::StagingError;
use crate::store::{StoreError, UnavailableReason};

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Missing => {
                Self::failed(error).with_hint("make one: vtpm-guard provider create NAME")
            }
            StoreError::Locked | StoreError::TooSlow | StoreError::Changed => {
                Self::failed(error).with_hint("try again; nothing has been changed")
            }
            StoreError::Unavailable { reason, .. } => in_the_way(&error, reason),
            StoreError::Corrupt { .. } => Self::failed(format!("the store is damaged: {error}"))
                .with_hint("bring back a backup: vtpm-guard store restore FILE"),
            StoreError::TooNew { .. } => Self::failed(format!("the store is too new: {error}"))
                .with_hint("reinstall the newer version of vtpm-guard"),
            StoreError::NoNewKey => Self::failed(error),
            StoreError::NameTaken(name) => {
                let hint = format!(
                    "see it: vtpm-guard provider show {}",
                    Arg::provider_named(name)
                );
                Self::refused(error).with_hint(hint)
            }
            StoreError::NoProvider(_) => {
                Self::usage(error).with_hint("see which there are: vtpm-guard provider list")
            }
            StoreError::AmbiguousProvider(_) => {
                Self::usage(error).with_hint("name it by its other one: vtpm-guard provider list")
            }
            StoreError::NoKeyRef(_) => {
                Self::usage(error).with_hint("see which there are: vtpm-guard key list")
            }
            StoreError::NotKeyed(_) => Self::refused(error)
                .with_hint("a placeholder gets its key at the guest's first start"),
            StoreError::NotAsWritten(_) => Self::failed(error)
                .with_hint("show what is not of its schema: vtpm-guard store check"),
            StoreError::HasKey { .. } => {
                Self::refused(error).with_hint("see what it opens: vtpm-guard key show DOMAIN")
            }
        }
    }
}

fn in_the_way(error: &StoreError, reason: &UnavailableReason) -> AdminError {
    match reason {
        UnavailableReason::NotOurs { user, .. } if *user != 0 => AdminError::no_permission(error),
        UnavailableReason::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
            AdminError::no_permission(error)
        }
        UnavailableReason::Io(io) if io.kind() == ErrorKind::AlreadyExists => {
            AdminError::refused(error).with_hint("nothing is overwritten: name a new file")
        }
        UnavailableReason::NotOurs { .. } | UnavailableReason::WritableByOthers { .. } => {
            AdminError::failed(error)
                .with_hint("only root's own files are trusted: chown root, chmod go-w")
        }
        _ => AdminError::failed(error),
    }
}

impl From<WrapError> for AdminError {
    fn from(error: WrapError) -> Self {
        match error {
            WrapError::Keyring(error) => error.into(),
            error => Self::failed(error),
        }
    }
}

impl From<MakeKeyError> for AdminError {
    fn from(error: MakeKeyError) -> Self {
        match error {
            MakeKeyError::Wrap(error) => error.into(),
            MakeKeyError::Random(error) => error.into(),
        }
    }
}

impl From<Rc<KeyringError>> for AdminError {
    fn from(error: Rc<KeyringError>) -> Self {
        (&*error).into()
    }
}

impl From<KeyringError> for AdminError {
    fn from(error: KeyringError) -> Self {
        (&error).into()
    }
}

impl From<&KeyringError> for AdminError {
    fn from(error: &KeyringError) -> Self {
        let hint = match error {
            KeyringError::Missing(_)
            | KeyringError::Damaged { .. }
            | KeyringError::UnsealFailed { .. } => {
                "put the key in place again: vtpm-guard provider import FILE"
            }
            KeyringError::NotTrusted { .. } => {
                "only root's own files are trusted: chown root, chmod go-rwx"
            }
            KeyringError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                return Self::no_permission(error);
            }
            KeyringError::TimedOut => "try again",
            KeyringError::SealFailed { .. } => {
                "fix that and try again; or accept a weaker seal: --allow-weaker-seal"
            }
            KeyringError::Io { .. } => return Self::failed(error),
        };
        Self::failed(error).with_hint(hint)
    }
}

impl From<StagingError> for AdminError {
    fn from(error: StagingError) -> Self {
        let hint = match &error {
            StagingError::NotInMemory(_) => "mount a tmpfs over it: mount -t tmpfs tmpfs /run",
            StagingError::NotTrusted { .. } => "chown root and chmod 0700 it, or remove it",
            StagingError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                return Self::no_permission(error);
            }
            StagingError::Io { .. } => return Self::failed(error),
        };
        Self::failed(error).with_hint(hint)
    }
}

impl From<RandomError> for AdminError {
    fn from(error: RandomError) -> Self {
        Self::failed(error)
    }
}

/// What is wrong with the backup that is to be restored, or with restoring it. The store of
/// before may be damaged, or too new: that is what a backup is for.
pub(crate) fn backup(error: StoreError) -> AdminError {
    match &error {
        StoreError::Corrupt { .. } => AdminError::failed(format!("the backup is damaged: {error}"))
            .with_hint("use another copy of it"),
        StoreError::TooNew { .. } => AdminError::failed(format!("the backup is too new: {error}"))
            .with_hint("install a newer vtpm-guard"),
        StoreError::Unavailable {
            reason: UnavailableReason::NotAFile | UnavailableReason::NotAStore,
            ..
        } => {
            AdminError::failed(error).with_hint("backups are made by: vtpm-guard store backup FILE")
        }
        StoreError::Unavailable {
            path,
            reason: UnavailableReason::Program { kind, name },
        } => {
            let name = name.replace('"', "\"\"");
            let hint = format!(
                "use a backup that nobody has changed, or remove it: sqlite3 {} {}",
                Arg::file(path),
                Arg::statement(&format!("DROP {kind} \"{name}\"")),
            );
            AdminError::refused(error).with_hint(hint)
        }
        _ => error.into(),
    }
}

/// What is wrong with a recovery file; the file's name is part of it.
pub(crate) fn recovery(file: &Path, error: RecoveryError) -> AdminError {
    let named = |error: RecoveryError| AdminError::failed(format!("{}: {error}", file.display()));
    match error {
        RecoveryError::Exists(_) => {
            AdminError::refused(error).with_hint("nothing is overwritten: name a new file")
        }
        RecoveryError::Io { .. } | RecoveryError::NoMemory { .. } | RecoveryError::Random(_) => {
            AdminError::failed(error)
        }
        RecoveryError::UnusableName => AdminError::refused(error)
            .with_hint("give it another one first: vtpm-guard provider rename NAME NEW"),
        RecoveryError::NotARecoveryFile => {
            named(error).with_hint("make one: vtpm-guard provider export NAME --output FILE")
        }
        RecoveryError::TooNew(_) => named(error).with_hint("install a newer vtpm-guard"),
        RecoveryError::Damaged => named(error).with_hint("use another copy of it"),
        RecoveryError::WrongPassphrase => named(error)
            .with_hint("the file itself is whole; only the passphrase of its export opens it"),
        RecoveryError::TooCostly => named(error),
    }
}
