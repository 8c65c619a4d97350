//! `key show`: a guest's key references, the retired ones too, and what each of them opens.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::manage::keys::{ShownKeys, TriedRow, show};
use crate::messages::Command;

pub(super) fn run(context: &Context, guest: &str) -> Result<(), CommandError> {
    context.output.print(&show(&context.host, guest)?)
}

impl Answer for ShownKeys {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = &self.guest;
        let uuid = guest.name.as_ref().map(|_| format!(" ({})", guest.uuid));
        writeln!(
            out,
            "{}{}, TPM state: {}",
            guest.label(),
            uuid.unwrap_or_default(),
            self.tpm_state.state
        )?;
        let heading = [
            "ID",
            "STATE",
            "PROVIDER",
            "KEY",
            "FIRST USED",
            "TPM",
            "TRAVELS",
            "OPENS",
        ];
        let mut lines = table(&heading);
        for tried in &self.key_refs {
            let row = &tried.row;
            lines.add_row([
                Cell::new(row.id),
                Cell::new(row.state.word()),
                Cell::new(provider(tried)),
                Cell::new(row.key_id.map_or("-".to_owned(), |id| id.short())),
                Cell::new(time(row.first_used_at)),
                match tried.tpm {
                    Some(word @ "proven") => Cell::new(word).fg(GOOD),
                    Some(word) => Cell::new(word).fg(BAD),
                    None => Cell::new("-"),
                },
                Cell::new(match tried.travels {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "-",
                }),
                match (tried.opens, &tried.reason) {
                    (None, _) => Cell::new("-"),
                    (Some(_), None) => Cell::new("yes").fg(GOOD),
                    (Some(_), Some(why)) => Cell::new(format!("no: {why}")).fg(BAD),
                },
            ]);
        }
        out.table(&lines)
    }

    fn notes(&self) -> Vec<String> {
        let looked = format!(
            "looked for the TPM state at {}",
            self.tpm_state.path.display()
        );
        let elsewhere = self.xml_path.as_ref().map(|wanted| {
            format!(
                "its XML looks for it at {}: {}",
                wanted.display(),
                Command::Check(self.guest.arg.clone())
            )
        });
        [looked].into_iter().chain(elsewhere).collect()
    }
}

/// The provider that the row names, and where its key really is.
fn provider(tried: &TriedRow) -> String {
    let named = &tried.row.provider_name;
    match &tried.provider {
        Some(holder) if Some(holder.uuid) == tried.row.provider_uuid => named.clone(),
        Some(holder) if holder.name == *named => format!("{named} (re-imported)"),
        Some(holder) => format!("{named} (its key: \"{}\")", holder.name),
        None => format!("{named} (missing)"),
    }
}
