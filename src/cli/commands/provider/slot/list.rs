//! `provider slot list`: every way to a provider's key.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::slots::{ListedSlots, list};
use crate::messages::{Command, quoted};

pub(super) fn run(context: &Context, name: &str) -> Result<(), CommandError> {
    context.output.print(&list(&context.host, name)?)
}

impl Answer for ListedSlots {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.slots.is_empty() {
            let name = quoted(&self.provider.name);
            return writeln!(out, "nothing opens the key of provider {name}");
        }
        let heading = [
            "SLOT", "KIND", "LABEL", "VERSION", "VERIFIED", "CREATED", "UUID",
        ];
        let mut rows = table(&heading);
        for slot in &self.slots {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let uuid = slot.slot_uuid.map(|uuid| uuid.to_string());
            rows.add_row([
                slot.name(),
                slot.kind.clone(),
                text(&slot.label),
                text(&slot.remote_version),
                time(slot.verified_at),
                time(slot.created_at),
                text(&uuid),
            ]);
        }
        out.table(&rows)
    }

    fn notes(&self) -> Vec<String> {
        let only_host = self.slots.len() == 1 && self.slots[0].slot_uuid.is_none();
        let note = || {
            format!(
                "there is no other way to this key: if this host is lost, so is the key; export it: {}",
                Command::ProviderExport(self.provider.arg())
            )
        };
        only_host.then(note).into_iter().collect()
    }
}
