//! `open`: brings to this host the provider keys that key managers open.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::open::{OpenResult, OpenedProvider, open};
use crate::messages::{Command, quoted};

pub(crate) fn run(context: &Context, names: &[String]) -> Result<ExitCode, CommandError> {
    context.log()?;
    let opened = open(&context.host, names)?;
    let done = [OpenResult::Here, OpenResult::Opened];
    let failed = opened.iter().any(|it| !done.contains(&it.result));
    context.output.print(&opened)?;
    Ok(ExitCode::from(if failed { 4 } else { 0 }))
}

impl Answer for Vec<OpenedProvider> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no provider's key is opened by a key manager");
        }
        for it in self {
            let (name, key) = (quoted(&it.provider.name), it.key_id.short());
            let why = it.trouble.join("; ");
            match (it.result, &it.slot) {
                (OpenResult::Here, _) => {
                    writeln!(
                        out,
                        "provider {name}: key {key} is here, sealed: {}",
                        it.seal
                    )
                }
                (OpenResult::Opened, slot) => {
                    let slot = quoted(slot.as_deref().unwrap_or_default());
                    writeln!(
                        out,
                        "provider {name}: key {key} was opened by {slot}, sealed: {}",
                        it.seal
                    )
                }
                (OpenResult::NotRenewed, _) => writeln!(
                    out,
                    "provider {name}: key {key} is here, and no key manager has opened it again: {why}"
                ),
                (OpenResult::NotOpened, _) => {
                    writeln!(out, "provider {name}: key {key} is not here: {why}")
                }
            }?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let mut lost = self.iter().filter(|it| !it.result.is_here());
        let note = lost.next().map(|it| {
            format!(
                "guests with that key do not start; for details: {}",
                Command::SlotVerify(it.provider.arg())
            )
        });
        let opened = self.iter().filter(|it| it.result == OpenResult::Opened);
        let beside = opened.flat_map(|it| {
            let name = quoted(&it.provider.name);
            it.trouble
                .iter()
                .map(move |why| format!("provider {name}: {why}"))
        });
        beside.chain(note).collect()
    }
}
