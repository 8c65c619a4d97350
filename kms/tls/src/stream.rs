//! A connection on which nothing is waited for longer than the deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use vtpm_guard::plugin::{Deadline, PluginError};

use crate::error::plugin_error;
use crate::{Address, Identity};

/// A connection to a key manager whose certificate was verified.
pub struct Stream(StreamOwned<ClientConnection, Timed>);

impl Stream {
    /// Connects, and shakes hands.
    pub fn connect(
        address: &Address,
        identity: &Identity,
        deadline: Deadline,
    ) -> Result<Self, PluginError> {
        let config = Arc::new(identity.config()?);
        let connected = connect(address, deadline).and_then(|socket| {
            let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
            let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(tls, Timed { socket, deadline });
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            Ok(Self(stream))
        });
        connected.map_err(|error| plugin_error(address, identity, &error))
    }

    /// Sets until when it may wait from now on.
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.0.sock.deadline = deadline;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Connects to the first of its IP addresses that answers. Each gets a fair part of the time.
fn connect(address: &Address, deadline: Deadline) -> io::Result<TcpStream> {
    let found = address.resolve(deadline)?;
    let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for (index, address) in found.iter().enumerate() {
        let others = u32::try_from(found.len() - index).unwrap_or(u32::MAX);
        let time = deadline.remaining() / others;
        if time.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, time) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket with a deadline.
struct Timed {
    socket: TcpStream,
    deadline: Deadline,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.remaining();
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
