//! Errors that any procedure can meet, in the administrator's words: which kind, and what helps.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use nix::unistd::geteuid;

use super::answer::count;
use super::error::CommandError;
use crate::config::ConfigError;
use crate::guard::MakeKeyError;
use crate::host::trusted::Reason;
use crate::ids::DomainUuid;
use crate::key::random::RandomError;
use crate::keyring::KeyringError;
use crate::keyring::unlock::WrapError;
use crate::libvirt::secret::SecretError;
use crate::manage::guests::{GuestError, GuestRef};
use crate::manage::host::HostError;
use crate::manage::provider_name::BadName;
use crate::manage::providers::ProviderError;
use crate::manage::stopped_guest::StoppedError;
use crate::messages::{Arg, Command, label, quoted};
use crate::recovery::file::RecoveryError;
use crate::staging::StagingError;
use crate::store::{StoreError, UnavailableReason};
use crate::swtpm::LockError;

impl From<StoreError> for CommandError {
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
            CommandError::failed(error)
                .with_hint("only root's own files are trusted: chown root, chmod go-w")
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
            | KeyringError::UnsealFailed { .. } => {
                "put the key in place again: vtpm-guard provider import FILE"
            }
            KeyringError::NotTrusted { .. } => {
                "only root's own files are trusted: chown root, chmod go-rwx"
            }
            KeyringError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
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

impl From<StagingError> for CommandError {
    fn from(error: StagingError) -> Self {
        let hint = match &error {
            StagingError::NotInMemory(_) => "mount a tmpfs over it: mount -t tmpfs tmpfs /run",
            StagingError::NotTrusted { .. } => "chown root and chmod 0700 it, or remove it",
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

impl From<HostError> for CommandError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Config(error) => error.into(),
            HostError::Store(error) => error.into(),
            HostError::Keyring(error) => error.into(),
            HostError::Copies(error) => error.into(),
            HostError::NoConfig(_) => Self::usage(error),
            HostError::Libvirt(_) => Self::failed(error)
                .with_hint("see whether it runs: virsh -c qemu:///system list --all"),
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
            ConfigError::NotTrusted(_) => {
                "only root's own files are trusted: chown root, chmod go-w"
            }
            _ => "for its keys: man vtpm-guard.toml",
        };
        Self::usage(error).with_hint(hint)
    }
}

impl From<SecretError> for CommandError {
    fn from(error: SecretError) -> Self {
        HostError::Libvirt(error).into()
    }
}

impl From<GuestError> for CommandError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Host(error) => error.into(),
            GuestError::NeedsUuid(_) => Self::failed(error).with_hint("name the guest by its UUID"),
            GuestError::NotFound(text) => Self::usage(format!("guest {} not found", quoted(&text)))
                .with_hint("list them: virsh list --all"),
            GuestError::Ambiguous { text, name, other } => {
                let by_name = name.as_deref().and_then(Arg::guest_by_name);
                let first = by_name.map_or_else(|| respelled(&text), |arg| arg.to_string());
                let whose = name.map_or(String::new(), |name| format!(" ({})", label(&name)));
                Self::usage(format!(
                    "{} is ambiguous: it is the UUID of one guest{whose} and the name of another \
                     (UUID {other})",
                    quoted(&text)
                ))
                .with_hint(format!("for the first: {first}; for the other: {other}"))
            }
            GuestError::HistoryOnly { text, uuid } => Self::refused(format!(
                "libvirt knows no guest {}; the history does, under the UUID {uuid}, which may \
                 have been that of one attempt to create it",
                quoted(&text)
            ))
            .with_hint(format!(
                "define it first (virsh define FILE), or name the UUID that it will have: \
                 vtpm-guard key bind {uuid} --provider NAME"
            )),
        }
    }
}

/// Another spelling of a UUID: a name is compared letter by letter, a UUID is not.
fn respelled(text: &str) -> String {
    let plain = text.replace('-', "");
    if plain == text {
        return DomainUuid::parse(text).map_or(plain, |uuid| uuid.to_string());
    }
    plain
}

