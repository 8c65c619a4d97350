//! `state show`: one guest's saved copies, with their place.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::fields;
use crate::manage::copies::{JudgedCopy, ShownCopies};
use crate::manage::restore_state::show;

pub(super) fn run(context: &Context, guest: &str) -> Result<(), CommandError> {
    context.output.print(&show(&context.host, guest)?)
}

impl Answer for ShownCopies {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        for (at, judged) in self.copies.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            let manifest = &judged.copy.manifest;
            let owner = manifest.file();
            let rows = fields([
                ("domain", manifest.domain_name.clone()),
                ("uuid", judged.guest.uuid.to_string()),
                ("occasion", judged.occasion.to_owned()),
                ("kept at", time(Some(judged.kept_at))),
                ("set aside at", time(judged.set_aside_at)),
                (
                    "outdated",
                    if judged.outdated { "yes" } else { "no" }.to_owned(),
                ),
                ("size", judged.size.to_string()),
                ("opened by its key", opened(judged)),
                ("place", judged.path.to_string_lossy().into_owned()),
                (
                    "owner and mode",
                    format!("{}:{} {:04o}", owner.uid, owner.gid, owner.mode),
                ),
                ("sha256", judged.sha256.clone()),
            ]);
            out.table(&rows)?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        self.unreadable.iter().map(ToString::to_string).collect()
    }
}

/// Whether a key opens it; where one could not be tried, why.
fn opened(judged: &JudgedCopy) -> String {
    let opened = super::opened(judged);
    match &judged.untried {
        Some(why) => format!("{opened}: {why}"),
        None => opened.to_owned(),
    }
}
