//! A connection to a KMIP server: one request, one response.

use std::io::Write;

use vtpm_guard::plugin::{Deadline, PluginError, Trouble};
use vtpm_guard_kms_tls::{Address, Identity, Stream, plugin_error};

use crate::message::{
    NotReceived, Operation, Outcome, Refusal, Version, receive, request, response,
};
use crate::payload;
use crate::ttlv::{Fields, Malformed, Writer};

/// Where a server is, and with which certificate it is spoken to.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) identity: Identity,
}

/// A connection, and the version of KMIP that is spoken on it.
pub(crate) struct Connection {
    stream: Stream,
    pub(crate) version: Version,
}

/// Why an operation gave nothing.
#[derive(Debug)]
pub(crate) enum Error {
    /// The connection could not be made, or was lost. The address is in the message.
    Lost(PluginError),
    /// The server refuses it.
    Refused(Refusal),
    /// What it answered does not do.
    Other(PluginError),
}

impl Error {
    /// Any other error.
    pub(crate) fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        Self::Other(PluginError::new(trouble, message))
    }

    /// The error for an administrator: with the key that it is about, if any, and the address.
    pub(crate) fn explain(self, key: &str, address: &Address) -> PluginError {
        let error = match self {
            Self::Lost(error) => return error,
            Self::Refused(refusal) => refusal.explain(),
            Self::Other(error) => error,
        };
        if key.is_empty() {
            error.at(address)
        } else {
            error.at(key).at(address)
        }
    }

    /// Whether it says that there is no such key.
    pub(crate) fn is_no_key(&self) -> bool {
        match self {
            Self::Lost(error) | Self::Other(error) => error.trouble == Trouble::NoKey,
            Self::Refused(refusal) => refusal.explain().trouble == Trouble::NoKey,
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        let message = format!("the server's response cannot be understood: {malformed}");
        Self::new(Trouble::Failed, message)
    }
}

impl Connection {
    /// Connects, and agrees on a version.
    pub(crate) fn open(server: &Server, deadline: Deadline) -> Result<Self, Error> {
        let stream = Stream::connect(&server.address, &server.identity, deadline);
        let stream = stream.map_err(Error::Lost)?;
        // The oldest that this program speaks: in it the server names those that it speaks.
        let [.., version] = Version::KNOWN;
        let mut connection = Self { stream, version };
        let offered = connection.ask(
            server,
            Operation::DiscoverVersions,
            deadline,
            |payload| {
                for known in Version::KNOWN {
                    known.write(payload);
                }
            },
            payload::versions,
        );
        match offered {
            Ok(offered) => {
                let mut known = Version::KNOWN.into_iter();
                let both = known.find(|known| offered.contains(known));
                let none = "the server speaks none of KMIP 1.2, 1.3 and 1.4";
                connection.version = both.ok_or_else(|| Error::new(Trouble::Failed, none))?;
            }
            // One that does not know this operation may speak 1.2 all the same.
            Err(Error::Refused(refusal)) if refusal.is_not_offered() => {}
            Err(error) => return Err(error),
        }
        Ok(connection)
    }

    /// Asks for one operation, and reads its payload.
    pub(crate) fn ask<T>(
        &mut self,
        server: &Server,
        operation: Operation,
        deadline: Deadline,
        write: impl FnOnce(&mut Writer),
        read: impl FnOnce(Fields<'_>) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        self.stream.set_deadline(deadline);
        let request = request(self.version, operation, write);
        let sent = self.stream.write_all(&request);
        let sent = sent.and_then(|()| self.stream.flush());
        let received = sent.map_err(NotReceived::Lost);
        let received = received.and_then(|()| receive(&mut self.stream));
        let bytes = received.map_err(|error| match error {
            NotReceived::Lost(error) => {
                Error::Lost(plugin_error(&server.address, &server.identity, &error))
            }
            NotReceived::NotKmip => {
                Error::new(Trouble::Failed, "what answers there does not speak KMIP")
            }
        })?;
        match response(&bytes)? {
            Outcome::Done(payload) => Ok(read(payload)?),
            Outcome::Refused(refusal) => Err(Error::Refused(refusal)),
        }
    }
}
