//! `provider delete`: deletes a provider and its key.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::provider_delete::{DeleteError, DeletedProvider, NeededProvider, delete};
use crate::messages::{Arg, Command, count, quoted};

pub(super) fn run(context: &Context, name: &str, force: bool) -> Result<(), CommandError> {
    match delete(&context.host, name, force) {
        Ok(deleted) => context.output.print(&deleted),
        Err(error) => {
            if let DeleteError::Needed(needed) = &error {
                context.output.print(needed)?;
            }
            Err(error.into())
        }
    }
}

impl Answer for DeletedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let kept = if self.key_removed {
            ""
        } else {
            ", which another provider has too"
        };
        writeln!(
            out,
            "deleted provider {}: key {}{kept}",
            quoted(&self.provider.name),
            self.key_id.short()
        )
    }

    fn notes(&self) -> Vec<String> {
        let guests = count(self.locked.len(), "guest");
        let locked = match self.exported_at {
            _ if self.locked.is_empty() => None,
            Some(_) => Some(format!(
                "{guests} cannot start until it is imported again: {}",
                Command::ProviderImport(Arg::FILE)
            )),
            None => Some(format!(
                "{guests} cannot start without it, and it was never exported"
            )),
        };
        let default = self.was_default.then(|| {
            let command = Command::ProviderSetDefault(Arg::NAME);
            format!("there is no default provider now; choose one: {command}")
        });
        let auto_bind = self
            .was_auto_bind
            .then(|| describe::auto_binds_to(&self.provider.name));
        locked.into_iter().chain(default).chain(auto_bind).collect()
    }
}

impl Answer for NeededProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let mut rows = table(&["DOMAIN", "UUID"]);
        for guest in &self.locked {
            let name = guest.name.as_deref().unwrap_or("-");
            rows.add_row([name, &guest.uuid.to_string()]);
        }
        out.table(&rows)
    }
}

impl From<DeleteError> for CommandError {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::Provider(error) => error.into(),
            DeleteError::Needed(needed) => Self::refused(format!(
                "provider {} is needed: {} would not start without it",
                quoted(&needed.provider.name),
                count(needed.locked.len(), "guest")
            ))
            .with_hint(format!(
                "to delete it anyway: {}",
                Command::ProviderDeleteForced(needed.provider.arg())
            )),
            DeleteError::NeverExported(provider) => Self::refused(format!(
                "provider {} was never exported: its key would be lost for good",
                quoted(&provider.name)
            ))
            .with_hint(format!(
                "export it: {}; or delete it anyway: {}",
                Command::ProviderExport(provider.arg()),
                Command::ProviderDeleteForced(provider.arg())
            )),
        }
    }
}