impl From<StoppedError> for CommandError {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::Guest(error) => error.into(),
            StoppedError::UnreadableXml(guest, error) => {
                Self::failed(format!("cannot read the XML of {}: {error}", guest.label()))
            }
            StoppedError::NoEmulatedTpm(guest) => {
                Self::refused(format!("{} has no emulated TPM", guest.label()))
                    .with_hint(format!("for its devices: virsh dumpxml {}", guest.arg))
            }
            StoppedError::Transient(guest) => Self::refused(format!(
                "{} is transient: libvirt keeps neither its definition nor its TPM state",
                guest.label()
            ))
            .with_hint("define it first: virsh define FILE"),
            StoppedError::Running(guest) => Self::refused(format!(
                "{} is running, and its TPM writes its state",
                guest.label()
            ))
            .with_hint(format!("shut it down first: virsh shutdown {}", guest.arg)),
            StoppedError::ManagedSave(guest) => Self::refused(format!(
                "{} has a managed save image, which holds the TPM's state as it is now",
                guest.label()
            ))
            .with_hint(format!(
                "resume it and shut it down (virsh start {0}), or discard the image: virsh \
                 managedsave-remove {0}",
                guest.arg
            )),
            StoppedError::Snapshots(guest, snapshots) => Self::refused(format!(
                "{} has {} of a running guest, which hold the TPM's state as it was: it could \
                 not be reverted to them",
                guest.label(),
                count(snapshots as usize, "snapshot")
            ))
            .with_hint(format!(
                "list them: virsh snapshot-list {0} --active; delete them: virsh snapshot-delete \
                 {0} SNAPSHOT",
                guest.arg
            )),
            StoppedError::Locked(guest, error) => not_locked(&guest, &error),
            StoppedError::Recrypt(guest, error) => {
                Self::failed(format!("the TPM state of {}: {error}", guest.label()))
            }
            StoppedError::ReadBack(guest) => not_written(&guest, &"it was read back differently"),
            StoppedError::Write(guest, error) => not_written(&guest, &error),
        }
    }
}

fn not_locked(guest: &GuestRef, error: &LockError) -> CommandError {
    let message = format!("the TPM state of {}: {error}", guest.label());
    match error {
        LockError::InUse => CommandError::refused(message).with_hint(format!(
            "the guest is starting, or a TPM emulator was left over: virsh domstate {}, pgrep -a \
             swtpm",
            guest.arg
        )),
        LockError::Linear | LockError::Volatile(_) => CommandError::refused(message),
        LockError::State(error) if error.is_damage() => CommandError::refused(message),
        LockError::State(_) | LockError::Io(_) => CommandError::failed(message),
    }
}

fn not_written(guest: &GuestRef, error: &dyn fmt::Display) -> CommandError {
    CommandError::failed(format!(
        "could not re-encrypt the TPM state of {}: {error}; it is unchanged",
        guest.label()
    ))
}

/// Done, but the history does not have it.
pub(crate) fn not_recorded(error: &StoreError) -> String {
    format!("done, but it could not be recorded in the history: {error}")
}

impl From<ProviderError> for CommandError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Host(error) => error.into(),
            ProviderError::NoDefault => Self::usage(error).with_hint(
                "name one: --provider NAME; or choose one: vtpm-guard provider set-default NAME",
            ),
            ProviderError::Busy => Self::failed(error).with_hint("retry when it is done"),
            ProviderError::BadName(name, why) => bad_name(&name, why),
            ProviderError::KeyLeft(provider, error) => Self::failed(format!(
                "provider {} is deleted, but its sealed key is not: {error}",
                quoted(&provider.name)
            ))
            .with_hint("manually remove the file named after the key ID"),
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

/// What is wrong with a name for a provider.
pub(crate) fn bad_name(name: &str, why: BadName) -> CommandError {
    let why = match why {
        BadName::Empty => "is empty",
        BadName::TooLong => "is longer than 64 characters",
        BadName::OuterSpace => "begins or ends with white space",
        BadName::LikeAnOption => "begins with \"-\", as options do",
        BadName::Slash => "contains \"/\"",
        BadName::Invisible => "contains characters that cannot be seen",
        BadName::LikeAUuid => "looks like a UUID",
    };
    CommandError::usage(format!(
        "{} cannot be a provider's name: it {why}",
        quoted(name)
    ))
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
            reason: UnavailableReason::Untrusted(Reason::NotAFile) | UnavailableReason::NotAStore,
            ..
        } => CommandError::failed(error)
            .with_hint("backups are made by: vtpm-guard store backup FILE"),
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
        RecoveryError::UnusableName => CommandError::refused(error)
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
