//! The keys of a server: found, fetched, used there.

use vtpm_guard::plugin::{Deadline, Trouble, Zeroizing};

use crate::blob::{NONCE_LEN, TAG_LEN};
use crate::connection::{Connection, Error, Server};
use crate::message::{Operation, Version, tag};
use crate::name::{ID_PREFIX, Name};
use crate::payload::{self, AesKey, Attributes, name, number};
use crate::ttlv::{Fields, Malformed, Writer};

/// How many keys of one name are asked for: enough to see that there are several.
const MAX_FOUND: i32 = 16;

/// The keys of a server, until the deadline.
pub(crate) struct Keys<'a> {
    server: &'a Server,
    connection: &'a mut Connection,
    deadline: Deadline,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(
        server: &'a Server,
        connection: &'a mut Connection,
        deadline: Deadline,
    ) -> Self {
        Self {
            server,
            connection,
            deadline,
        }
    }

    fn ask<T>(
        &mut self,
        operation: Operation,
        write: impl FnOnce(&mut Writer),
        read: impl FnOnce(Fields<'_>) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        self.connection
            .ask(self.server, operation, self.deadline, write, read)
    }

    /// Whose product the server says it is.
    pub(crate) fn vendor(&mut self) -> Result<Option<String>, Error> {
        self.ask(
            Operation::Query,
            |payload| payload.enumeration(tag::QUERY_FUNCTION, number::QUERY_SERVER),
            payload::vendor,
        )
    }

    pub(crate) fn version(&self) -> Version {
        self.connection.version
    }

    /// Whether the server encrypts and decrypts with associated data.
    pub(crate) fn can_encrypt(&mut self) -> Result<bool, Error> {
        if self.connection.version < Version::AEAD {
            return Ok(false);
        }
        let offered = self.ask(
            Operation::Query,
            |payload| payload.enumeration(tag::QUERY_FUNCTION, number::QUERY_OPERATIONS),
            payload::operations,
        )?;
        let mut wanted = [Operation::Encrypt, Operation::Decrypt].into_iter();
        Ok(wanted.all(|wanted| offered.contains(&(wanted as u32))))
    }

    /// The identifier of the active AES-256 key of this name, which must be the only one.
    pub(crate) fn find_to_wrap(&mut self, name: &Name) -> Result<String, Error> {
        let id = self.find(name, Some(number::STATE_ACTIVE))?;
        let attributes = self.ask(
            Operation::GetAttributes,
            |payload| {
                payload.text(tag::UNIQUE_IDENTIFIER, &id);
                for name in [name::ALGORITHM, name::LENGTH, name::STATE] {
                    payload.text(tag::ATTRIBUTE_NAME, name);
                }
            },
            payload::attributes,
        )?;
        match why_not(&attributes) {
            None => Ok(id),
            Some(why) => Err(Error::new(Trouble::Denied, why)),
        }
    }

    /// The identifier of the key of this name, whatever its state.
    pub(crate) fn find_to_unwrap(&mut self, name: &Name) -> Result<String, Error> {
        self.find(name, None)
    }

    fn find(&mut self, name: &Name, state: Option<u32>) -> Result<String, Error> {
        let text = match name {
            Name::Id(id) => return Ok(id.clone()),
            Name::Name(text) => text,
        };
        let mut found = self.ask(
            Operation::Locate,
            |payload| {
                payload.integer(tag::MAXIMUM_ITEMS, MAX_FOUND);
                attribute(payload, name::NAME, |attribute| {
                    attribute.structure(tag::ATTRIBUTE_VALUE, |value| {
                        value.text(tag::NAME_VALUE, text);
                        value.enumeration(tag::NAME_TYPE, number::UNINTERPRETED_NAME);
                    });
                });
                attribute(payload, name::OBJECT_TYPE, |attribute| {
                    attribute.enumeration(tag::ATTRIBUTE_VALUE, number::SYMMETRIC_KEY);
                });
                if let Some(state) = state {
                    attribute(payload, name::STATE, |attribute| {
                        attribute.enumeration(tag::ATTRIBUTE_VALUE, state);
                    });
                }
            },
            payload::identifiers,
        )?;
        let message = match (found.pop(), found.len(), state) {
            (Some(id), 0, _) => return Ok(id),
            (None, _, None) => "the server has no such key".to_owned(),
            (None, _, Some(_)) => "the server has no such key that is active".to_owned(),
            (Some(_), others, _) => {
                let count = others + 1;
                format!(
                    "the server has {count} such keys: name one by its identifier, as {ID_PREFIX}IDENTIFIER"
                )
            }
        };
        Err(Error::new(Trouble::NoKey, message))
    }

    /// Fetches a key.
    pub(crate) fn get(&mut self, id: &str) -> Result<AesKey, Error> {
        let key = self.ask(
            Operation::Get,
            |payload| {
                payload.text(tag::UNIQUE_IDENTIFIER, id);
                payload.enumeration(tag::KEY_FORMAT_TYPE, number::FORMAT_RAW);
            },
            payload::key,
        )?;
        key.map_err(|why| Error::new(Trouble::Denied, why))
    }

    /// Encrypts at the server with AES-256-GCM. The tag comes last.
    pub(crate) fn encrypt(
        &mut self,
        id: &str,
        nonce: [u8; NONCE_LEN],
        plain: &[u8],
        context: &str,
    ) -> Result<Vec<u8>, Error> {
        self.ask(
            Operation::Encrypt,
            |payload| {
                payload.text(tag::UNIQUE_IDENTIFIER, id);
                gcm(payload);
                payload.bytes(tag::DATA, plain);
                payload.bytes(tag::IV_COUNTER_NONCE, &nonce);
                payload.bytes(tag::AEAD_ADDITIONAL_DATA, context.as_bytes());
            },
            |payload| payload::encrypted(payload, nonce),
        )
    }

    /// Decrypts at the server what [`Self::encrypt`] gave.
    pub(crate) fn decrypt(
        &mut self,
        id: &str,
        nonce: [u8; NONCE_LEN],
        sealed: &[u8],
        context: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (data, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_LEN));
        let opened = self.ask(
            Operation::Decrypt,
            |payload| {
                payload.text(tag::UNIQUE_IDENTIFIER, id);
                gcm(payload);
                payload.bytes(tag::DATA, data);
                payload.bytes(tag::IV_COUNTER_NONCE, &nonce);
                payload.bytes(tag::AEAD_ADDITIONAL_DATA, context.as_bytes());
                payload.bytes(tag::AEAD_TAG, tag);
            },
            payload::decrypted,
        );
        opened.map_err(|error| match error {
            Error::Refused(refusal) => Error::Other(refusal.not_opened()),
            error => error,
        })
    }
}

/// Why a key cannot wrap.
fn why_not(attributes: &Attributes) -> Option<String> {
    let is_not = |found: Option<u32>, wanted| found.is_some_and(|found| found != wanted);
    match attributes.length {
        _ if is_not(attributes.algorithm, number::AES) => Some("it is no AES key".to_owned()),
        Some(bits) if bits != 256 => {
            Some(format!("it is an AES key of {bits} bits; 256 are needed"))
        }
        _ if is_not(attributes.state, number::STATE_ACTIVE) => Some("it is not active".to_owned()),
        _ => None,
    }
}

fn attribute(payload: &mut Writer, name: &str, value: impl FnOnce(&mut Writer)) {
    payload.structure(tag::ATTRIBUTE, |attribute| {
        attribute.text(tag::ATTRIBUTE_NAME, name);
        value(attribute);
    });
}

fn gcm(payload: &mut Writer) {
    payload.structure(tag::CRYPTOGRAPHIC_PARAMETERS, |parameters| {
        parameters.enumeration(tag::BLOCK_CIPHER_MODE, number::GCM);
        parameters.enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, number::AES);
        parameters.integer(tag::TAG_LENGTH, i32::try_from(TAG_LEN).unwrap_or(i32::MAX));
    });
}
