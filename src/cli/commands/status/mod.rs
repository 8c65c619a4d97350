//! `status`: the guard on this host and all its vTPM guests, at a glance.

mod guests;
pub(crate) mod host;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use self::guests::Guests;
use self::host::Host;
use crate::cli::args::StatusFilters;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Deadline;
pub(crate) use host::hook_link;

/// How long libvirt may take to list its guests: at a glance, so it is not waited for longer.
const GLANCE: Duration = Duration::from_secs(5);

pub(crate) fn run(context: &Context, filters: &StatusFilters) -> Result<ExitCode, CommandError> {
    crate::cli::context::protect_keys()?;
    let listed = context.host.libvirt().guests(Deadline::after(GLANCE));
    let host = Host::look(context, listed.as_deref().ok())?;
    let guests = match listed {
        Ok(listed) => Some(Guests::look(context, listed, filters)?),
        Err(error) => {
            let error = CommandError::from(error);
            context.output.note(&error.to_string());
            None
        }
    };
    let mut document = host.document();
    document["guests"] = guests.as_ref().map_or(Value::Null, Guests::document);
    context.output.answer(&document, |out| {
        host.print(out)?;
        guests.map_or(Ok(()), |guests| guests.print(out))
    })?;
    Ok(ExitCode::SUCCESS)
}
