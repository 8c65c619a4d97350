//! `replay`: what the hook would do with a captured domain XML.

use std::process::ExitCode;

use super::captures;
use crate::cli::args::{ReplayedHook, ReplayedXml};
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::CheckedGuests;
use crate::cli::ui::error::CommandError;
use crate::manage::replay::{ReplayError, ReplayedCall, replay};

pub(crate) fn run(
    context: &Context,
    xml: &ReplayedXml,
    call: ReplayedCall<'_>,
) -> Result<ExitCode, CommandError> {
    let guest = match (&xml.file, xml.capture) {
        (Some(file), _) => guest_file::from_file(file)?,
        (None, number) => guest_file::from_file(&captures::file(context, number.unwrap_or(1))?)?,
    };
    let replayed = replay(&context.host, guest, call)?;
    let no_log = replayed.no_log.map(|error| error.to_string());
    let secret_left = replayed.secret_left.map(|(secret, error)| {
        format!("the secret {secret} stays in libvirt until the guest's next start: {error}")
    });
    let answer = CheckedGuests {
        one: true,
        guests: vec![replayed.guest],
        notes: no_log.into_iter().chain(secret_left).collect(),
    };
    context.output.print(&answer)?;
    Ok(answer.status(false))
}

impl<'a> From<&'a ReplayedHook> for ReplayedCall<'a> {
    fn from(call: &'a ReplayedHook) -> Self {
        Self {
            operation: &call.operation,
            sub_operation: &call.sub_operation,
            dry_run: call.dry_run,
            no_secret: call.no_secret,
        }
    }
}

impl From<ReplayError> for CommandError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Host(error) => error.into(),
            ReplayError::FollowUp(..) => Self::failed(error),
        }
    }
}
