//! journald, as a log that never blocks and whose messages can be read without their fields.
//!
//! syslog, `journalctl -u libvirtd` and the mail of a log watcher show `MESSAGE` alone, so it names
//! the guest and the code. The fields are for programs: `VTPM_GUARD_DOMAIN=vm1`.
//!
//! The format is that of systemd's "Native Journal Protocol"
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::LogError;
use super::fields::Fields;
use crate::host::dirs::JOURNALD_SOCKET;
use crate::host::interrupted::again;
use crate::host::text::beginning;

/// `SYSLOG_IDENTIFIER`: `journalctl -t vtpm-guard`.
const IDENTIFIER: &str = "vtpm-guard";

/// How much of each value is sent where all of them are too long for one datagram, in bytes.
const MAX_VALUE: usize = 4096;

/// Sends events of this level and above to journald; those that it cannot take at once are
/// dropped.
pub(super) fn subscriber(level: Level) -> Result<impl Subscriber + Send + Sync, LogError> {
    let journal = Journal::at(Path::new(JOURNALD_SOCKET)).map_err(LogError::Journald)?;
    Ok(tracing_subscriber::registry()
        .with(LevelFilter::from_level(level))
        .with(journal))
}

/// Whether journald takes events.
pub(super) fn examine() -> Result<(), LogError> {
    let journal = Journal::at(Path::new(JOURNALD_SOCKET));
    journal.map(drop).map_err(LogError::Journald)
}

/// A socket to journald. A journald that is stopped or overloaded must not delay a guest's start.
struct Journal(UnixDatagram);

impl Journal {
    /// Fails where nobody listens, and where there is no room for even one event.
    fn at(socket: &Path) -> io::Result<Self> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.set_nonblocking(true)?;
        datagrams.connect(socket)?;
        // A connected datagram socket is writable as long as its peer's queue has room (Linux,
        // `unix_dgram_poll` in `net/unix/af_unix.c`).
        let mut sockets = [PollFd::new(datagrams.as_fd(), PollFlags::POLLOUT)];
        if again(|| poll(&mut sockets, PollTimeout::ZERO))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Self(datagrams))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (fields, level) = (Fields::of(event), *event.metadata().level());
        let sent = self.0.send(&entry(&fields, level, usize::MAX));
        if sent.is_err_and(|error| error.raw_os_error() == Some(Errno::EMSGSIZE as i32)) {
            // Longer than a datagram of this host may be. The beginning says what it is about.
            let _ = self.0.send(&entry(&fields, level, MAX_VALUE));
        }
        // Without room for it the event is lost.
    }
}

/// The entry of the journal for an event, with at most so many bytes of each value.
fn entry(fields: &Fields, level: Level, most: usize) -> Vec<u8> {
    let mut entry = Vec::new();
    let mut put = |name: &str, value: &str| put(&mut entry, name, &beginning(value, most));
    // As syslog numbers them: err, warning, notice, info, debug.
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    };
    put("PRIORITY", priority);
    put("SYSLOG_IDENTIFIER", IDENTIFIER);
    put("MESSAGE", &fields.message());
    for (name, value) in fields.named() {
        let name = name.to_uppercase().replace('.', "_");
        put(&format!("VTPM_GUARD_{name}"), value);
    }
    entry
}

