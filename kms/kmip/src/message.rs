//! Requests and responses of KMIP, of which this program needs seven operations.

use std::fmt;
use std::io::{self, Read};

use vtpm_guard::plugin::{PluginError, Trouble, Zeroizing};

use super::ttlv::{Fields, HEADER_LEN, Item, Malformed, Tag, Writer, header};

/// The tags of the standard that occur here.
pub mod tag {
    use super::super::ttlv::Tag;

    macro_rules! tags {
        ($($name:ident = $number:literal),* $(,)?) => {
            $(pub const $name: Tag = Tag($number);)*
        };
    }

    tags! {
        ATTRIBUTE = 0x42_0008,
        ATTRIBUTE_NAME = 0x42_000a,
        ATTRIBUTE_VALUE = 0x42_000b,
        BATCH_COUNT = 0x42_000d,
        BATCH_ITEM = 0x42_000f,
        BLOCK_CIPHER_MODE = 0x42_0011,
        CRYPTOGRAPHIC_ALGORITHM = 0x42_0028,
        CRYPTOGRAPHIC_PARAMETERS = 0x42_002b,
        IV_COUNTER_NONCE = 0x42_003d,
        KEY_BLOCK = 0x42_0040,
        KEY_FORMAT_TYPE = 0x42_0042,
        KEY_MATERIAL = 0x42_0043,
        KEY_VALUE = 0x42_0045,
        KEY_WRAPPING_DATA = 0x42_0046,
        MAXIMUM_ITEMS = 0x42_004f,
        NAME_TYPE = 0x42_0054,
        NAME_VALUE = 0x42_0055,
        OPERATION = 0x42_005c,
        PROTOCOL_VERSION = 0x42_0069,
        PROTOCOL_VERSION_MAJOR = 0x42_006a,
        PROTOCOL_VERSION_MINOR = 0x42_006b,
        QUERY_FUNCTION = 0x42_0074,
        REQUEST_HEADER = 0x42_0077,
        REQUEST_MESSAGE = 0x42_0078,
        REQUEST_PAYLOAD = 0x42_0079,
        RESPONSE_MESSAGE = 0x42_007b,
        RESPONSE_PAYLOAD = 0x42_007c,
        RESULT_MESSAGE = 0x42_007d,
        RESULT_REASON = 0x42_007e,
        RESULT_STATUS = 0x42_007f,
        SYMMETRIC_KEY = 0x42_008f,
        UNIQUE_IDENTIFIER = 0x42_0094,
        VENDOR_IDENTIFICATION = 0x42_009d,
        DATA = 0x42_00c2,
        TAG_LENGTH = 0x42_00ce,
        AEAD_ADDITIONAL_DATA = 0x42_00fe,
        AEAD_TAG = 0x42_00ff,
    }
}

/// The longest response that is read, in bytes.
pub const MAX_RESPONSE: usize = 64 << 10;

/// The operations that this program asks for; the numbers are the standard's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Finds objects by their attributes.
    Locate = 0x08,
    /// Gives an object out.
    Get = 0x0a,
    /// Tells what an object is.
    GetAttributes = 0x0b,
    /// What the server offers.
    Query = 0x18,
    /// Which versions of KMIP it speaks.
    DiscoverVersions = 0x1e,
    /// Encrypts with a key of the server.
    Encrypt = 0x1f,
    /// Decrypts with a key of the server.
    Decrypt = 0x20,
}

/// A version of KMIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32, pub i32);

impl Version {
    /// Those that this program speaks, the newest first.
    pub const KNOWN: [Self; 3] = [Self(1, 4), Self(1, 3), Self(1, 2)];

    /// Authenticated encryption at the server came with this one.
    pub const AEAD: Self = Self(1, 4);

    /// Adds it to a message.
    pub fn write(self, writer: &mut Writer) {
        writer.structure(tag::PROTOCOL_VERSION, |version| {
            version.integer(tag::PROTOCOL_VERSION_MAJOR, self.0);
            version.integer(tag::PROTOCOL_VERSION_MINOR, self.1);
        });
    }

