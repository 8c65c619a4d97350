//! `provider import`: restores a provider from its recovery file.

use std::io;
use std::path::Path;

use super::weaker_seal;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::{passphrase, provider_errors};
use crate::keyring::WeakerSeal;
use crate::manage::provider_import::{
    ImportAction, ImportError, ImportProvider, ImportedProvider, import,
};
use crate::messages::{Arg, Command, count, quoted};
use crate::recovery::file::RecoveryFile;

pub(super) fn run(
    context: &Context,
    path: &Path,
    name: Option<&str>,
    passphrase_file: Option<&Path>,
    dry_run: bool,
    weaker: WeakerSeal,
) -> Result<(), CommandError> {
    // Read before anybody types a passphrase.
    let file = RecoveryFile::read(path).map_err(|error| provider_errors::recovery(path, error))?;
    let passphrase = passphrase::ask(passphrase_file)?;
    let waiting = Progress::waiting("deriving a key from the passphrase");
    let imported = import(
        &context.host,
        &ImportProvider {
            path,
            file: &file,
            passphrase: &passphrase,
            name,
            dry_run,
            weaker,
        },
    );
    waiting.done();
    context.output.print(&imported?)
}

impl Answer for ImportedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (key, name, seal) = (self.key_id.short(), quoted(&self.name), self.seal);
        match (self.action, self.dry_run) {
            (ImportAction::None, _) => writeln!(
                out,
                "the file restores key {key} of provider {name}, which is on this host and opens: \
                 nothing would be imported"
            ),
            (ImportAction::Create, true) => {
                writeln!(out, "would import provider {name}: key {key}")
            }
            (ImportAction::Create, false) => {
                writeln!(out, "imported provider {name}: key {key}, sealed: {seal}")
            }
            (ImportAction::NextKey, true) => {
                writeln!(out, "would import the next key of provider {name}: {key}")
            }
            (ImportAction::NextKey, false) => writeln!(
                out,
                "imported the next key of provider {name}: {key}, sealed: {seal}"
            ),
            (ImportAction::OpenAgain, true) => {
                writeln!(out, "would restore key {key} of provider {name}")
            }
            (ImportAction::OpenAgain, false) => {
                writeln!(out, "restored key {key} of provider {name}, sealed: {seal}")
            }
        }?;
        if self.action == ImportAction::NextKey {
            return writeln!(
                out,
                "provider {name} has it once the fleet has finished the rotation: {}",
                Command::Sync
            );
        }
        let key_refs = count(self.opens.key_refs, "key reference");
        let guests = count(self.opens.guests, "guest");
        match self.action {
            _ if self.opens.key_refs == 0 => {
                writeln!(out, "no guest of this host has a key under it")
            }
            ImportAction::None => writeln!(out, "it opens {key_refs} of {guests}"),
            _ => writeln!(
                out,
                "it opens {key_refs} of {guests}: the next start binds them"
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let provider = Arg::provider_named(&self.name);
        let stored = self.stored.as_ref();
        let weaker = stored.and_then(|stored| weaker_seal::note(provider, stored));
        let broken = self.does_not_open.key_refs;
        let broken = (broken > 0).then(|| {
            format!(
                "{} under this key did not open with it; list them: {}; for details: {}",
                count(broken, "key reference"),
                Command::KeyList,
                Command::KeyShow(Arg::DOMAIN)
            )
        });
        weaker.into_iter().chain(broken).collect()
    }
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        let give_another = |path: &Path| {
            let command = Command::ProviderImportAs(Arg::file(path), Arg::NAME);
            format!("give it another name: {command}")
        };
        match error {
            ImportError::Provider(error) => error.into(),
            ImportError::File(path, error) => provider_errors::recovery(&path, error),
            ImportError::BadName(path, name, why) => {
                provider_errors::bad_name(&name, why).with_hint(give_another(&path))
            }
            ImportError::AlreadyHere(name) => Self::refused(format!(
                "provider {} already exists on this host and can be opened: there is nothing to \
                 import",
                quoted(&name)
            )),
            ImportError::KeyHasProvider(path, provider) => Self::refused(format!(
                "the file's key {} is already on this host, as provider {}: a second one would be \
                 ambiguous",
                provider.key_id.short(),
                quoted(&provider.name)
            ))
            .with_hint(format!(
                "if its key does not open any more: {}; {}",
                Command::ProviderImport(Arg::file(&path)),
                match provider.announced_as() {
                    // Under a name of its own it would be the next key of no provider any more.
                    Some(owner) => provider_errors::accept(owner),
                    None => format!(
                        "to change its name: {}",
                        Command::ProviderRename(Arg::provider(&provider), Arg::NEW)
                    ),
                }
            )),
            ImportError::NameHasKey {
                path,
                name,
                here,
                in_file,
                in_fleet,
            } => Self::refused(format!(
                "there is a provider {} with another key: {}; the file's is {}",
                quoted(&name),
                here.short(),
                in_file.short()
            ))
            .with_hint(if in_fleet {
                format!(
                    "if another host of the fleet has rotated it, hear of that first: {}; if it has more than once, import \
                     each key in its turn; if not, {}",
                    Command::Sync,
                    give_another(&path)
                )
            } else {
                give_another(&path)
            }),
        }
    }
}
