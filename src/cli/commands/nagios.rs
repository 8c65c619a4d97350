//! `--nagios`: the answer of a monitoring plugin: one line with performance data, and its exit
//! status (Monitoring Plugins Development Guidelines): 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

use std::io;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::ui::answer::{Answer, Output};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::dry_start::CheckedGuest;
use crate::messages::{count, label, one_line};
use crate::verdict::{Decision, Finding, Reason};

/// How many guests the line names.
const NAMED: usize = 10;

/// The status of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Prints the line about these guests; the plugin's status is that of the command.
pub(crate) fn print(output: &Output, checked: &[CheckedGuest]) -> Result<ExitCode, CommandError> {
    let (status, words) = line(checked);
    say(output, status, words)
}

/// The answer where nothing could be checked. If it cannot be printed, its status remains.
pub(crate) fn unknown(output: &Output, error: &CommandError) -> ExitCode {
    say(output, Status::Unknown, plain(&error.to_string()))
        .unwrap_or(ExitCode::from(Status::Unknown as u8))
}

/// The status where the arguments themselves are wrong.
pub(crate) fn usage() -> ExitCode {
    ExitCode::from(Status::Unknown as u8)
}

/// The line of a plugin.
#[derive(Serialize)]
struct PluginLine {
    status: &'static str,
    message: String,
}

impl Answer for PluginLine {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "VTPM-GUARD {} - {}", self.status, self.message)
    }
}

fn say(output: &Output, status: Status, message: String) -> Result<ExitCode, CommandError> {
    output.print(&PluginLine {
        status: status.word(),
        message,
    })?;
    Ok(ExitCode::from(status as u8))
}

fn line(checked: &[CheckedGuest]) -> (Status, String) {
    let refused: Vec<_> = checked.iter().filter_map(refused).collect();
    let at_risk: Vec<_> = checked.iter().filter_map(at_risk).collect();
    let has_repairs = |one: &&CheckedGuest| !one.outcome.verdict.repairs().is_empty();
    let (due, done): (Vec<_>, Vec<_>) = checked
        .iter()
        .filter(has_repairs)
        .partition(|one| one.outcome.dry_run);
    let is_clients = |one: &&CheckedGuest| {
        one.outcome.verdict.decision() == &Decision::Allow(Reason::ClientsKey)
    };
    let clients = checked.iter().filter(is_clients).count();
    let guests = count(checked.len(), "guest");
    let (status, words) = if !refused.is_empty() {
        (
            Status::Critical,
            format!(
                "{} of {guests} would not start: {}",
                refused.len(),
                names(&refused)
            ),
        )
    } else if !at_risk.is_empty() {
        (
            Status::Warning,
            format!(
                "{} of {guests} would start, but something is wrong: {}",
                at_risk.len(),
                names(&at_risk)
            ),
        )
    } else if !due.is_empty() {
        let named: Vec<_> = due.iter().map(|one| plain(&label(&one.name))).collect();
        (
            Status::Warning,
            format!(
                "{} of {guests} would start after repairs: {}",
                due.len(),
                names(&named)
            ),
        )
    } else if done.is_empty() {
        (Status::Ok, format!("{guests} would start"))
    } else {
        let repaired = done.len();
        (
            Status::Ok,
            format!("{guests} would start, {repaired} repaired"),
        )
    };
    // label=value;warn;crit;min;max
    let all = checked.len();
    let data = format!(
        "guests={all};;;0 refused={};;0;0;{all} repairs={};0;;0;{all} clients_key={clients};;;0;{all}",
        refused.len(),
        due.len(),
    );
    (status, format!("{words} | {data}"))
}

/// The name of a guest that would not start, and why.
fn refused(one: &CheckedGuest) -> Option<String> {
    match one.outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(format!(
            "{} ({})",
            plain(&label(&one.name)),
            why.code().as_str()
        )),
    }
}

/// The name of a guest that would start all the same, and what the guard cannot answer for.
fn at_risk(one: &CheckedGuest) -> Option<String> {
    let why = match one.risk()? {
        Finding::Degraded(why) => why.code().as_str(),
        Finding::StoreUnusable(_) => "the store cannot be used",
        Finding::KeyInMemoryOnly { .. } => "its key is in libvirt's memory alone",
        Finding::NotRecorded(_) => "the store took no repairs",
        _ => "see its findings",
    };
    Some(format!("{} ({why})", plain(&label(&one.name))))
}

fn names(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>();
    match all.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The text before the performance data must not contain its separator.
fn plain(text: &str) -> String {
    one_line(text).replace('|', " ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::cli::ui::check_table::testing::checked;
    use crate::ids::KeyRefId;
    use crate::verdict::refusal::Refusal;
    use crate::verdict::repair::Repair;

    #[test]
    fn the_worst_guest_decides() {
        let fine = || checked("vm1", Decision::Allow(Reason::Proven));
        let client = || checked("nova", Decision::Allow(Reason::ClientsKey));
        let lost = |name: &str| checked(name, Decision::Deny(Refusal::KeyLost));
        let repaired = || {
            let mut one = fine();
            let key_ref = KeyRefId(1);
            one.outcome.verdict.plan(
                Finding::OrphanPlaceholder(key_ref),
                Repair::DeletePlaceholder { key_ref },
            );
            one
        };
        assert_eq!(
            line(&[fine(), client()]),
            (
                Status::Ok,
                "2 guests would start | guests=2;;;0 refused=0;;0;0;2 repairs=0;0;;0;2 \
                 clients_key=1;;;0;2"
                    .to_owned()
            )
        );
        let (status, words) = line(&[repaired(), client()]);
        assert_eq!(status, Status::Warning);
        assert!(words.starts_with("1 of 2 guests would start after repairs: vm1 | "));
        let mut done = repaired();
        done.outcome.dry_run = false;
        let (status, words) = line(&[done]);
        assert_eq!(status, Status::Ok);
        assert!(words.starts_with("1 guest would start, 1 repaired | "));
        let (status, words) = line(&[repaired(), lost("a|b"), fine()]);
        assert_eq!(status, Status::Critical);
        assert!(words.starts_with("1 of 3 guests would not start: \"a b\" (VG202) | guests=3"));
        // It starts with libvirt's own secret, as long as libvirt has that.
        let mut degraded = fine();
        let why = Finding::Degraded(Refusal::KeyLost);
        degraded.outcome.verdict.note(why);
        let (status, words) = line(&[repaired(), degraded]);
        assert_eq!(status, Status::Warning);
        let expected = "1 of 2 guests would start, but something is wrong: vm1 (VG202) | ";
        assert!(words.starts_with(expected), "{words}");
        let many: Vec<_> = (0..12).map(|number| lost(&number.to_string())).collect();
        assert!(line(&many).1.contains("9 (VG202) and 2 more | "));
        assert_eq!(line(&[]).0, Status::Ok);
    }
}
