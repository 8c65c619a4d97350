//! Events go in, lines of a real file come out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tracing::Event;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use std::path::PathBuf;

use super::*;
use crate::verdict::facts::TpmState;
use crate::verdict::outcome::SecretAction;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Finding, Reason, Verdict};

/// What `events` write to a log of this level.
fn logged(level: Level, events: impl FnOnce()) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.log");
    tracing::subscriber::with_default(file(&path, level).unwrap(), events);
    fs::read_to_string(&path).unwrap()
}

fn directory_and_log() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard.log");
    (directory, path)
}

#[test]
fn an_event_is_one_line_of_time_level_message_and_fields() {
    let log = logged(Level::INFO, || {
        tracing::warn!(domain = "vm1", rows = 2, code = %"VG101", "refused");
    });
    let (time, rest) = log.split_once(' ').unwrap();
    assert_eq!(rest, " WARN refused domain=\"vm1\" rows=2 code=VG101\n");
    let moment: jiff::Timestamp = time.parse().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000Z".len());
    assert!(jiff::Timestamp::now().duration_since(moment).as_secs() < 60);
}

#[test]
fn only_events_of_the_level_and_above_are_written() {
    let all = || {
        tracing::error!("an error");
        tracing::warn!("a warning");
        tracing::info!("information");
        tracing::debug!("detail");
        tracing::trace!("minutiae");
    };
    for (level, lines) in [
        (Level::ERROR, 1),
        (Level::WARN, 2),
        (Level::INFO, 3),
        (Level::DEBUG, 4),
        (Level::TRACE, 5),
    ] {
        assert_eq!(logged(level, all).lines().count(), lines, "{level}");
    }
}

#[test]
fn a_value_cannot_forge_a_line() {
    let evil =
        "vm1\n2026-01-01T00:00:00.000Z  INFO all is well\r\u{1b}[2J\u{85}\u{7f}\u{202e}\u{2028}";
    let log = logged(Level::INFO, || {
        tracing::info!(shown = %evil, debugged = ?evil, text = evil, "{evil}");
    });
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.ends_with('\n'));
    assert!(
        !log.trim_end_matches('\n').contains(messages::misleads),
        "{log}"
    );
    assert_eq!(
        log.matches("all is well").count(),
        4,
        "nothing is lost: {log}"
    );
}

/// What a log receives that escapes nothing, as journald does.
#[derive(Clone, Default)]
struct Raw(Arc<Mutex<Vec<u8>>>);

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_decision_has_no_misleading_character_in_a_log_without_escaping() {
    let evil = "ev\u{1b}[31m\u{7}\nil\u{9b}31m\u{202e}\u{2028}";
    let outcome = |verdict| Outcome {
        domain: None,
        state: TpmState::Absent,
        verdict,
        key: None,
        secret: SecretAction::None,
        dry_run: false,
    };
    let reason = evil.to_owned();
    let mut noted = Verdict::allow(Reason::UnreadableXml);
    noted.note(Finding::XmlUnreadable(evil.to_owned()));
    let outcomes = [
        outcome(Verdict::deny(Refusal::Internal { reason })),
        outcome(noted),
    ];
    let raw = Raw::default();
    let writer = raw.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .event_format(Plain)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        for outcome in &outcomes {
            decision(evil, "prepare", Timestamp(1), outcome);
        }
    });
    let text = String::from_utf8(raw.0.lock().unwrap().clone()).unwrap();
    assert!(text.matches("31m").count() > 2, "{text:?}");
    assert!(!text.contains(messages::misleads), "{text:?}");
}

/// Every field unchanged, one after the other.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        writer.write_str(&fields.0)
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.push_str(value);
    }

    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        let _ = fmt::Write::write_fmt(&mut self.0, format_args!("{value:?}"));
    }
}

#[test]
fn a_log_is_appended_to_and_accessible_to_its_owner_only() {
    let (_directory, path) = directory_and_log();
    for _ in 0..2 {
        let subscriber = file(&path, Level::INFO).unwrap();
        tracing::subscriber::with_default(subscriber, || tracing::info!("once more"));
    }
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_file_that_may_not_be_a_log_is_not_written_to() {
    let (directory, path) = directory_and_log();
    let other = directory.path().join("other");
    fs::write(&other, "precious").unwrap();

    symlink(&other, &path).unwrap();
    assert!(
        matches!(open(&path), Err(LogError::Unwritable { .. })),
        "a link"
    );
    fs::remove_file(&path).unwrap();

    fs::hard_link(&other, &path).unwrap();
    assert!(
        matches!(open(&path), Err(LogError::NotTrusted { .. })),
        "a second name"
    );
    fs::remove_file(&path).unwrap();

    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(open(&path).is_err(), "a pipe");
    fs::remove_file(&path).unwrap();

    assert!(
        matches!(open(directory.path()), Err(LogError::Unwritable { .. })),
        "a directory"
    );
    assert!(
        matches!(
            open(Path::new("/dev/null")),
            Err(LogError::NotTrusted { .. })
        ),
        "a device"
    );

    // Only root can give a file away.
    fs::write(&path, "").unwrap();
    if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
        assert!(
            matches!(open(&path), Err(LogError::NotTrusted { .. })),
            "somebody else's"
        );
    }
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
}

#[test]
fn a_full_disk_loses_the_event_and_nothing_else() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = LineWriter(&full).write(b"event\n").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_log_that_logrotate_renames_goes_on_in_the_new_file() {
    let (_directory, path) = directory_and_log();
    let old = path.with_extension("log.1");
    let ends = |path: &Path, with: &str| fs::read_to_string(path).unwrap().ends_with(with);
    tracing::subscriber::with_default(file(&path, Level::INFO).unwrap(), || {
        tracing::info!("first");
        fs::rename(&path, &old).unwrap();
        // `create` of logrotate; without it, the next event makes the file.
        tracing::info!("second");
        assert!(ends(&old, "first\n") && ends(&path, "second\n"));
        tracing::info!("third");
        assert!(ends(&path, "third\n"));
        // Where it cannot be opened, nothing is lost.
        fs::rename(&path, &old).unwrap();
        fs::create_dir(&path).unwrap();
        tracing::info!("fourth");
        assert!(ends(&old, "fourth\n"));
        fs::remove_dir(&path).unwrap();
        tracing::info!("fifth");
        assert!(ends(&path, "fifth\n"));
    });
}
