//! `provider export`: writes a provider's key to a recovery file.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::passphrase::{self, Chosen, Weakness};
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::provider_errors;
use crate::manage::previous_keys::PreviousKey;
use crate::manage::provider_export::{ExportError, ExportedProvider, export, exportable};
use crate::messages::{Command, quoted};

/// What was exported, and how good its passphrase is.
#[derive(Serialize)]
struct Export {
    #[serde(flatten)]
    exported: ExportedProvider,
    warnings: Vec<Weakness>,
}

pub(super) fn run(
    context: &Context,
    name: &str,
    output: &Path,
    passphrase_file: Option<&Path>,
) -> Result<(), CommandError> {
    let provider = exportable(&context.host, name, output)?;
    let Chosen {
        passphrase,
        weaknesses,
    } = passphrase::choose(passphrase_file)?;
    let waiting = Progress::waiting("deriving a key from the passphrase");
    let exported = export(&context.host, &provider, output, &passphrase);
    waiting.done();
    context.output.print(&Export {
        exported: exported?,
        warnings: weaknesses,
    })
}

impl Answer for Export {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(
            out,
            "exported provider {}, key {}, to {}",
            quoted(&self.exported.provider.name),
            self.exported.key_id.short(),
            self.exported.file.display()
        )
    }

    fn notes(&self) -> Vec<String> {
        let keep = "keep the file away from this host, and the passphrase away from the file: \
                    without either the key is lost";
        let dropped = self.exported.dropped.iter().map(|key_id| {
            format!(
                "the previous key {} is dropped: nothing on this host needs it; keep its recovery \
                 file with the store backups of its time",
                key_id.short()
            )
        });
        [keep.to_owned()]
            .into_iter()
            .chain(self.warnings.iter().map(ToString::to_string))
            .chain(dropped)
            .chain(self.exported.kept.iter().map(kept))
            .collect()
    }
}

fn kept(kept: &PreviousKey) -> String {
    let (key, provider) = (kept.key_id.short(), &kept.provider);
    let name = quoted(&provider.name);
    match (kept.is_needed, kept.is_exported) {
        // One that was exported, and that nothing needs, is not kept.
        (_, true) => format!(
            "the previous key {key} is kept as provider {name}: key references need it; list them: {}",
            Command::KeyList
        ),
        (true, false) => format!(
            "the previous key {key} is kept as provider {name}: key references need it, and it was \
             never exported; export it: {}",
            Command::ProviderExport(provider.arg())
        ),
        (false, false) => format!(
            "the previous key {key} is kept: it was never exported, and store backups of its time \
             need it; export it: {}; or delete it: {}",
            Command::ProviderExport(provider.arg()),
            Command::ProviderDeleteForced(provider.arg())
        ),
    }
}

impl From<ExportError> for CommandError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Provider(error) => error.into(),
            ExportError::File(path, error) => provider_errors::recovery(&path, error),
            ExportError::NotRecorded(path, error) => Self::failed(format!(
                "{} is written and good, but that could not be recorded in the store: {error}",
                path.display()
            )),
            ExportError::NotDropped(path, error) => Self::from(error).after(format!(
                "{} is written and good, but a previous key that nothing needs was not dropped",
                path.display()
            )),
        }
    }
}
