//! `store …`: check, back up, restore, rebuild.

use std::io;
use std::process::ExitCode;

use super::store_rebuild;
use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::provider_errors;
use crate::cli::ui::table::table;
use crate::manage::store_backup::{
    BackedUp, CheckedStore, FoundInStore, RestoreStoreError, RestoredStore, backup, check, restore,
};
use crate::messages::{Arg, Command, count, label};
use crate::store::AlikeFindings;

pub(crate) fn run(context: &Context, verb: &args::Store) -> Result<ExitCode, CommandError> {
    match verb {
        args::Store::Check => {
            let checked = check(&context.host)?;
            context.output.print(&checked)?;
            return Ok(ExitCode::from(u8::from(!checked.findings.is_empty())));
        }
        args::Store::Backup { file } => context.output.print(&backup(&context.host, file)?)?,
        args::Store::Rebuild { dry_run } => return store_rebuild::run(context, *dry_run),
        args::Store::Restore { file } => context.output.print(&restore(&context.host, file)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// How many findings that are alike are shown to people; `--json` has all of them.
const SHOWN: usize = 20;

impl Answer for CheckedStore {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if !self.exists {
            return writeln!(out, "there is no store yet");
        }
        if self.findings.is_empty() {
            return writeln!(out, "the store is in order");
        }
        let mut rows = table(&["FINDING", "WHAT"]);
        let findings = self.findings.iter().map(|found| &found.0);
        for AlikeFindings { first, others } in AlikeFindings::of(findings, SHOWN) {
            let mut kind = "";
            for found in first.into_iter().map(FoundInStore) {
                kind = found.kind();
                rows.add_row([kind, &found.0.to_string()]);
            }
            if others > 0 {
                rows.add_row([kind, &format!("and {others} more like this")]);
            }
        }
        out.table(&rows)
    }

    fn notes(&self) -> Vec<String> {
        let is_damaged = self.findings.iter().any(|found| found.0.is_damage());
        let fix = format!("restore a backup: {}", Command::StoreRestore(Arg::FILE));
        is_damaged.then_some(fix).into_iter().collect()
    }
}

impl Answer for BackedUp {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "backed up the store to {}", self.file.display())
    }

    fn notes(&self) -> Vec<String> {
        let keys = format!(
            "it does not include the provider keys: {}",
            Command::ProviderExport(Arg::NAME)
        );
        let never = &self.providers_never_exported;
        let never = (!never.is_empty()).then(|| format!("never exported: {}", labels(never)));
        [keys].into_iter().chain(never).collect()
    }
}

impl Answer for RestoredStore {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "restored the store from {}", self.backup.display())?;
        match &self.previous {
            Some(path) => writeln!(out, "the previous store is kept: {}", path.display()),
            None => Ok(()),
        }
    }

    fn notes(&self) -> Vec<String> {
        let without = &self.providers_without_key;
        if without.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "{} cannot be opened on this host ({}): {}",
            match without.len() {
                1 => "the key of 1 provider".to_owned(),
                several => format!("the keys of {}", count(several, "provider")),
            },
            labels(without),
            Command::ProviderImport(Arg::FILE)
        )]
    }
}

impl From<RestoreStoreError> for CommandError {
    fn from(error: RestoreStoreError) -> Self {
        match error {
            RestoreStoreError::Exchange(error) => error.into(),
            RestoreStoreError::Backup(error) => provider_errors::backup(error),
            RestoreStoreError::Providers(error) => error.into(),
        }
    }
}

fn labels(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| label(name)).collect();
    names.join(", ")
}
