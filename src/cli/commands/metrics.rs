//! `check --metrics FILE`: what was found, in Prometheus' text format, for the textfile
//! collector of `node_exporter`.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::manage::dry_start::CheckedGuest;
use crate::manage::figures::{Figures, FleetFigures, SlotFigures};
use crate::manage::metrics_file;
use crate::verdict::{Decision, Reason};

/// Writes the metrics into `file`, whole or not at all: the collector may read at any moment.
pub(crate) fn write(
    file: &Path,
    checked: &[CheckedGuest],
    not_travelling: Option<usize>,
    figures: &Figures,
    now: Timestamp,
) -> Result<(), CommandError> {
    put(
        file,
        &(text(checked, not_travelling, now) + &of_host(figures)),
    )
}

/// Writes that nothing could be found out, lest the file of an earlier check pass for today's.
/// When a check last succeeded stays in it, and the figures of the host are those of today.
pub(crate) fn write_failure(
    file: &Path,
    figures: &Figures,
    now: Timestamp,
) -> Result<(), CommandError> {
    let text = check(false, now, last_success(file)) + &of_host(figures);
    put(file, &text)
}

fn put(file: &Path, text: &str) -> Result<(), CommandError> {
    metrics_file::replace(file, text).map_err(|error| {
        CommandError::failed(format!("{}: {error}", file.display()))
            .with_hint("--metrics FILE takes a file in a directory that is there")
    })
}

/// The metrics of a check, one family after the other.
fn text(checked: &[CheckedGuest], not_travelling: Option<usize>, now: Timestamp) -> String {
    let of_each = |value: &dyn Fn(&CheckedGuest) -> usize| -> Vec<String> {
        let sample = |one: &CheckedGuest| format!("{} {}", guest(one), value(one));
        checked.iter().map(sample).collect()
    };
    let decision = |one: &CheckedGuest| one.outcome.verdict.decision().clone();
    let mut text = family(
        "vtpm_guard_guest_would_start",
        "Whether the guest would start now (1) or be refused (0).",
        &of_each(&|one| usize::from(one.outcome.is_allowed())),
    );
    text += &family(
        "vtpm_guard_guest_refusal",
        "The code that a guest would be refused with; only of guests that would be.",
        &checked.iter().filter_map(refusal).collect::<Vec<_>>(),
    );
    text += &family(
        "vtpm_guard_guest_repairs",
        "How many repairs its next start would make.",
        &of_each(&|one| one.outcome.verdict.repairs().len()),
    );
    text += &family(
        "vtpm_guard_guest_clients_key",
        "Whether the guest's key comes from whoever starts it (1), so that the guard has none.",
        &of_each(&|one| usize::from(decision(one) == Decision::Allow(Reason::ClientsKey))),
    );
    text += &family(
        "vtpm_guard_guest_at_risk",
        "Whether the guest would start although something is wrong (1): with a secret that only libvirt has, perhaps.",
        &of_each(&|one| usize::from(one.risk().is_some())),
    );
    if let Some(guests) = not_travelling {
        text += &family(
            "vtpm_guard_guests_without_travelling_key",
            "Guests whose keys are not in their domain XML, though fleet.metadata is \"wrapped\".",
            &[format!(" {guests}")],
        );
    }
    text + &check(true, now, Some(seconds(now)))
}

/// What the store says of the fleet and of slots; nothing where this host has none.
fn of_host(figures: &Figures) -> String {
    let mut text = String::new();
    if let Some(FleetFigures { lag_ms, outbox }) = figures.fleet {
        text += &family(
            "vtpm_guard_sync_lag_seconds",
            "How long ago this host exchanged facts with its fleet, or joined it, if it never did.",
            &[format!(" {}", lag_ms / 1000)],
        );
        text += &family(
            "vtpm_guard_outbox_depth",
            "How many changes of this host its fleet does not know yet.",
            &[format!(" {outbox}")],
        );
    }
    if figures.slots.is_empty() {
        return text;
    }
    let of_kinds = |value: &dyn Fn(&SlotFigures) -> Option<i64>| -> Vec<String> {
        let kinds = figures.slots.iter();
        let sample = |(kind, slots): (&String, &SlotFigures)| {
            let value = value(slots)?;
            Some(format!("{{kind=\"{}\"}} {value}", escaped(kind)))
        };
        kinds.filter_map(sample).collect()
    };
    text += &family(
        "vtpm_guard_slot_ok",
        "Whether every slot of key managers of this kind has opened on this host in the last twelve hours (1).",
        &of_kinds(&|slots| Some(i64::from(slots.is_ok))),
    );
    text + &family(
        "vtpm_guard_slot_verified_timestamp_seconds",
        "Since when each of these slots has opened at least once, in seconds since 1970.",
        &of_kinds(&|slots| slots.verified_at.map(seconds)),
    )
}

