//! Checked guests for people and for programs: what `check`, `repair` and `replay` print.

use std::io;
use std::process::ExitCode;

use serde::{Serialize, Serializer};

use super::printer::Printer;
use super::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::cli::ui::answer::{Answer, time};
use crate::manage::dry_start::CheckedGuest;
use crate::messages::{Words, count, finding, label, quoted, reason, refusal};
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Decision, Finding, Reason};

/// Checked guests, and what concerns none of them alone.
#[derive(Default)]
pub(crate) struct CheckedGuests {
    /// Whether one guest was named: then the answer is one document or paragraph, no list.
    pub(crate) one: bool,
    pub(crate) guests: Vec<CheckedGuest>,
    pub(crate) notes: Vec<String>,
}

impl CheckedGuests {
    /// 1 if any start is refused; else 3 if any needs repairs and `after_repairs` is to be told;
    /// else 0.
    pub(crate) fn status(&self, after_repairs: bool) -> ExitCode {
        let refused = self.guests.iter().any(|one| !one.outcome.is_allowed());
        let repaired = self.guests.iter().any(CheckedGuest::has_repairs);
        ExitCode::from(match (refused, after_repairs && repaired) {
            (true, _) => 1,
            (false, true) => 3,
            (false, false) => 0,
        })
    }

    /// Whether the store did not take the repairs of an allowed start: it would start all the same.
    pub(crate) fn has_unwritten_repairs(&self) -> bool {
        let mut findings = self
            .guests
            .iter()
            .flat_map(|one| one.outcome.verdict.findings());
        findings.any(|found| matches!(found, Finding::NotRecorded(_)))
    }
}

impl Serialize for CheckedGuests {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.guests[..] {
            [one] if self.one => one.serialize(to),
            several => several.serialize(to),
        }
    }
}

impl Answer for CheckedGuests {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        match &self.guests[..] {
            [one] if self.one => paragraph(out, one),
            several => overview(out, several),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

fn paragraph(out: &mut Printer<'_>, one: &CheckedGuest) -> io::Result<()> {
    let outcome = &one.outcome;
    let name = label(&one.name);
    let tense = if outcome.dry_run {
        "would start"
    } else {
        "starts"
    };
    match outcome.verdict.decision() {
        Decision::Allow(why @ Reason::NotAStart) => writeln!(out, "{name}: {}", reason(*why))?,
        Decision::Allow(why) => {
            let colour = if outcome.verdict.repairs().is_empty() {
                GOOD
            } else {
                NOTABLE
            };
            out.part(format_args!("{name}: "))?;
            out.painted(colour, tense)?;
            writeln!(out, ": {}", reason(*why))?;
        }
        Decision::Deny(why) => {
            let Words { message, hint } = refusal(one.named(), why);
            let tense = if outcome.dry_run {
                "would not start"
            } else {
                "does not start"
            };
            out.part(format_args!("{name}: "))?;
            out.painted(BAD, tense)?;
            writeln!(out, ": {}: {message}", why.code())?;
            writeln!(out, "  hint: {hint}")?;
        }
    }
    let tense = if outcome.dry_run {
        "would repair"
    } else {
        "repaired"
    };
    for repair in outcome.verdict.repairs() {
        writeln!(out, "  {tense}: {}", in_words(repair))?;
    }
    for noticed in outcome.verdict.findings() {
        writeln!(out, "  noticed: {}", finding(one.named(), noticed).1)?;
    }
    Ok(())
}

fn overview(out: &mut Printer<'_>, guests: &[CheckedGuest]) -> io::Result<()> {
    let mut rows = table(&["DOMAIN", "STARTS", "REPAIRS", "WHY"]);
    for one in guests {
        let CheckedGuest { name, outcome, .. } = one;
        let repairs = outcome.verdict.repairs().len();
        let (start, colour, why) = match outcome.verdict.decision() {
            Decision::Allow(why) if repairs == 0 => ("yes", GOOD, reason(*why).to_owned()),
            Decision::Allow(why) => {
                let starts = if outcome.dry_run {
                    "after repairs"
                } else {
                    "repaired"
                };
                (starts, NOTABLE, reason(*why).to_owned())
            }
            Decision::Deny(why) => {
                let message = refusal(one.named(), why).message;
                (why.code().as_str(), BAD, message)
            }
        };
        rows.add_row([
            Cell::new(name),
            Cell::new(start).fg(colour),
            Cell::new(repairs),
            Cell::new(why),
        ]);
    }
    out.table(&rows)?;
    for one in guests {
        if let Decision::Deny(why) = one.outcome.verdict.decision() {
            let Words { hint, .. } = refusal(one.named(), why);
            writeln!(out, "  hint: {}: {hint}", label(&one.name))?;
        }
    }
    // Of a guest that would start, and may not do so tomorrow, the table says nothing.
    for one in guests {
        if let Some(risk) = one.risk() {
            let (_, noticed) = finding(one.named(), risk);
            writeln!(out, "  noticed: {}: {noticed}", label(&one.name))?;
        }
    }
    let refused = guests
        .iter()
        .filter(|one| !one.outcome.is_allowed())
        .count();
    let all = guests.len();
    writeln!(
        out,
        "{}: {} would start, {refused} would not",
        count(all, "guest"),
        all - refused
    )
}

/// A repair in words.
fn in_words(repair: &Repair) -> String {
    let row = repair.key_ref().map_or_else(
        || "a new row".to_owned(),
        |id| format!("key reference {id}"),
    );
    match repair {
        Repair::RebindProvider { provider_name, .. }
        | Repair::BindProvider { provider_name, .. } => {
            format!("{} ({row} to {})", repair.kind(), quoted(provider_name))
        }
        Repair::DeleteDuplicate { kept, .. } => {
            let kept = kept.map_or_else(|| "the learnt one".to_owned(), |kept| kept.to_string());
            format!("{} ({row}, whose key {kept} keeps)", repair.kind())
        }
        Repair::RestoreTpmState { saved_at, .. } => {
            format!("{} (kept at {})", repair.kind(), time(Some(*saved_at)))
        }
        Repair::FillKeyVersion { key_version, .. } => {
            format!("{} ({row}: {key_version})", repair.kind())
        }
        Repair::FillKekRef { kek_ref, .. } => format!("{} ({row}: {kek_ref})", repair.kind()),
        Repair::SetSecretUuid { secret_uuid, .. } => {
            format!("{} ({row}: {secret_uuid})", repair.kind())
        }
        Repair::CreateKey {
            origin: KeyOrigin::HostSecret,
            ..
        } => format!("{} ({row}: the value of libvirt's secret)", repair.kind()),
        Repair::LearnKey { key } => {
            let provider = quoted(&key.provider_name);
            format!(
                "{} (a new row: the XML's key, of {provider})",
                repair.kind()
            )
        }
        Repair::KeepHostValue { .. } => {
            format!(
                "{} (a new row: the value of libvirt's secret)",
                repair.kind()
            )
        }
        Repair::DeletePlaceholder { .. } | Repair::RetireKey { .. } | Repair::CreateKey { .. } => {
            format!("{} ({row})", repair.kind())
        }
    }
}

/// What tests of answers share.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod testing {
    use super::*;
    use crate::domain;
    use crate::manage::guests::Source;
    use crate::verdict::Verdict;
    use crate::verdict::facts::TpmState;
    use crate::verdict::outcome::{Outcome, SecretAction};

