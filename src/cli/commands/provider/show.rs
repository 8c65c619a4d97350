//! `provider show`: one provider, and whether its key opens.

use std::io;

use super::list::exported;
use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::fields;
use crate::manage::provider_list::{ShownProvider, show};

pub(super) fn run(context: &Context, name: &str) -> Result<(), CommandError> {
    context.output.print(&show(&context.host, name)?)
}

impl Answer for ShownProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let shown = &self.provider;
        let opens = match &self.trouble {
            None => "yes".to_owned(),
            Some(why) => format!("no: {why}"),
        };
        let default = if shown.is_default { "yes" } else { "no" };
        let slots: Vec<_> = shown
            .key_managers()
            .map(|slot| format!("{} (verified: {})", slot.name(), time(slot.verified_at)))
            .collect();
        let slots = if slots.is_empty() {
            "-".to_owned()
        } else {
            slots.join(", ")
        };
        out.table(&fields([
            ("name", shown.provider.name.clone()),
            ("uuid", shown.provider.uuid.to_string()),
            ("key id", shown.key_id.to_string()),
            ("key version", shown.key_version.to_string()),
            ("default", default.to_owned()),
            ("sealed", shown.seal.to_string()),
            ("key opens", opens),
            ("created", time(Some(shown.created_at))),
            ("slots", slots),
            ("exported", exported(shown.exported_at)),
            ("guests", shown.guests.to_string()),
        ]))
    }
}
