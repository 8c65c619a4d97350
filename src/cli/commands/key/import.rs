//! `key import`: imports a guest's key from the backup of another host's store.

use std::io;
use std::path::Path;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::provider_errors;
use crate::key::wrap::UnwrapError;
use crate::manage::import_key::{ImportKeyError, ImportedKey, import};
use crate::messages::{Arg, Command, quoted};

pub(super) fn run(
    context: &Context,
    guest: &str,
    backup: &Path,
    old: Option<&str>,
) -> Result<(), CommandError> {
    let imported = import(&context.host, guest, backup, old)?;
    context.output.print(&imported)
}

impl Answer for ImportedKey {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        if self.changed {
            let provider = quoted(&self.provider);
            writeln!(
                out,
                "imported the key of {guest}, under provider {provider}"
            )
        } else {
            writeln!(out, "the key of {guest} is already here; nothing changed")
        }
    }

    fn notes(&self) -> Vec<String> {
        let state = format!(
            "its TPM state comes with a migration, or by hand; check whether it would start: {}",
            Command::Check(self.guest.arg.clone())
        );
        let retired = self.is_retired.then(|| {
            let command = Command::KeyUse(self.key_ref.into());
            format!("it is retired; to use it: {command}")
        });
        let rotated = self.rotated.as_ref().map(|present| {
            format!(
                "that is a previous key of provider {}; to re-wrap it with the present one: {}",
                quoted(&present.name),
                Command::ProviderRotate(Arg::provider(present))
            )
        });
        [Some(state), retired, rotated]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl From<ImportKeyError> for CommandError {
    fn from(error: ImportKeyError) -> Self {
        match error {
            ImportKeyError::Guest(error) => error.into(),
            ImportKeyError::Backup(error) => provider_errors::backup(error),
            ImportKeyError::UnknownGuest(text) => {
                Self::usage(format!("the backup knows no guest {}", quoted(&text))).with_hint(
                    format!(
                        "name it by its UUID: {}, on the host that has it",
                        Command::VirshDomuuid(Arg::DOMAIN)
                    ),
                )
            }
            ImportKeyError::SeveralGuests(text, uuids) => {
                let uuids: Vec<_> = uuids.iter().map(ToString::to_string).collect();
                Self::refused(format!(
                    "the backup has keys of several guests with the name {}: {}",
                    quoted(&text),
                    uuids.join(", ")
                ))
                .with_hint("name one by its UUID")
            }
            ImportKeyError::Namesake {
                guest,
                backup,
                other,
            } => Self::refused(format!(
                "{} has no key of {} under its UUID {}, but one of a guest with that name, {other}",
                backup.display(),
                guest.label(),
                guest.uuid
            ))
            .with_hint(format!(
                "if it is the same guest under a new UUID: {}",
                Command::KeyImportAs(guest.arg, Arg::file(&backup), Arg::uuid(other))
            )),
            ImportKeyError::NoKey(guest, backup) => Self::usage(format!(
                "{} has no key of {}",
                backup.display(),
                guest.label()
            ))
            .with_hint(format!(
                "back up the other host's store again: {}",
                Command::StoreBackup(Arg::FILE)
            )),
            ImportKeyError::SeveralKeys(guest, backup, keys) => Self::refused(format!(
                "{} has {keys} keys of {} in use",
                backup.display(),
                guest.label()
            ))
            .with_hint(format!(
                "choose one on the other host: {}; then back up its store again",
                Command::KeyUse(Arg::ID)
            )),
            ImportKeyError::NoProvider(guest, provider, key_id) => {
                let key = key_id.map_or(String::new(), |id| format!(" (key {})", id.short()));
                Self::refused(format!(
                    "the key of {} is wrapped by provider {}{key}, which is not on this host",
                    guest.label(),
                    quoted(&provider)
                ))
                .with_hint(format!(
                    "import it first: {}",
                    Command::ProviderImport(Arg::FILE)
                ))
            }
            ImportKeyError::OtherKeyInUse(guest, key_ref) => Self::refused(format!(
                "{} has another key in use (key reference {key_ref})",
                guest.label()
            ))
            .with_hint(format!(
                "for details: {}; if that is not the right one: {}, then retry",
                Command::KeyShow(guest.arg),
                Command::KeyRetire(key_ref.into())
            )),
            ImportKeyError::NotUnwrapped(guest, why @ UnwrapError::TooNew) => {
                Self::refused(format!(
                    "the wrapped key of {} cannot be opened: {why}",
                    guest.label()
                ))
                .with_hint("install a newer vtpm-guard")
            }
            ImportKeyError::NotUnwrapped(guest, why) => Self::refused(format!(
                "the wrapped key of {} is damaged: {why}",
                guest.label()
            ))
            .with_hint("use another backup"),
        }
    }
}
