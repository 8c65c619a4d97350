//! `provider create`: creates a provider with a new key.

use std::io;

use super::slot::spec;
use super::weaker_seal;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::keyring::WeakerSeal;
use crate::manage::provider_create::{CreatedProvider, create};
use crate::messages::{Arg, Command, quoted};

pub(super) fn run(
    context: &Context,
    name: &str,
    default: bool,
    slots: &[String],
    weaker: WeakerSeal,
) -> Result<(), CommandError> {
    let slots = slots.iter().map(|text| spec(text));
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    let created = create(&context.host, name, default, &slots, weaker)?;
    context.output.print(&created)
}

impl Answer for CreatedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let created = &self.provider;
        let default = if created.is_default {
            ", the default"
        } else {
            ""
        };
        writeln!(
            out,
            "created provider {}{default}: key {}, sealed: {}",
            quoted(&created.provider.name),
            created.key_id.short(),
            created.seal
        )?;
        created
            .key_managers()
            .try_for_each(|slot| writeln!(out, "{} opens it, too: verified", quoted(&slot.name())))
    }

    fn notes(&self) -> Vec<String> {
        let provider = &self.provider.provider;
        let export = if self.provider.key_managers().next().is_some() {
            format!(
                "what a key manager has wrapped is in the store; if this host is lost, a backup of that opens \
                 the key again: {}; so does a recovery file: {}",
                Command::StoreBackup(Arg::FILE),
                Command::ProviderExport(provider.arg())
            )
        } else {
            format!(
                "export it now; if this host is lost, so is its key and every TPM that depends on it: \
                 {}",
                Command::ProviderExport(provider.arg())
            )
        };
        let weaker = weaker_seal::note(provider.arg(), &self.stored);
        weaker.into_iter().chain([export]).collect()
    }
}
