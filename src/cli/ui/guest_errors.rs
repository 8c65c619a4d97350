//! Errors about guests that several procedures meet, in the administrator's words.

use std::fmt;

use super::error::CommandError;
use crate::ids::DomainUuid;
use crate::manage::guests::{GuestError, GuestRef};
use crate::manage::stopped_guest::StoppedError;
use crate::messages::{Arg, Command, count, label, quoted};
use crate::store::StoreError;
use crate::swtpm::{LockError, OldState};

impl From<GuestError> for CommandError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Host(error) => error.into(),
            GuestError::NeedsUuid(_) => Self::failed(error).with_hint("name the guest by its UUID"),
            GuestError::NotFound(text) => Self::usage(format!("guest {} not found", quoted(&text)))
                .with_hint(format!("list them: {}", Command::VirshList)),
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
                "define it first ({}), or name the UUID that it will have: {}",
                Command::VirshDefine(Arg::FILE),
                Command::KeyBind(Arg::uuid(uuid), Arg::NAME)
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
                    .with_hint(format!("show it: {}", Command::VirshDumpxml(guest.arg)))
            }
            StoppedError::NoEmulatedTpm(guest) => {
                Self::refused(format!("{} has no emulated TPM", guest.label())).with_hint(format!(
                    "for its devices: {}",
                    Command::VirshDumpxml(guest.arg)
                ))
            }
            StoppedError::Transient(guest) => Self::refused(format!(
                "{} is transient: libvirt keeps neither its definition nor its TPM state",
                guest.label()
            ))
            .with_hint(format!(
                "define it first: {}",
                Command::VirshDefine(Arg::FILE)
            )),
            StoppedError::Running(guest) => Self::refused(format!(
                "{} is running, and its TPM writes its state",
                guest.label()
            ))
            .with_hint(format!(
                "shut it down first: {}",
                Command::VirshShutdown(guest.arg)
            )),
            StoppedError::ManagedSave(guest) => Self::refused(format!(
                "{} has a managed save image, which holds the TPM's state as it is now",
                guest.label()
            ))
            .with_hint(format!(
                "resume it and shut it down ({}), or discard the image: {}",
                Command::VirshStart(guest.arg.clone()),
                Command::VirshManagedsaveRemove(guest.arg)
            )),
            StoppedError::Snapshots(guest, snapshots) => Self::refused(format!(
                "{} has {} of a running guest, which hold the TPM's state as it was: it could \
                 not be reverted to them",
                guest.label(),
                count(snapshots as usize, "snapshot")
            ))
            .with_hint(format!(
                "list them: {}; delete them: {}",
                Command::VirshSnapshotList(guest.arg.clone()),
                Command::VirshSnapshotDelete(guest.arg)
            )),
            StoppedError::Locked(guest, error) => not_locked(&guest, &error),
            StoppedError::Recrypt(guest, error) => {
                Self::failed(format!("the TPM state of {}: {error}", guest.label()))
            }
            StoppedError::ReadBack(guest) => not_written(&guest, &"it was read back differently"),
            StoppedError::Write(guest, error) => not_written(&guest, &error),
            StoppedError::NotDurable(guest, error) => Self::failed(format!(
                "the TPM state of {} is written, but a power cut may bring the previous one back: \
                 {error}; nothing was removed that opens either",
                guest.label()
            ))
            .with_hint(format!("for details: {}", Command::KeyShow(guest.arg))),
        }
    }
}

fn not_locked(guest: &GuestRef, error: &LockError) -> CommandError {
    let message = format!("the TPM state of {}: {error}", guest.label());
    match error {
        LockError::InUse => CommandError::refused(message).with_hint(format!(
            "the guest is starting, or a TPM emulator was left over: {}, {}",
            Command::VirshDomstate(guest.arg.clone()),
            Command::PgrepSwtpm
        )),
        LockError::BlockDevice | LockError::Volatile(_) => CommandError::refused(message),
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

/// What became of an old TPM state in the file of the new one, if that needs a note.
pub(crate) fn old_state(old: Option<&OldState>, guest: &GuestRef) -> Option<String> {
    let Some(OldState::Left(error)) = old else {
        return None;
    };
    let again = Command::Encrypt(guest.arg.clone());
    Some(format!(
        "parts of the old TPM state may still be in its file: {error}; overwrite them before \
         the guest starts: {again}"
    ))
}

/// Done, but the history does not have it.
pub(crate) fn not_recorded(error: &StoreError) -> String {
    format!("done, but it could not be recorded in the history: {error}")
}
