//! Where a key manager is.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;

use vtpm_guard::plugin::Deadline;

/// The host and the port of a key manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `HOST`, `HOST:PORT`, or `[IPv6]:PORT`. `None`: it is none of them.
    #[must_use]
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if port.is_empty() => default_port,
            None => return None,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        let host = (!host.is_empty() && host.bytes().all(is_host)).then(|| host.to_owned())?;
        Some(Self { host, port })
    }

    /// The host's name or IP address: what its certificate must be for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its IP addresses. The system's resolver knows no deadline, so it is asked by another thread, which
    /// ends with the process.
    pub(crate) fn resolve(&self, deadline: Deadline) -> io::Result<Vec<SocketAddr>> {
        let (send, receive) = mpsc::channel();
        let (host, port) = (self.host.clone(), self.port);
        thread::spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            // Nobody listens after the deadline.
            let _ = send.send(found.map(Iterator::collect));
        });
        let found = receive.recv_timeout(deadline.remaining());
        found.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_an_address() {
        for (text, shown) in [
            ("kms.example.com", "kms.example.com:8200"),
            ("kms.example.com:443", "kms.example.com:443"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::1]", "[::1]:8200"),
        ] {
            let address = Address::parse(text, 8200);
            assert_eq!(
                address.map(|address| address.to_string()),
                Some(shown.to_owned())
            );
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "", ":1", "a:", "a:99999", "a b", "a/b", "::1", "[::1", "[::1]1", "a\r\nb", "u@h",
        ] {
            assert_eq!(Address::parse(text, 8200), None, "{text}");
        }
    }
}
