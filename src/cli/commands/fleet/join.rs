//! `fleet join`: this host joins a fleet.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::fleet::opened;
use crate::cli::ui::printer::Printer;
use crate::host::dirs::FLEET_UNIT;
use crate::manage::fleet::{Joined, announced_name, join};
use crate::messages::{Arg, Command, count, quoted};

pub(super) fn run(context: &Context, name: Option<&str>) -> Result<(), CommandError> {
    context.output.print(&join(&context.host, name)?)
}

impl Answer for Joined {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(
            out,
            "this host is {} in the fleet ({})",
            quoted(&self.name),
            self.server
        )?;
        for line in opened(&self.round.opened) {
            writeln!(out, "{line}")?;
        }
        let done = &self.round.exchanged;
        writeln!(
            out,
            "told the fleet {}, learnt {}: {} on this host",
            count(done.pushed, "fact"),
            done.pulled,
            count(self.key_refs, "key reference")
        )
    }

    fn notes(&self) -> Vec<String> {
        let accept = self.to_accept.iter().map(|provider| {
            let owner = announced_name(&provider.name);
            format!(
                "provider {} opens here and wraps no new keys until it is accepted: {}",
                quoted(owner),
                Command::ProviderAccept(Arg::provider_named(owner))
            )
        });
        let namesakes = self.namesakes.iter().map(|other| {
            format!(
                "another host of the fleet is called {}; if it was this one before it was installed again: {}",
                quoted(&self.name),
                Command::FleetLost(Arg::host_uuid(*other))
            )
        });
        let follow = Command::SystemctlEnableNow(FLEET_UNIT.into());
        let follow = format!("to exchange facts from now on: {follow}");
        accept
            .chain(namesakes)
            .chain(self.round.trouble.clone())
            .chain([follow])
            .collect()
    }
}
