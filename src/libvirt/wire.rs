//! libvirt's own protocol, which a start speaks with the daemon of this host: the client library would cost
//! more time than all the rest of the start.
//!
//! Only what a start needs is here: the calls about secrets, by root, over the socket of the local daemon.
//! Where anything is otherwise than expected, the helper is asked instead, which asks libvirt's library.
//! That is safe at any point, also after a change: the rules ([`super::secrets`]) look at what libvirt has
//! before each change, and every change can be made twice.

mod connection;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod daemon;
mod message;
mod secrets;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod xdr;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::connection::{Connection, Trouble};
use self::secrets::WireDriver;
use super::daemons::Daemons;
use super::protocol::{Response, SecretRequest};
use super::secrets::answer;
use crate::clock::Deadline;
use crate::host::dirs::LibvirtDirs;
use crate::host::text;
use crate::key::dek::Dek;

/// The one URI whose daemon is asked without the helper.
const URI: &str = "secret:///system";

/// How much of libvirt's client configuration is read, in bytes.
const MAX_CONF: usize = 64 << 10;

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The deadline has passed.
    TimedOut,
    /// The helper has to be asked.
    AskHelper,
}

/// The connection to the secrets of this host's daemon, once something is asked.
#[derive(Default)]
pub(super) struct Wire(Option<Connection>);

impl Wire {
    /// Returns whether the daemon with this URI may be asked without the helper.
    pub(super) fn speaks(uri: &str) -> bool {
        uri == URI
    }

    /// Connects, so that the daemon greets during other work. Returns whether it is there.
    pub(super) fn expect_question(&mut self, dirs: &LibvirtDirs) -> bool {
        self.connected(dirs).is_ok()
    }

    /// Does what a request wants. `value` gets the value that follows the answer. After an error there is a
    /// new connection for the next question.
    pub(super) fn ask(
        &mut self,
        request: &SecretRequest<'_>,
        value: &mut Option<Zeroizing<Vec<u8>>>,
        dirs: &LibvirtDirs,
        deadline: Deadline,
    ) -> Result<Response, NoAnswer> {
        let asked = self.try_ask(request, value, dirs, deadline);
        asked.map_err(|trouble| {
            self.0 = None;
            *value = None;
            match trouble {
                Trouble::TimedOut => NoAnswer::TimedOut,
                other => {
                    tracing::debug!(reason = %other, "libvirt is asked by its client library");
                    NoAnswer::AskHelper
                }
            }
        })
    }

    fn try_ask(
        &mut self,
        request: &SecretRequest<'_>,
        value: &mut Option<Zeroizing<Vec<u8>>>,
        dirs: &LibvirtDirs,
        deadline: Deadline,
    ) -> Result<Response, Trouble> {
        if is_too_long(request) {
            return Err(Trouble::NotUnderstood("a value that is too long"));
        }
        let connection = self.connected(dirs)?;
        connection.open(URI, deadline)?;
        let driver = WireDriver::new(connection, deadline);
        let response = answer(&driver, request, value).unwrap_or_else(Response::from);
        match driver.into_trouble() {
            None => Ok(response),
            Some(trouble) => Err(trouble),
        }
    }

    fn connected(&mut self, dirs: &LibvirtDirs) -> Result<&mut Connection, Trouble> {
        let connection = match self.0.take() {
            Some(connection) => connection,
            None if chooses_sockets_itself(&dirs.config) => Connection::start(&socket(dirs))?,
            None => return Err(Trouble::NotUnderstood("its configuration names a mode")),
        };
        Ok(self.0.insert(connection))
    }
}

/// Whether no daemon takes the value. Before anything is changed for it.
fn is_too_long(request: &SecretRequest<'_>) -> bool {
    matches!(request, SecretRequest::Provide { key, .. } if key.len() > Dek::MAX_LEN)
}

/// The socket that libvirt's client takes if nothing else is said (`remoteGetUNIXSocket` in its
/// `src/remote/remote_sockets.c`): virtsecretd's if there is one, otherwise libvirtd's, which may be
/// virtproxyd's.
fn socket(dirs: &LibvirtDirs) -> PathBuf {
    let direct = dirs.socket(Daemons::Modular.of_secrets());
    if direct.exists() {
        direct
    } else {
        dirs.socket("libvirt")
    }
}

/// Returns whether libvirt's client chooses the socket by itself: `libvirt.conf` may say which
/// (`remote_mode`). Anything that cannot be read is left to it.
fn chooses_sockets_itself(config: &Path) -> bool {
    let mut read = Vec::new();
    let opened = File::open(config.join("libvirt.conf"));
    match opened.and_then(|file| file.take(MAX_CONF as u64).read_to_end(&mut read)) {
        Ok(_) => read.len() < MAX_CONF && !names_mode(&text::lossy(read)),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether a `libvirt.conf` has such a line.
#[must_use]
pub fn names_mode(conf: &str) -> bool {
    let mut lines = conf.lines();
    lines.any(|line| line.trim_start().starts_with("remote_mode"))
}

/// Asks a daemon for the secret with this UUID that sends `answers` whatever it is called, for fuzzing.
/// Returns its value, if it tells one.
#[cfg(any(test, feature = "internals"))]
#[must_use]
pub fn value_from(answers: &[u8], secret: crate::ids::SecretUuid) -> Option<Zeroizing<Vec<u8>>> {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    let (ours, mut daemons) = UnixStream::pair().ok()?;
    ours.set_nonblocking(true).ok()?;
    daemons.set_nonblocking(true).ok()?;
    daemons.write_all(answers).ok()?;
    daemons.shutdown(std::net::Shutdown::Write).ok()?;
    let mut wire = Wire(Connection::over(ours).ok());
    let (mut value, request) = (None, SecretRequest::Reveal(secret));
    let deadline = Deadline::after(std::time::Duration::from_secs(5));
    wire.ask(&request, &mut value, &LibvirtDirs::default(), deadline)
        .ok()?;
    value
}
