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
pub struct Stream(Tls);

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
            shake_hands(&mut stream)?;
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
        let written = self.0.write(bytes);
        written.map_err(|error| last_words(&mut self.0, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        flushed.map_err(|error| last_words(&mut self.0, error))
    }
}

type Tls = StreamOwned<ClientConnection, Timed>;

fn shake_hands(stream: &mut Tls) -> io::Result<()> {
    while stream.conn.is_handshaking() {
        let done = stream.conn.complete_io(&mut stream.sock);
        done.map_err(|error| last_words(stream, error))?;
    }
    Ok(())
}

/// A server that does not like a certificate says so and closes the connection. If that is noticed when
/// writing, what it said has not been read yet.
fn last_words(stream: &mut Tls, error: io::Error) -> io::Error {
    if !matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    ) {
        return error;
    }
    while let Ok(1..) = stream.conn.read_tls(&mut stream.sock) {
        if let Err(said) = stream.conn.process_new_packets() {
            return io::Error::new(ErrorKind::InvalidData, said);
        }
    }
    error
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rustls::{AlertDescription, ClientConfig, RootCertStore};

    use super::*;

    #[test]
    fn what_a_server_said_before_it_closed_is_the_error() {
        const EXPIRED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 45];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(&EXPIRED).unwrap();
        drop(server);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let mut stream = Tls::new(tls, Timed { socket, deadline });
        // From the second byte on, the kernel knows that nobody reads them.
        while stream.sock.write(b"x").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        let error = shake_hands(&mut stream).unwrap_err();
        let said = error.get_ref().and_then(|said| said.downcast_ref());
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
        assert_eq!(said, Some(&alert));
    }
}
