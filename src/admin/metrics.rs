//! `check --metrics FILE`: what was found, in Prometheus' text format, for the textfile
//! collector of `node_exporter`.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::AdminError;
use super::outcomes::Judged;
use crate::clock::Timestamp;
use crate::durable::{self, NewFile};
use crate::verdict::Decision;

/// Writes the metrics into `file`, whole or not at all: the collector may read at any moment.
pub(super) fn write(file: &Path, judged: &[Judged], now: Timestamp) -> Result<(), AdminError> {
    replace(file, &text(judged, now)).map_err(|error| {
        AdminError::failed(format!("{}: {error}", file.display()))
            .with_hint("--metrics FILE takes a file in a directory that is there")
    })
}

/// A file that everybody may read: the collector is not root. Its directory may be the
/// collector's own, and what is in it anybody's.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let (dir, name) = durable::open_parent(file)?;
    // The collector reads files that end in .prom; the unfinished one does not.
    let new = NewFile::write(&dir, |new| {
        new.set_permissions(Permissions::from_mode(0o644))?;
        new.write_all(text.as_bytes())
    })?;
    new.replace(name)
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
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

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
    /// What the owner of the collector's directory may have put there (H1 of the audit).
    #[test]
    fn whatever_is_in_the_way_nothing_behind_it_changes_and_nothing_waits() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o600)).unwrap();
        let file = dir.path().join("vtpm-guard.prom");
        let temporary = dir.path().join(".vtpm-guard.prom.new");
        for name in [&file, &temporary] {
            symlink(&precious, name).unwrap();
            write(&file, &[], Timestamp(0)).unwrap();
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            let mode = fs::metadata(&precious).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            fs::remove_file(name).unwrap();
            mkfifo(name, Mode::S_IRWXU).unwrap();
            write(&file, &[], Timestamp(0)).unwrap();
            assert!(fs::read_to_string(&file).unwrap().starts_with("# HELP"));
        }
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(write(&dir.path().join("fifo/x.prom"), &[], Timestamp(0)).is_err());
    }
}
