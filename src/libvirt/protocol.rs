//! What the guard and its helper say to each other over the helper's stdin and stdout.
//!
//! Both directions carry frames: a length (u32, big-endian), then as many bytes. A request is
//! a line of words and, after the line feed, a body of raw bytes: a key, or a domain's name.
//! A response is a JSON document; it never holds a key. The one response that announces a
//! secret's value is followed by a frame of its own with the raw bytes.

use std::io::{self, ErrorKind, Read};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::guests::{Guest, SavedRuns};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::SecretError;
use crate::verdict::Over;

#[cfg(test)]
mod tests;

/// The longest request in bytes: a secret's value may have 65536 (libvirt's
/// `VIR_SECRET_VALUE_MAX`), and the words need some room.
pub(super) const MAX_REQUEST: usize = 65536 + 1024;

/// The longest value of a secret that follows a response, in bytes.
pub(super) const MAX_VALUE: usize = Dek::MAX_LEN;

/// The longest response in bytes: the definitions of several thousand guests.
pub(super) const MAX_RESPONSE: usize = 64 << 20;

const LENGTH_LEN: usize = size_of::<u32>();

/// A question to libvirt.
#[derive(PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// `provide SECRET DOMAIN own|definition|value`, and the key as the body.
    Provide {
        /// The secret that is to hold the key.
        secret: SecretUuid,
        /// The domain whose vTPM's key it is.
        domain: DomainUuid,
        /// The value.
        key: &'a [u8],
        /// What it may replace.
        over: Over,
    },
    /// `drop SECRET DOMAIN`
    Drop {
        /// The secret.
        secret: SecretUuid,
        /// The domain whose secret of the guard's it may be.
        domain: DomainUuid,
    },
    /// `drop-staged SECRET DOMAIN`
    DropStaged {
        /// The secret.
        secret: SecretUuid,
        /// The domain for whose start with the daemon it may have been laid out.
        domain: DomainUuid,
    },
    /// `reveal SECRET`: what it is for, and its value.
    Reveal(SecretUuid),
    /// `undefine SECRET`: one for vTPMs, whoever made it.
    Undefine(SecretUuid),
    /// `encrypt-vtpm DOMAIN SECRET`
    EncryptVtpm {
        /// The domain whose XML is to say that its vTPM is encrypted.
        domain: DomainUuid,
        /// The secret that it is to name.
        secret: SecretUuid,
    },
    /// `saved-runs DOMAIN`
    SavedRuns(DomainUuid),
    /// `guests`
    Guests,
    /// `guest`, and a name or a UUID as the body.
    Guest(&'a str),
}

impl<'a> Request<'a> {
    /// The whole frame, in a buffer that is wiped.
    pub(super) fn to_frame(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let (words, body): (_, &[u8]) = match self {
            Self::Provide {
                secret,
                domain,
                key,
                over,
            } => {
                let over = word(*over);
                (format!("provide {secret} {domain} {over}"), key)
            }
            Self::Drop { secret, domain } => (format!("drop {secret} {domain}"), &[]),
            Self::DropStaged { secret, domain } => (format!("drop-staged {secret} {domain}"), &[]),
            Self::Reveal(secret) => (format!("reveal {secret}"), &[]),
            Self::Undefine(secret) => (format!("undefine {secret}"), &[]),
            Self::EncryptVtpm { domain, secret } => {
                (format!("encrypt-vtpm {domain} {secret}"), &[])
            }
            Self::SavedRuns(domain) => (format!("saved-runs {domain}"), &[]),
            Self::Guests => ("guests".to_owned(), &[]),
            Self::Guest(name_or_uuid) => ("guest".to_owned(), name_or_uuid.as_bytes()),
        };
        to_frame(&[words.as_bytes(), b"\n", body], MAX_REQUEST)
    }

