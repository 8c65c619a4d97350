//! `state list --fleet`: the TPM states in the fleet's store.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::fleet::states::{FleetState, fleet_states};

pub(super) fn run(context: &Context) -> Result<(), CommandError> {
    context.output.print(&fleet_states(&context.host)?)
}

impl Answer for Vec<FleetState> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no TPM states in the fleet's store");
        }
        let mut lines = table(&["DOMAIN", "UUID", "HOST", "SAVED AT", "ID"]);
        for state in self {
            lines.add_row([
                state.guest.name.clone().unwrap_or_default(),
                state.guest.uuid.to_string(),
                state.host.clone().unwrap_or_default(),
                time(Some(state.saved_at)),
                state.id.chars().take(12).collect(),
            ]);
        }
        out.table(&lines)
    }
}
