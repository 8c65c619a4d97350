//! `state list`: all saved copies.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::copies::JudgedCopy;
use crate::messages::{Arg, Command, count};
use crate::swtpm::StateFile;

pub(super) fn run(context: &Context) -> Result<(), CommandError> {
    let copies = context.host.all_copies()?;
    for error in &copies.unreadable {
        context.output.note(&error.to_string());
    }
    context.output.print(&copies.judged)
}

impl Answer for Vec<JudgedCopy> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no saved copies of TPM state");
        }
        let heading = [
            "DOMAIN", "UUID", "OCCASION", "SIZE", "KEPT AT", "OPENED", "FOR",
        ];
        let mut lines = table(&heading);
        for judged in self {
            lines.add_row([
                judged.copy.manifest.domain_name.clone(),
                judged.guest.uuid.to_string(),
                judged.occasion.to_owned(),
                judged.size.to_string(),
                time(Some(judged.kept_at)),
                super::opened(judged).to_owned(),
                purpose(judged).to_owned(),
            ]);
        }
        out.table(&lines)
    }

    fn notes(&self) -> Vec<String> {
        let untried = self.iter().filter(|judged| judged.untried.is_some());
        let copies = untried.count();
        let note = || {
            let copies = count(copies, "copy");
            let show = Command::StateShow(Arg::DOMAIN);
            format!(
                "a key could not be tried on {copies}, because it does not open; for the reason: {show}"
            )
        };
        (copies > 0).then(note).into_iter().collect()
    }
}

/// What it is there for.
fn purpose(judged: &JudgedCopy) -> &'static str {
    match &judged.content {
        _ if !judged.copy.is_available() => "state restore (set aside)",
        _ if judged.outdated => "state restore (older than the last run)",
        StateFile::Encrypted(_) if judged.opened || !judged.keyed => "the next start without state",
        StateFile::Plain => "the next start without state",
        _ => "state restore",
    }
}