    /// Reads a frame's bytes; `None` if they are no request.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let line_feed = frame.iter().position(|&byte| byte == b'\n')?;
        let words = std::str::from_utf8(&frame[..line_feed]).ok()?;
        let body = &frame[line_feed + 1..];
        let words: Vec<&str> = words.split(' ').collect();
        let request = match *words.as_slice() {
            ["provide", secret, domain, over] => {
                return Some(Self::Provide {
                    secret: secret.parse().ok()?,
                    domain: domain.parse().ok()?,
                    key: body,
                    over: OVER.into_iter().find(|known| word(*known) == over)?,
                });
            }
            ["drop", secret, domain] => Self::Drop {
                secret: secret.parse().ok()?,
                domain: domain.parse().ok()?,
            },
            ["drop-staged", secret, domain] => Self::DropStaged {
                secret: secret.parse().ok()?,
                domain: domain.parse().ok()?,
            },
            ["reveal", secret] => Self::Reveal(secret.parse().ok()?),
            ["undefine", secret] => Self::Undefine(secret.parse().ok()?),
            ["encrypt-vtpm", domain, secret] => Self::EncryptVtpm {
                domain: domain.parse().ok()?,
                secret: secret.parse().ok()?,
            },
            ["saved-runs", domain] => Self::SavedRuns(domain.parse().ok()?),
            ["guests"] => Self::Guests,
            ["guest"] => return std::str::from_utf8(body).ok().map(Self::Guest),
            _ => return None,
        };
        body.is_empty().then_some(request)
    }
}

/// What a key may replace in libvirt; where it is there already, nothing is asked.
const OVER: [Over; 3] = [Over::GuardsOwn, Over::ForeignDefinition, Over::ForeignValue];

fn word(over: Over) -> &'static str {
    match over {
        Over::TheSame => "nothing",
        Over::GuardsOwn => "own",
        Over::ForeignDefinition => "definition",
        Over::ForeignValue => "value",
    }
}

/// The helper's answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Response {
    /// There is no such secret.
    Absent,
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
    /// Whether there was a secret of the guard's to drop.
    Dropped(bool),
    /// A secret, and whether its value follows.
    Secret {
        /// Its definition, in libvirt's XML.
        definition: String,
        /// Its value.
        value: Revealed,
    },
    /// Whether there was a secret to undefine.
    Undefined(bool),
    /// Whether the domain XML was changed; if not, it has no vTPM that could be encrypted.
    Redefined(bool),
    /// What is kept of the domain's runs.
    SavedRuns(SavedRuns),
    /// The guests that were asked for.
    Guests(Vec<Guest>),
    /// [`SecretError::Refused`]
    Refused(String),
    /// [`SecretError::Unreachable`]
    Unreachable(String),
    /// [`SecretError::Conflict`]
    Conflict(String),
    /// [`SecretError::Changed`]
    Changed,
}

/// What libvirt tells of a secret's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Revealed {
    /// There is none.
    None,
    /// The secret is private: libvirt tells nobody.
    Private,
    /// The next frame holds it.
    Follows,
}

impl Response {
    /// The whole frame.
    pub(super) fn to_frame(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        to_frame(&[&serde_json::to_vec(self)?], MAX_RESPONSE)
    }

    /// Reads a frame's bytes.
    pub(super) fn parse(frame: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(frame)?)
    }
}

impl From<SecretError> for Response {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Refused(words) => Self::Refused(words),
            SecretError::Unreachable(words) => Self::Unreachable(words),
            SecretError::Starting | SecretError::OfGuest(_) => Self::Unreachable(error.to_string()),
            SecretError::Conflict(words) => Self::Conflict(words),
            SecretError::Changed => Self::Changed,
        }
    }
}

/// Reads the bytes of one frame into a buffer that is wiped; `None` where the stream ends.
pub(super) fn read_frame(
    from: &mut impl Read,
    max_len: usize,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; LENGTH_LEN];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = usize::try_from(u32::from_be_bytes(length))
        .ok()
        .filter(|&length| length <= max_len)
        .ok_or_else(too_long)?;
    // All of it at once: a buffer that grew would leave copies of a key behind.
    let mut frame = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// The frame of a secret's value, in a buffer that is wiped.
pub(super) fn value_frame(value: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    to_frame(&[value], MAX_VALUE)
}

/// A frame of these parts, in a buffer of its final size.
fn to_frame(parts: &[&[u8]], max_len: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let announced = u32::try_from(length)
        .ok()
        .filter(|_| length <= max_len)
        .ok_or_else(too_long)?;
    let mut frame = Zeroizing::new(Vec::with_capacity(LENGTH_LEN + length));
    frame.extend_from_slice(&announced.to_be_bytes());
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

fn too_long() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the message is too long")
}