/// Adds a field with its length, so that no value ends it early.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::domain;
    use crate::ids::KeyRefId;
    use crate::log::decision;
    use crate::verdict::facts::TpmState;
    use crate::verdict::outcome::{Outcome, SecretAction};
    use crate::verdict::refusal::Refusal;
    use crate::verdict::{Finding, Reason, Verdict};

    /// What journald gets of these events, each as its fields.
    fn sent(events: impl FnOnce()) -> Vec<Vec<(String, String)>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
        tracing::subscriber::with_default(journal, events);
        journald.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut entry = vec![0; 1 << 20];
        while let Ok(length) = journald.recv(&mut entry) {
            entries.push(fields(&entry[..length]));
        }
        entries
    }

    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (length, rest) = entry[end + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(&entry[..end]), text(&rest[..length])));
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        fields
    }

    fn value<'e>(entry: &'e [(String, String)], name: &str) -> &'e str {
        let field = entry.iter().find(|(found, _)| found == name);
        &field.unwrap().1
    }

    fn outcome(verdict: Verdict) -> Outcome {
        let uuid = "11111111-2222-4333-8444-000000000001";
        let xml = format!("<domain><name>bad</name><uuid>{uuid}</uuid></domain>");
        Outcome {
            domain: Some(domain::read(xml.as_bytes()).unwrap()),
            state: TpmState::Absent,
            verdict,
            key: None,
            secret: SecretAction::None,
            dry_run: false,
        }
    }

    #[test]
    fn a_message_alone_names_the_guest_and_the_code() {
        let key_refs = vec![KeyRefId(4)];
        let mut noted = Verdict::allow(Reason::Unencrypted);
        noted.note(Finding::XmlUnreadable("line 7".to_owned()));
        let entries = sent(|| {
            let refusal = Refusal::KeyDoesNotOpenTpm { key_refs };
            decision(
                "bad",
                "prepare",
                Timestamp(7),
                &outcome(Verdict::deny(refusal)),
            );
            decision("bad", "prepare", Timestamp(8), &outcome(noted));
            let error = io::Error::other("no\nroom");
            tracing::warn!(domain = "my vm", %error, path = "/x", "the TPM state was not saved");
        });
        let [refused, allowed, failed] = &entries[..] else {
            panic!("{entries:#?}");
        };
        assert_eq!(
            value(refused, "MESSAGE"),
            "VG204 bad: the key of key reference 4 does not open the TPM state"
        );
        assert_eq!(value(refused, "PRIORITY"), "3");
        assert_eq!(value(refused, "SYSLOG_IDENTIFIER"), "vtpm-guard");
        assert_eq!(value(refused, "VTPM_GUARD_DOMAIN"), "bad");
        assert_eq!(value(refused, "VTPM_GUARD_CODE"), "VG204");
        assert_eq!(value(refused, "VTPM_GUARD_AT"), "7");
        assert!(value(refused, "VTPM_GUARD_HINT").contains("vtpm-guard key show bad"));
        let message = value(allowed, "MESSAGE");
        assert!(
            message.starts_with("bad: the vTPM is not encrypted; "),
            "{message}"
        );
        assert!(message.contains("line 7"), "{message}");
        assert_eq!(value(allowed, "VTPM_GUARD_AT"), "8");
        assert_eq!(
            value(failed, "MESSAGE"),
            "\"my vm\": the TPM state was not saved: no room, path /x"
        );
        assert_eq!(value(failed, "VTPM_GUARD_ERROR"), "no\nroom");
    }

    #[test]
    fn an_event_that_is_too_long_for_a_datagram_is_cut() {
        let entries = sent(|| {
            let error = io::Error::other("x".repeat(3 << 20));
            tracing::error!(domain = "vm1", %error, "the start was refused");
            tracing::error!(domain = "vm2", "the next");
        });
        let [cut, next] = &entries[..] else {
            panic!("{} entries", entries.len());
        };
        assert_eq!(value(cut, "VTPM_GUARD_DOMAIN"), "vm1");
        let message = value(cut, "MESSAGE");
        assert!(
            message.starts_with("vm1: the start was refused: xxx"),
            "{message}"
        );
        assert!(message.ends_with("x…") && message.len() <= MAX_VALUE);
        assert_eq!(value(cut, "PRIORITY"), "3");
        assert_eq!(value(next, "MESSAGE"), "vm2: the next");
    }

    #[test]
    fn a_journald_without_room_loses_the_event_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = tracing_subscriber::registry().with(Journal::at(&path).unwrap());

        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        while others.send_to(b"MESSAGE=words\n", &path).is_ok() {}
        assert!(Journal::at(&path).is_err());

        tracing::subscriber::with_default(journal, || {
            tracing::error!("lost");
            let mut entry = [0; 64];
            while journald.recv(&mut entry).unwrap() > 0 && Journal::at(&path).is_err() {}
            tracing::error!("kept");
        });
        let mut last = Vec::new();
        journald.set_nonblocking(true).unwrap();
        let mut entry = [0; 256];
        while let Ok(length) = journald.recv(&mut entry) {
            last = entry[..length].to_vec();
        }
        assert_eq!(value(&fields(&last), "MESSAGE"), "kept");
    }

    #[test]
    fn where_nobody_listens_there_is_no_journald() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Journal::at(&directory.path().join("socket")).is_err());
    }
}
