//! `doctor`: what can make the guard fail silently, or a start fail later.

mod copies;
mod daemon_start;
mod drop_in;
mod files;
mod hook;
mod host;
mod host_tpm;
mod libvirt_dirs;
mod other_hooks;
mod plain_states;
mod recovery;
mod secrets;
mod shared_secrets;
mod store;
mod tpm_states;

use std::io;
use std::process::ExitCode;

use comfy_table::Color;
use serde_json::{Value, json};

use crate::cli::args::RecoveryFiles;
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, NOTABLE};
use crate::ids::SecretUuid;
use crate::libvirt::LibvirtClient;
use crate::libvirt::secret::HostSecrets;
use crate::manage::host::default_deadline;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// The guard does not do its work, or a start will fail.
    Fault,
    /// It works, and something should be addressed.
    Advice,
    /// A fact about this host that helps to understand what happens on it.
    Note,
}

/// Something to see to: what, why it matters, the command that helps.
struct Ailment {
    severity: Severity,
    what: String,
    why: &'static str,
    command: String,
}

impl Ailment {
    fn fault(what: impl Into<String>, why: &'static str, command: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fault,
            what: what.into(),
            why,
            command: command.into(),
        }
    }

    fn advice(what: impl Into<String>, why: &'static str, command: impl Into<String>) -> Self {
        Self {
            severity: Severity::Advice,
            ..Self::fault(what, why, command)
        }
    }

    fn note(what: impl Into<String>, why: &'static str, command: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::fault(what, why, command)
        }
    }
}

pub(crate) fn run(context: &Context, recovery: &RecoveryFiles) -> Result<ExitCode, CommandError> {
    let mut ailments = hook::ailments(context);
    ailments.extend(other_hooks::ailments(&context.host.libvirt_dirs()));
    ailments.extend(configuration(context));
    ailments.extend(libvirt(context));
    ailments.extend(libvirt_dirs::ailments(context));
    ailments.extend(daemon_start::ailments(&context.host.libvirt_dirs()));
    ailments.extend(files::ailments(
        context.host.state_dir(),
        &context.host.libvirt_dirs(),
    ));
    ailments.extend(store::ailments(context));
    ailments.extend(recovery::ailments(context, recovery)?);
    ailments.extend(secrets::ailments(&context.host.libvirt_dirs().secrets()));
    ailments.extend(shared_secrets::ailments(context));
    ailments.extend(tpm_states::ailments(context));
    ailments.extend(copies::ailments(context));
    ailments.extend(plain_states::ailments(context));
    ailments.extend(host::ailments(context));
    ailments.extend(host_tpm::ailments(context));
    ailments.sort_by_key(|ailment| ailment.severity);

    let number = |severity| {
        let such = ailments.iter().filter(|one| one.severity == severity);
        such.count()
    };
    let (faults, advice) = (number(Severity::Fault), number(Severity::Advice));
    let documents: Value = ailments.iter().map(document).collect();
    context.output.answer(&documents, |out| {
        for ailment in &ailments {
            describe(out, ailment)?;
        }
        match (faults, advice) {
            (0, 0) => writeln!(out, "nothing found"),
            (faults, advice) => writeln!(
                out,
                "{}, {advice} to see to when there is time",
                count(faults, "fault")
            ),
        }
    })?;
    Ok(ExitCode::from(u8::from(faults > 0)))
}

fn document(ailment: &Ailment) -> Value {
    json!({
        "severity": match ailment.severity {
            Severity::Fault => "fault",
            Severity::Advice => "advice",
            Severity::Note => "note",
        },
        "what": ailment.what,
        "why": ailment.why,
        "command": ailment.command,
    })
}

fn describe(out: &mut Printer<'_>, ailment: &Ailment) -> io::Result<()> {
    let (colour, sign, gap) = match ailment.severity {
        Severity::Fault => (BAD, "fault", "   "),
        Severity::Advice => (NOTABLE, "advice", "  "),
        Severity::Note => (Color::Reset, "note", "    "),
    };
    out.painted(colour, sign)?;
    out.part(format_args!("{gap}"))?;
    out.hanging(8, &ailment.what)?;
    out.part(format_args!("        why it matters: "))?;
    out.hanging(24, ailment.why)?;
    // To be copied: no line breaks are put into it.
    writeln!(out, "        what helps:     {}", ailment.command)
}

fn configuration(context: &Context) -> Option<Ailment> {
    let error = context.host.config().err()?;
    Some(Ailment::fault(
        format!("the configuration is broken: {error}"),
        "the hook goes by the defaults until it is mended",
        "edit the file (man vtpm-guard.toml), then check it: vtpm-guard doctor",
    ))
}

fn libvirt(context: &Context) -> Option<Ailment> {
    let uri = context.host.config().unwrap_or_default().secret_uri;
    // Any UUID will do: the question is whether there is an answer.
    let answer = LibvirtClient::at(&uri).inspect(SecretUuid::random(), default_deadline());
    let reason = answer.err()?;
    Some(Ailment::fault(
        format!("libvirt's secret driver does not answer at {uri}: {reason}"),
        "the hook could not hand over a key, and every start that needs one would be refused",
        format!("virsh -c {uri} secret-list"),
    ))
}

/// A file that could not be looked at.
fn unreadable(path: &std::path::Path, error: &io::Error) -> Ailment {
    Ailment::fault(
        format!("{} cannot be looked at: {error}", path.display()),
        "nothing is known of what is in it",
        "run it as root: vtpm-guard doctor",
    )
}
