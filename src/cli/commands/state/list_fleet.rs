//! `state list --fleet`: the TPM states in the fleet's store.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::fleet::states::{FleetStates, fleet_states};

pub(super) fn run(context: &Context) -> Result<(), CommandError> {
    context.output.print(&fleet_states(&context.host)?)
}

impl Answer for FleetStates {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.states.is_empty() {
            return writeln!(out, "no TPM states in the fleet's store");
        }
        let mut lines = table(&["DOMAIN", "UUID", "HOST", "SAVED AT", "ID"]);
        for state in &self.states {
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

    fn notes(&self) -> Vec<String> {
        let note =
            "older TPM states are not listed: they did not fit into the shared store's answer";
        let notes = self.is_cut.then(|| note.to_owned());
        notes.into_iter().collect()
    }
}