/// What is to be said of the check itself.
fn check(success: bool, now: Timestamp, last_success: Option<i64>) -> String {
    let mut text = family(
        "vtpm_guard_check_success",
        "Whether the guests could be checked (1); if not (0), nothing is said of any.",
        &[format!(" {}", u8::from(success))],
    );
    text += &family(
        "vtpm_guard_check_timestamp_seconds",
        "When it was tried to check the guests, in seconds since 1970.",
        &[format!(" {}", seconds(now))],
    );
    let last_success = last_success.map(|at| format!(" {at}"));
    text + &family(
        LAST_SUCCESS,
        "When the guests were last checked, in seconds since 1970.",
        &last_success.into_iter().collect::<Vec<_>>(),
    )
}

const LAST_SUCCESS: &str = "vtpm_guard_check_last_success_timestamp_seconds";

/// When a check last succeeded, according to the file that is to be replaced.
fn last_success(file: &Path) -> Option<i64> {
    metrics_file::read_value(file, LAST_SUCCESS)
}

fn seconds(at: Timestamp) -> i64 {
    at.0 / 1000
}

fn family(name: &str, help: &str, samples: &[String]) -> String {
    let mut text = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
    for sample in samples {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{name}{sample}");
    }
    text
}

/// The code is a label here, and nowhere else: a guest's other series stay the same when it changes.
fn refusal(one: &CheckedGuest) -> Option<String> {
    match one.outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(refusal) => {
            let (guest, code) = (guest(one), refusal.code().as_str());
            let labels = guest.trim_end_matches('}');
            Some(format!("{labels},code=\"{code}\"}} 1"))
        }
    }
}