    /// The UUID of every guest.
    pub(in crate::cli) const UUID: &str = "11111111-2222-4333-8444-000000000001";

    /// A guest with this decision.
    pub(in crate::cli) fn checked(name: &str, decision: Decision) -> CheckedGuest {
        let xml = format!("<domain><name>x</name><uuid>{UUID}</uuid></domain>");
        CheckedGuest {
            name: name.to_owned(),
            source: Source::File,
            outcome: Outcome {
                domain: Some(domain::read(xml.as_bytes()).unwrap()),
                state: TpmState::Absent,
                verdict: match decision {
                    Decision::Allow(reason) => Verdict::allow(reason),
                    Decision::Deny(refusal) => Verdict::deny(refusal),
                },
                key: None,
                secret: SecretAction::None,
                dry_run: true,
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::testing::checked;
    use super::*;
    use crate::ids::KeyRefId;
    use crate::verdict::refusal::Refusal;

    #[test]
    fn the_overview_says_what_is_wrong_with_a_guest_that_would_start() {
        let with = |name, findings: Vec<Finding>, decision| {
            let mut one = checked(name, decision);
            let verdict = &mut one.outcome.verdict;
            for found in findings {
                verdict.note(found);
            }
            one
        };
        let starts = || Decision::Allow(Reason::Proven);
        let guests = CheckedGuests {
            one: false,
            guests: vec![
                with("fine", vec![Finding::DuplicateKey(KeyRefId(1))], starts()),
                with("risky", vec![Finding::Degraded(Refusal::KeyLost)], starts()),
                with(
                    "refused",
                    vec![Finding::Degraded(Refusal::KeyLost)],
                    Decision::Deny(Refusal::KeyLost),
                ),
            ],
            notes: Vec::new(),
        };
        let mut text = Vec::new();
        guests.print(&mut Printer::new(&mut text)).unwrap();
        let text = String::from_utf8(text).unwrap();
        let noticed: Vec<_> = text
            .lines()
            .filter(|line| line.contains("noticed"))
            .collect();
        assert!(
            matches!(noticed[..], [line] if line.starts_with("  noticed: risky: ") && line.contains("VG202")),
            "{text}"
        );
    }
}
