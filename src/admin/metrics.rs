//! `check --metrics FILE`: what was found, in Prometheus' text format, for the textfile
//! collector of `node_exporter`.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::AdminError;
use super::outcomes::Judged;
use crate::clock::Timestamp;
use crate::verdict::Decision;

/// Writes the metrics into `file`, whole or not at all: the collector may read at any moment.
pub(super) fn write(file: &Path, judged: &[Judged], now: Timestamp) -> Result<(), AdminError> {
    replace(file, &text(judged, now)).map_err(|error| {
        AdminError::failed(format!("{}: {error}", file.display()))
            .with_hint("--metrics FILE takes a file in a directory that is there")
    })
}

/// A file that everybody may read: the collector is not root.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // The collector reads files that end in .prom; this one does not.
    let temporary = file.with_file_name(format!(".{}.new", name.to_string_lossy()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut written = options.open(&temporary)?;
    written.set_permissions(Permissions::from_mode(0o644))?;
    written.write_all(text.as_bytes())?;
    fs::rename(&temporary, file).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })
}

/// The metrics, one family after the other.
fn text(judged: &[Judged], now: Timestamp) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: &[String]| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for sample in samples {
            let _ = writeln!(text, "{name}{sample}");
        }
    };
    let starts: Vec<_> = judged
        .iter()
        .map(|one| format!("{} {}", labels(one), u8::from(one.outcome.is_allowed())))
        .collect();
    family(
        "vtpm_guard_guest_would_start",
        "Whether the guest would start now (1) or be refused (0), and with which code.",
        &starts,
    );
    let repairs: Vec<_> = judged
        .iter()
        .map(|one| format!("{} {}", guest(one), one.outcome.verdict.repairs.len()))
        .collect();
    family(
        "vtpm_guard_guest_repairs",
        "How many repairs its next start would make.",
        &repairs,
    );
    let seconds = now.0 / 1000;
    family(
        "vtpm_guard_check_timestamp_seconds",
        "When the guests were checked, in seconds since 1970.",
        &[format!(" {seconds}")],
    );
    text
}

fn labels(one: &Judged) -> String {
    let code = match &one.outcome.verdict.decision {
        Decision::Allow(_) => "",
        Decision::Deny(refusal) => refusal.code().as_str(),
    };
    let guest = guest(one);
    format!("{},code=\"{code}\"}}", guest.trim_end_matches('}'))
}

fn guest(one: &Judged) -> String {
    let uuid = one.outcome.domain.as_ref();
    let uuid = uuid.map_or(String::new(), |domain| domain.uuid.to_string());
    format!("{{domain=\"{}\",uuid=\"{uuid}\"}}", escaped(&one.name))
}

/// A label's value as the text format has it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::domain;
    use crate::verdict::facts::TpmState;
    use crate::verdict::outcome::{Outcome, SecretAction};
    use crate::verdict::refusal::Refusal;
    use crate::verdict::{Reason, Verdict};

    const UUID: &str = "11111111-2222-4333-8444-000000000001";

    fn judged(name: &str, decision: Decision) -> Judged {
        let xml = format!("<domain><name>x</name><uuid>{UUID}</uuid></domain>");
        Judged {
            name: name.to_owned(),
            outcome: Outcome {
                domain: Some(domain::read(xml.as_bytes()).unwrap()),
                state: TpmState::Absent,
                verdict: Verdict {
                    decision,
                    findings: Vec::new(),
                    repairs: Vec::new(),
                    secret: None,
                },
                key: None,
                secret: SecretAction::None,
                dry_run: true,
            },
        }
    }

    #[test]
    fn each_guest_is_a_sample_of_its_own() {
        let judged = [
            judged("vm1", Decision::Allow(Reason::NotAStart)),
            judged("a \"b\"\\", Decision::Deny(Refusal::KeyLost)),
        ];
        let text = text(&judged, Timestamp(1_800_000_000_999));
        assert_eq!(
            text,
            format!(
                "# HELP vtpm_guard_guest_would_start Whether the guest would start now (1) or be \
                 refused (0), and with which code.\n\
                 # TYPE vtpm_guard_guest_would_start gauge\n\
                 vtpm_guard_guest_would_start{{domain=\"vm1\",uuid=\"{UUID}\",code=\"\"}} 1\n\
                 vtpm_guard_guest_would_start{{domain=\"a \\\"b\\\"\\\\\",uuid=\"{UUID}\",code=\"VG202\"}} 0\n\
                 # HELP vtpm_guard_guest_repairs How many repairs its next start would make.\n\
                 # TYPE vtpm_guard_guest_repairs gauge\n\
                 vtpm_guard_guest_repairs{{domain=\"vm1\",uuid=\"{UUID}\"}} 0\n\
                 vtpm_guard_guest_repairs{{domain=\"a \\\"b\\\"\\\\\",uuid=\"{UUID}\"}} 0\n\
                 # HELP vtpm_guard_check_timestamp_seconds When the guests were checked, in \
                 seconds since 1970.\n\
                 # TYPE vtpm_guard_check_timestamp_seconds gauge\n\
                 vtpm_guard_check_timestamp_seconds 1800000000\n"
            )
        );
    }

    #[test]
    fn the_file_is_replaced_whole_and_readable_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vtpm-guard.prom");
        fs::write(&file, "old").unwrap();
        write(&file, &[], Timestamp(0)).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with("# HELP"));
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("no/such"), &[], Timestamp(0)).is_err());
        assert!(write(Path::new("/"), &[], Timestamp(0)).is_err());
    }
}
