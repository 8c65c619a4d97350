//! Errors that any procedure can meet, in the administrator's words: which kind, and what helps.

use std::io::ErrorKind;

use nix::unistd::geteuid;

use super::error::{CommandError, RUN_AGAIN};
use crate::config::ConfigError;
use crate::guard::MakeKeyError;
use crate::host::trusted::Reason;
use crate::key::random::RandomError;
use crate::keyring::KeyringError;
use crate::keyring::unlock::WrapError;
use crate::libvirt::secret::SecretError;
use crate::manage::host::HostError;
use crate::messages::{Arg, Command};
use crate::staging::StagingError;
use crate::store::{StoreError, UnavailableReason};

/// Why one of the keys could not be tried of which none opens something, at the end of a sentence.
pub(crate) fn but(untried: Option<String>) -> String {
    untried.map_or_else(String::new, |why| {
        format!("; one key could not be tried: {why}")
    })
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Missing => Self::failed(error).with_hint(format!(
                "create one: {}",
                Command::ProviderCreate(Arg::NAME)
            )),
            StoreError::Locked | StoreError::TooSlow | StoreError::Changed => {
                Self::failed(error).with_hint(RUN_AGAIN)
            }
            StoreError::Unavailable { reason, .. } => in_the_way(&error, reason),
            StoreError::Corrupt { .. } => Self::failed(format!("the store is damaged: {error}"))
                .with_hint(format!(
                    "restore a backup: {}",
                    Command::StoreRestore(Arg::FILE)
                )),
            StoreError::TooNew { .. } => Self::failed(format!("the store is too new: {error}"))
                .with_hint("reinstall the newer version of vtpm-guard"),
            StoreError::NoNewKey => Self::failed(error),
            StoreError::NameTaken(name) => {
                let hint = format!(
                    "show it: {}",
                    Command::ProviderShow(Arg::provider_named(name))
                );
                Self::refused(error).with_hint(hint)
            }
            StoreError::NoProvider(_) => {
                Self::usage(error).with_hint(format!("list them: {}", Command::ProviderList))
            }
            StoreError::AmbiguousProvider(_) => Self::usage(error)
                .with_hint(format!("name it the other way: {}", Command::ProviderList)),
            StoreError::NoKeyRef(_) => {
                Self::usage(error).with_hint(format!("list them: {}", Command::KeyList))
            }
            StoreError::NotKeyed(_) => Self::refused(error)
                .with_hint("a placeholder gets its key at the guest's first start; if the guest has a key, that start deletes it"),
            StoreError::NotAsWritten(_) => Self::failed(error).with_hint(format!(
                "show what differs from its schema: {}",
                Command::StoreCheck
            )),
            StoreError::HasKey { .. } => Self::refused(error)
                .with_hint(format!("for details: {}", Command::KeyShow(Arg::DOMAIN))),
        }
    }
}

fn in_the_way(error: &StoreError, reason: &UnavailableReason) -> CommandError {
    match reason {
        UnavailableReason::Untrusted(Reason::Owner(_)) if !geteuid().is_root() => {
            CommandError::no_permission(error)
        }
        UnavailableReason::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
            CommandError::no_permission(error)
        }
        UnavailableReason::Io(io) if io.kind() == ErrorKind::AlreadyExists => {
            CommandError::refused(error).with_hint("nothing is overwritten: name a new file")
        }
        UnavailableReason::Untrusted(Reason::Owner(_) | Reason::Writable(_)) => {
            CommandError::failed(error).with_hint(trusted_files("go-w"))
        }
        UnavailableReason::PageSize { store, .. } => {
            let convert = Arg::statement(&format!("PRAGMA page_size = {store}; VACUUM"));
            CommandError::failed(error).with_hint(format!(
                "convert the backup: {}",
                Command::Sqlite(Arg::BACKUP, convert)
            ))
        }
        _ => CommandError::failed(error),
    }
}

/// What to do about a file that somebody else may read or write: this is the mode that it lacks.
pub(crate) fn trusted_files(mode: &'static str) -> String {
    format!(
        "only root's own files are trusted: {}, {}",
        Command::ChownRoot(Arg::FILE),
        Command::ChmodMode(mode.into(), Arg::FILE)
    )
}

impl From<KeyringError> for CommandError {
    fn from(error: KeyringError) -> Self {
        (&error).into()
    }
}

impl From<&KeyringError> for CommandError {
    fn from(error: &KeyringError) -> Self {
        let hint = match error {
            KeyringError::Missing(_)
            | KeyringError::Damaged { .. }
            | KeyringError::UnsealFailed { .. } => &format!(
                "if a key manager has it: {}; else restore it: {}",
                Command::Open,
                Command::ProviderImport(Arg::FILE)
            ),
            KeyringError::NotTrusted { .. } => &trusted_files("go-rwx"),
            KeyringError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
                return Self::no_permission(error);
            }
            KeyringError::TimedOut => "retry",
            KeyringError::SealFailed { .. } => {
                "fix that and retry; or accept a weaker seal: --allow-weaker-seal"
            }
            KeyringError::Io { .. } => return Self::failed(error),
        };
        Self::failed(error).with_hint(hint)
    }
}

impl From<StagingError> for CommandError {
    fn from(error: StagingError) -> Self {
        let hint = match &error {
            StagingError::NotInMemory(_) => {
                &format!("mount a tmpfs over it: {}", Command::MountTmpfs)
            }
            StagingError::NotTrusted { .. } => &format!(
                "{}, {}; or remove it",
                Command::ChownRoot(Arg::DIRECTORY),
                Command::ChmodMode(0o700_u32.into(), Arg::DIRECTORY)
            ),
            StagingError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
                return Self::no_permission(error);
            }
            StagingError::Io { .. } => return Self::failed(error),
        };
        Self::failed(error).with_hint(hint)
    }
}

impl From<RandomError> for CommandError {
    fn from(error: RandomError) -> Self {
        Self::failed(error)
    }
}

/// What helps where a program of this package is missing.
pub(crate) const REINSTALL: &str = "install the package vtpm-guard again";

impl From<HostError> for CommandError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Config(error) => error.into(),
            HostError::Store(error) => error.into(),
            HostError::Keyring(error) => error.into(),
            HostError::Copies(error) => error.into(),
            HostError::NoConfig(_) => Self::usage(error),
            HostError::StoreNotRead(_) => Self::failed(error).with_hint(RUN_AGAIN),
            HostError::Libvirt(SecretError::NoHelper(_)) => {
                Self::failed(error).with_hint(REINSTALL)
            }
            HostError::Libvirt(_) => Self::failed(error).with_hint(format!(
                "check whether it is running: {}",
                Command::VirshListAt(Arg::uri("qemu:///system"))
            )),
            HostError::ProviderKey(error) | HostError::Wrap(WrapError::Keyring(error)) => {
                (&*error).into()
            }
            HostError::MakeKey(MakeKeyError::Wrap(error)) => HostError::Wrap(error).into(),
            HostError::SecretFiles(_)
            | HostError::Wrap(_)
            | HostError::MakeKey(_)
            | HostError::Random(_)
            | HostError::Io { .. } => Self::failed(error),
        }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::NotTrusted(_) => &trusted_files("go-w"),
            _ => &format!(
                "for its keys: {}",
                Command::Man(Arg::statement("vtpm-guard.toml"))
            ),
        };
        Self::usage(error).with_hint(hint)
    }
}

impl From<SecretError> for CommandError {
    fn from(error: SecretError) -> Self {
        HostError::Libvirt(error).into()
    }
}
