//! journald, as a log that never blocks.
//!
//! `tracing-journald` sends with blocking calls: a journald that is stopped or overloaded would
//! delay a guest's start until the hook's deadline passes and the start is refused.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;

use super::LogError;
use crate::host::dirs::JOURNALD_SOCKET;

/// `SYSLOG_IDENTIFIER`: `journalctl -t vtpm-guard`.
const IDENTIFIER: &str = "vtpm-guard";

/// The prefix of field names in the journal: `VTPM_GUARD_DOMAIN=vm1`.
const FIELD_PREFIX: &str = "VTPM_GUARD";

/// Sends events of this level and above to journald; those that it cannot take at once are
/// dropped.
pub(super) fn subscriber(level: Level) -> Result<impl Subscriber + Send + Sync, LogError> {
    let listener = Listener::at(Path::new(JOURNALD_SOCKET)).map_err(LogError::Journald)?;
    // Checked first: the layer sends journald a message when it is created.
    if !listener.takes_more() {
        return Err(LogError::Journald(io::ErrorKind::WouldBlock.into()));
    }
    let journald = tracing_journald::layer()
        .map_err(LogError::Journald)?
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_field_prefix(Some(FIELD_PREFIX.to_owned()))
        .with_filter(dynamic_filter_fn(move |_, _| listener.takes_more()));
    Ok(tracing_subscriber::registry()
        .with(LevelFilter::from_level(level))
        .with(journald))
}

/// A socket to journald through which nothing is sent: it shows whether the queue has room.
struct Listener(UnixDatagram);

impl Listener {
    fn at(socket: &Path) -> io::Result<Self> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.connect(socket)?;
        Ok(Self(datagrams))
    }

    /// Whether a message would be accepted without blocking. A connected datagram socket is
    /// writable as long as its peer's queue has room (Linux, `unix_dgram_poll` in
    /// `net/unix/af_unix.c`).
    fn takes_more(&self) -> bool {
        let mut sockets = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|writable| writable > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_listener_without_room_is_found_out_without_waiting_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let listener = Listener::at(&path).unwrap();
        assert!(listener.takes_more());

        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        while others.send_to(b"MESSAGE=words\n", &path).is_ok() {}
        assert!(!listener.takes_more());

        journald.recv(&mut [0; 64]).unwrap();
        assert!(listener.takes_more());
    }

    #[test]
    fn where_nobody_listens_there_is_no_journald() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Listener::at(&directory.path().join("socket")).is_err());
    }
}