    /// Reads it.
    pub fn read(fields: Fields<'_>) -> Result<Self, Malformed> {
        let part = |tag: Tag| fields.get(tag)?.integer();
        let major = part(tag::PROTOCOL_VERSION_MAJOR)?;
        Ok(Self(major, part(tag::PROTOCOL_VERSION_MINOR)?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KMIP {}.{}", self.0, self.1)
    }
}

/// Writes a request for one operation.
pub fn request(
    version: Version,
    operation: Operation,
    payload: impl FnOnce(&mut Writer),
) -> Zeroizing<Vec<u8>> {
    Writer::message(tag::REQUEST_MESSAGE, |message| {
        message.structure(tag::REQUEST_HEADER, |header| {
            version.write(header);
            header.integer(tag::BATCH_COUNT, 1);
        });
        message.structure(tag::BATCH_ITEM, |item| {
            item.enumeration(tag::OPERATION, operation as u32);
            item.structure(tag::REQUEST_PAYLOAD, payload);
        });
    })
}

/// Why an operation was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The standard's number of the reason.
    pub reason: u32,
    /// In the server's words.
    pub message: String,
}

/// What a response says.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It was carried out; these are the fields of its payload.
    Done(Fields<'a>),
    /// It was not.
    Refused(Refusal),
}

/// Why no response was received.
#[derive(Debug)]
pub enum NotReceived {
    /// The connection was lost, or ended too early.
    Lost(io::Error),
    /// What was sent does not begin as a response does.
    NotKmip,
}

impl From<io::Error> for NotReceived {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// Receives a response, and no more: what follows its header.
pub fn receive(from: &mut impl Read) -> Result<Zeroizing<Vec<u8>>, NotReceived> {
    let mut head = [0; HEADER_LEN];
    from.read_exact(&mut head)?;
    let (tag, length) = header(head);
    if tag != tag::RESPONSE_MESSAGE || length > MAX_RESPONSE {
        return Err(NotReceived::NotKmip);
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads what follows the header of a response to one operation.
pub fn response(bytes: &[u8]) -> Result<Outcome<'_>, Malformed> {
    let item = Fields::of(bytes).get(tag::BATCH_ITEM)?.structure()?;
    if item.get(tag::RESULT_STATUS)?.enumeration()? == 0 {
        let payload = item.find(tag::RESPONSE_PAYLOAD)?;
        let payload = payload.map(Item::structure);
        return Ok(Outcome::Done(payload.unwrap_or(Ok(Fields::of(&[])))?));
    }
    let reason = item.find(tag::RESULT_REASON)?;
    let reason = reason.map(Item::enumeration).transpose()?;
    let message = item.find(tag::RESULT_MESSAGE)?;
    let message = message.map(Item::text).transpose()?;
    Ok(Outcome::Refused(Refusal {
        reason: reason.unwrap_or(Refusal::GENERAL_FAILURE),
        message: message.unwrap_or("it gave no reason").to_owned(),
    }))
}

impl Refusal {
    const ITEM_NOT_FOUND: u32 = 0x01;
    const AUTHENTICATION_NOT_SUCCESSFUL: u32 = 0x03;
    const OPERATION_NOT_SUPPORTED: u32 = 0x05;
    const INVALID_FIELD: u32 = 0x07;
    const FEATURE_NOT_SUPPORTED: u32 = 0x08;
    const CRYPTOGRAPHIC_FAILURE: u32 = 0x0a;
    const ILLEGAL_OPERATION: u32 = 0x0b;
    const PERMISSION_DENIED: u32 = 0x0c;
    const SENSITIVE: u32 = 0x16;
    const NOT_EXTRACTABLE: u32 = 0x17;
    const GENERAL_FAILURE: u32 = 0x100;

    /// What it means for an administrator.
    pub fn explain(&self) -> PluginError {
        let trouble = match self.reason {
            Self::ITEM_NOT_FOUND => Trouble::NoKey,
            Self::AUTHENTICATION_NOT_SUCCESSFUL => Trouble::Credentials,
            Self::PERMISSION_DENIED | Self::SENSITIVE | Self::NOT_EXTRACTABLE => Trouble::Denied,
            _ => Trouble::Failed,
        };
        PluginError::new(trouble, self.message.clone())
    }

    /// What it means where a wrapped key was to be opened.
    pub fn not_opened(&self) -> PluginError {
        match self.reason {
            Self::CRYPTOGRAPHIC_FAILURE | Self::INVALID_FIELD | Self::GENERAL_FAILURE => {
                PluginError::new(Trouble::NotOpened, self.message.clone())
            }
            _ => self.explain(),
        }
    }

    /// Whether the server does not do this, at all or with this key, so that another way may be tried.
    pub fn is_not_offered(&self) -> bool {
        matches!(
            self.reason,
            Self::OPERATION_NOT_SUPPORTED
                | Self::FEATURE_NOT_SUPPORTED
                | Self::INVALID_FIELD
                | Self::ILLEGAL_OPERATION
                | Self::CRYPTOGRAPHIC_FAILURE
                | Self::PERMISSION_DENIED
        )
    }
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
