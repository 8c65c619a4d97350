//! A connection to the daemon of this host: calls and their replies, one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::message::{self, LENGTH_LEN, Procedure, Received};
use super::xdr::{Field, Reader};
use crate::clock::Deadline;
use crate::host::timed::Timed;
use crate::libvirt::call_error::CallError;

/// `REMOTE_AUTH_NONE`
const AUTH_NONE: u32 = 0;

/// How many messages that nobody asked for may come before a reply.
const MAX_UNASKED: usize = 16;

/// How long the daemon may take to close a connection. One that was just left is a line in its log.
const CLOSE_TIME: Duration = Duration::from_millis(20);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The deadline has passed.
    #[error("no answer in time")]
    TimedOut,
    /// There is no connection, or no longer one.
    #[error("{0}")]
    NotConnected(io::Error),
    /// What came is not what was expected.
    #[error("{0}")]
    NotUnderstood(&'static str),
    /// What libvirt's client library can explain, or deal with.
    #[error("libvirt said: {0}")]
    Told(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::NotConnected(error),
        }
    }
}

/// The reply to a call: its results, or why it was refused.
pub(super) enum Reply {
    Results(Results),
    Refusal(CallError),
}

/// The results of a call, in a buffer that is wiped.
pub(super) struct Results {
    message: Zeroizing<Vec<u8>>,
    from: usize,
}

impl Results {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.message[self.from..])
    }
}

/// How far it has come.
#[derive(PartialEq, Eq)]
enum Stage {
    /// How to authenticate was asked, with this serial number.
    Greeted(u32),
    /// The secrets can be asked for.
    Open,
    /// Something went wrong.
    Broken,
}

/// The connection.
pub(super) struct Connection {
    socket: UnixStream,
    stage: Stage,
    serial: u32,
}

impl Connection {
    /// Connects and sends the first call, without waiting for anything.
    pub(super) fn start(path: &Path) -> Result<Self, Trouble> {
        let socket = connected(path)?;
        if !is_trusted(&socket)? {
            return Err(Trouble::NotUnderstood("the socket is not root's"));
        }
        Self::over(socket.into())
    }

    /// Sends the first call over a new socket that does not block: there is room for it, and nothing is waited for.
    pub(super) fn over(socket: UnixStream) -> Result<Self, Trouble> {
        let mut connection = Self {
            socket,
            stage: Stage::Broken,
            serial: 0,
        };
        let (serial, message) = connection.next_call(Procedure::AuthList, &[])?;
        connection.socket.write_all(&message)?;
        connection.stage = Stage::Greeted(serial);
        Ok(connection)
    }

    /// Opens the secret driver, unless it is open.
    pub(super) fn open(&mut self, uri: &str, deadline: Deadline) -> Result<(), Trouble> {
        let Stage::Greeted(serial) = self.stage else {
            return Ok(());
        };
        match self.receive(Procedure::AuthList, serial, deadline)? {
            Reply::Results(methods) if wants_no_authentication(methods.reader()) => {}
            _ => return Err(Trouble::NotUnderstood("it wants authentication")),
        }
        // The name of the driver, and flags.
        let arguments = [Field::Present(uri.as_bytes()), Field::Number(0)];
        let opened = self.call_in(Procedure::ConnectOpen, &arguments, deadline)?;
        match opened {
            Reply::Results(nothing) if nothing.reader().end().is_some() => {
                self.stage = Stage::Open;
                Ok(())
            }
            Reply::Results(_) => Err(Trouble::NotUnderstood("the reply to open is too long")),
            Reply::Refusal(error) => Err(Trouble::Told(error.words())),
        }
    }

    /// Calls a procedure of the secret driver. After an error nothing more can be called.
    pub(super) fn call(
        &mut self,
        procedure: Procedure,
        arguments: &[Field<'_>],
        deadline: Deadline,
    ) -> Result<Reply, Trouble> {
        if self.stage != Stage::Open {
            return Err(Trouble::NotConnected(ErrorKind::NotConnected.into()));
        }
        self.stage = Stage::Broken;
        let reply = self.call_in(procedure, arguments, deadline)?;
        self.stage = Stage::Open;
        Ok(reply)
    }

    /// Calls nothing more: nobody knows what would come.
    pub(super) fn leave(&mut self) {
        self.stage = Stage::Broken;
    }

    fn call_in(
        &mut self,
        procedure: Procedure,
        arguments: &[Field<'_>],
        deadline: Deadline,
    ) -> Result<Reply, Trouble> {
        let serial = self.send(procedure, arguments, deadline)?;
        self.receive(procedure, serial, deadline)
    }

    /// Returns the call's serial number.
    fn send(
        &mut self,
        procedure: Procedure,
        arguments: &[Field<'_>],
        deadline: Deadline,
    ) -> Result<u32, Trouble> {
        let (serial, message) = self.next_call(procedure, arguments)?;
        Timed(&mut self.socket, deadline).write_all(&message)?;
        Ok(serial)
    }

    /// The next call's serial number, and the call.
    fn next_call(
        &mut self,
        procedure: Procedure,
        arguments: &[Field<'_>],
    ) -> Result<(u32, Zeroizing<Vec<u8>>), Trouble> {
        self.serial += 1;
        let message = message::call(procedure, self.serial, arguments);
        let message = message.ok_or(Trouble::NotUnderstood("the call is too long"))?;
        Ok((self.serial, message))
    }

    fn receive(
        &mut self,
        procedure: Procedure,
        serial: u32,
        deadline: Deadline,
    ) -> Result<Reply, Trouble> {
        for _ in 0..=MAX_UNASKED {
            let message = self.receive_message(deadline)?;
            match message::received(&message, procedure, serial) {
                Some(Received::Unasked) => {}
                Some(Received::Reply(Err(error))) => return Ok(Reply::Refusal(error)),
                Some(Received::Reply(Ok(reader))) => {
                    let from = message.len() - reader.remaining();
                    return Ok(Reply::Results(Results { message, from }));
                }
                None => return Err(Trouble::NotUnderstood("the reply is not one to the call")),
            }
        }
        Err(Trouble::NotUnderstood("too many messages before the reply"))
    }

    /// Reads what follows the length of a message, into a buffer of its final size: one that grew would
    /// leave copies of a key.
    fn receive_message(&mut self, deadline: Deadline) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let mut from = Timed(&mut self.socket, deadline);
        let mut length = [0; LENGTH_LEN];
        from.read_exact(&mut length)?;
        let rest =
            message::rest_of(length).ok_or(Trouble::NotUnderstood("a message of such a length"))?;
        let mut message = Zeroizing::new(vec![0; rest]);
        from.read_exact(&mut message)?;
        Ok(message)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.stage == Stage::Open {
            let soon = Deadline::after(CLOSE_TIME);
            // It is closed anyway.
            let _ = self.call_in(Procedure::ConnectClose, &[], soon);
        }
    }
}

fn wants_no_authentication(mut methods: Reader<'_>) -> bool {
    // libvirt's client takes the first.
    methods.number().is_some_and(|count| count > 0) && methods.number() == Some(AUTH_NONE)
}

/// Returns a socket that never blocks: a daemon whose queue is full makes connect(2) wait.
fn connected(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Whether root, or this process's user, listens there: a key goes to nobody else.
fn is_trusted(socket: &impl AsFd) -> io::Result<bool> {
    let listener = getsockopt(socket, PeerCredentials)?;
    Ok(listener.uid() == 0 || listener.uid() == geteuid().as_raw())
}