fn guest(one: &CheckedGuest) -> String {
    let uuid = one.uuid().map_or(String::new(), |uuid| uuid.to_string());
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
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::cli::ui::check_table::testing::{UUID, checked};
    use crate::verdict::Finding;
    use crate::verdict::refusal::Refusal;

    const NOON: Timestamp = Timestamp(1_800_000_000_999);

    #[test]
    fn each_guest_is_a_sample_of_its_own_and_a_code_one_more() {
        let mut degraded = checked("vm3", Decision::Allow(Reason::Proven));
        let why = Finding::Degraded(Refusal::KeyLost);
        degraded.outcome.verdict.note(why);
        let checked = [
            checked("vm1", Decision::Allow(Reason::ClientsKey)),
            checked("a \"b\"\\", Decision::Deny(Refusal::KeyLost)),
            degraded,
        ];
        let text = text(&checked, Some(2), NOON);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let degraded_labels = format!("domain=\"vm3\",uuid=\"{UUID}\"");
        let (vm1, other) = (
            format!("domain=\"vm1\",uuid=\"{UUID}\""),
            format!("domain=\"a \\\"b\\\"\\\\\",uuid=\"{UUID}\""),
        );
        assert_eq!(
            samples,
            [
                format!("vtpm_guard_guest_would_start{{{vm1}}} 1"),
                format!("vtpm_guard_guest_would_start{{{other}}} 0"),
                format!("vtpm_guard_guest_would_start{{{degraded_labels}}} 1"),
                format!("vtpm_guard_guest_refusal{{{other},code=\"VG202\"}} 1"),
                format!("vtpm_guard_guest_repairs{{{vm1}}} 0"),
                format!("vtpm_guard_guest_repairs{{{other}}} 0"),
                format!("vtpm_guard_guest_repairs{{{degraded_labels}}} 0"),
                format!("vtpm_guard_guest_clients_key{{{vm1}}} 1"),
                format!("vtpm_guard_guest_clients_key{{{other}}} 0"),
                format!("vtpm_guard_guest_clients_key{{{degraded_labels}}} 0"),
                format!("vtpm_guard_guest_at_risk{{{vm1}}} 0"),
                format!("vtpm_guard_guest_at_risk{{{other}}} 0"),
                format!("vtpm_guard_guest_at_risk{{{degraded_labels}}} 1"),
                "vtpm_guard_guests_without_travelling_key 2".to_owned(),
                "vtpm_guard_check_success 1".to_owned(),
                "vtpm_guard_check_timestamp_seconds 1800000000".to_owned(),
                "vtpm_guard_check_last_success_timestamp_seconds 1800000000".to_owned(),
            ]
        );
        for name in samples
            .iter()
            .filter_map(|line| line.split(['{', ' ']).next())
        {
            assert!(text.contains(&format!("# TYPE {name} gauge\n")), "{name}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
    }

    #[test]
    fn fleet_and_slots_are_samples_of_hosts_that_have_them() {
        assert_eq!(of_host(&Figures::default()), "");
        let slots = |is_ok, verified_at| SlotFigures { is_ok, verified_at };
        let figures = Figures {
            fleet: Some(FleetFigures {
                lag_ms: 61_999,
                outbox: 3,
            }),
            slots: [
                ("exec", slots(true, Some(NOON))),
                ("kmip", slots(false, None)),
            ]
            .map(|(kind, slots)| (kind.to_owned(), slots))
            .into(),
        };
        let text = of_host(&figures);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "vtpm_guard_sync_lag_seconds 61",
                "vtpm_guard_outbox_depth 3",
                "vtpm_guard_slot_ok{kind=\"exec\"} 1",
                "vtpm_guard_slot_ok{kind=\"kmip\"} 0",
                "vtpm_guard_slot_verified_timestamp_seconds{kind=\"exec\"} 1800000000",
            ]
        );
    }

    #[test]
    fn a_check_that_failed_says_so_and_when_one_succeeded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vtpm-guard.prom");
        write_failure(&file, &Figures::default(), NOON).unwrap();
        let failed = || fs::read_to_string(&file).unwrap();
        assert!(failed().contains("\nvtpm_guard_check_success 0\n"));
        assert!(!failed().contains("\nvtpm_guard_check_last_success_timestamp_seconds "));

        let checked = [checked("vm1", Decision::Allow(Reason::Proven))];
        write(&file, &checked, None, &Figures::default(), NOON).unwrap();
        for days in 1..=2 {
            let at = Timestamp(NOON.0 + days * 86_400_000);
            write_failure(&file, &Figures::default(), at).unwrap();
        }
        let failed = failed();
        for line in [
            "vtpm_guard_check_success 0",
            "vtpm_guard_check_timestamp_seconds 1800172800",
            "vtpm_guard_check_last_success_timestamp_seconds 1800000000",
        ] {
            assert!(failed.lines().any(|found| found == line), "{failed}");
        }
        assert!(!failed.contains("vm1"), "{failed}");
    }

    #[test]
    fn the_file_is_replaced_whole_and_readable_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vtpm-guard.prom");
        fs::write(&file, "old").unwrap();
        write(&file, &[], None, &Figures::default(), Timestamp(0)).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with("# HELP"));
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(
            write(
                &dir.path().join("no/such"),
                &[],
                None,
                &Figures::default(),
                Timestamp(0)
            )
            .is_err()
        );
        assert!(write(Path::new("/"), &[], None, &Figures::default(), Timestamp(0)).is_err());
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
            write(&file, &[], None, &Figures::default(), Timestamp(0)).unwrap();
            assert_eq!(fs::read(&precious).unwrap(), b"precious");
            let mode = fs::metadata(&precious).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            fs::remove_file(name).unwrap();
            mkfifo(name, Mode::S_IRWXU).unwrap();
            write(&file, &[], None, &Figures::default(), Timestamp(0)).unwrap();
            assert!(fs::read_to_string(&file).unwrap().starts_with("# HELP"));
        }
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(
            write(
                &dir.path().join("fifo/x.prom"),
                &[],
                None,
                &Figures::default(),
                Timestamp(0)
            )
            .is_err()
        );
    }
}
