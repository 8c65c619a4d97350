//! `provider slot verify`: does each slot still open the provider's key?

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, cell_if, table};
use crate::manage::slots::{VerifiedSlots, verify};

pub(super) fn run(context: &Context, name: &str) -> Result<ExitCode, CommandError> {
    let verified = verify(&context.host, name)?;
    context.output.print(&verified)?;
    Ok(ExitCode::from(if verified.all_open() { 0 } else { 4 }))
}

impl Answer for VerifiedSlots {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let mut rows = table(&["SLOT", "KIND", "OPENS", "VERIFIED", "WHY"]);
        for it in &self.slots {
            let opens = match it.opens {
                Some(true) => Cell::new("yes").fg(GOOD),
                Some(false) => Cell::new("no").fg(BAD),
                None => Cell::new("-"),
            };
            let unknown = || match it.opens {
                None => "needs its passphrase".to_owned(),
                Some(_) => "-".to_owned(),
            };
            let why = it.trouble.clone().unwrap_or_else(unknown);
            rows.add_row([
                Cell::new(it.slot.name()),
                Cell::new(&it.slot.kind),
                opens,
                Cell::new(time(it.slot.verified_at)),
                cell_if(it.opens == Some(false), BAD, why),
            ]);
        }
        out.table(&rows)
    }
}
