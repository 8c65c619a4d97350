//! The protocol between the guard and its helper, over the helper's stdin and stdout.
//!
//! Both directions carry [frames](crate::host::frame). A request is a line of words and, after the line
//! feed, a body of raw bytes: a key, or a domain's name. A response is a JSON document, and never
//! contains a key. The response that announces a secret's value is followed by another frame with
//! the raw bytes.

use std::io;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::guests::{Guest, SavedRuns};
use super::metadata::Metadata;
use crate::host::frame::to_frame;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::SecretError;
use crate::verdict::Over;

#[cfg(test)]
mod tests;

/// The longest request in bytes: the wrapped keys of a guest's metadata may have 128 KiB, a secret's
/// value 65536 (libvirt's `VIR_SECRET_VALUE_MAX`), and names and words need some more.
pub(super) const MAX_REQUEST: usize = 256 << 10;

/// The longest value of a secret that follows a response, in bytes.
pub(super) const MAX_VALUE: usize = Dek::MAX_LEN;

/// The longest response in bytes: libvirt tells a definition of 10 MB, and JSON may double it.
pub(super) const MAX_RESPONSE: usize = 64 << 20;

/// How many bytes of definitions one response has before another one follows.
const PART: usize = 4 << 20;

/// A question about a secret, or a change of one.
#[derive(PartialEq, Eq)]
pub(super) enum SecretRequest<'a> {
    /// `provide SECRET DOMAIN own|definition|value`, and the key as the body.
    Provide {
        /// The secret that gets the key.
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
        /// The domain for which the guard may have defined it.
        domain: DomainUuid,
    },
    /// `drop-staged SECRET DOMAIN`
    DropStaged {
        /// The secret.
        secret: SecretUuid,
        /// The domain for which it may have been staged.
        domain: DomainUuid,
    },
    /// `reveal SECRET`: its definition and its value.
    Reveal(SecretUuid),
    /// `undefine SECRET`: one for vTPMs, whoever defined it.
    Undefine(SecretUuid),
}

/// A question to libvirt.
#[derive(PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// One about a secret.
    Secret(SecretRequest<'a>),
    /// `encrypt-vtpm DOMAIN SECRET`
    EncryptVtpm {
        /// The domain whose XML is to get `<encryption>`.
        domain: DomainUuid,
        /// The secret in that element.
        secret: SecretUuid,
    },
    /// `persist-vtpm-state DOMAIN`: its XML is to get `persistent_state='yes'`.
    PersistVtpmState(DomainUuid),
    /// `saved-runs DOMAIN`
    SavedRuns(DomainUuid),
    /// `metadata DOMAIN`
    Metadata(DomainUuid),
    /// `set-metadata DOMAIN`, and the guard's element as the body; none removes it.
    SetMetadata {
        /// The domain.
        domain: DomainUuid,
        /// The element.
        element: Option<&'a str>,
    },
    /// `guests`
    Guests,
    /// `guest`, with a name or a UUID as the body.
    Guest(&'a str),
}

impl<'a> Request<'a> {
    /// Returns the frame, in a buffer that is wiped.
    pub(super) fn to_frame(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let (words, body): (_, &[u8]) = match self {
            Self::Secret(request) => request.words_and_body(),
            Self::EncryptVtpm { domain, secret } => {
                (format!("encrypt-vtpm {domain} {secret}"), &[])
            }
            Self::PersistVtpmState(domain) => (format!("persist-vtpm-state {domain}"), &[]),
            Self::SavedRuns(domain) => (format!("saved-runs {domain}"), &[]),
            Self::Metadata(domain) => (format!("metadata {domain}"), &[]),
            Self::SetMetadata { domain, element } => {
                let body = element.unwrap_or_default().as_bytes();
                (format!("set-metadata {domain}"), body)
            }
            Self::Guests => ("guests".to_owned(), &[]),
            Self::Guest(name_or_uuid) => ("guest".to_owned(), name_or_uuid.as_bytes()),
        };
        to_frame(&[words.as_bytes(), b"\n", body], MAX_REQUEST)
    }

    /// Returns whether it changes nothing in libvirt.
    pub(super) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Secret(SecretRequest::Reveal(_))
                | Self::SavedRuns(_)
                | Self::Metadata(_)
                | Self::Guests
                | Self::Guest(_)
        )
    }

    /// Parses a frame's bytes; `None` if they are not a request.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let line_feed = frame.iter().position(|&byte| byte == b'\n')?;
        let words = std::str::from_utf8(&frame[..line_feed]).ok()?;
        let body = &frame[line_feed + 1..];
        let words: Vec<&str> = words.split(' ').collect();
        if let Some(request) = SecretRequest::parse(&words, body) {
            return Some(Self::Secret(request));
        }
        let request = match *words.as_slice() {
            ["encrypt-vtpm", domain, secret] => Self::EncryptVtpm {
                domain: domain.parse().ok()?,
                secret: secret.parse().ok()?,
            },
            ["persist-vtpm-state", domain] => Self::PersistVtpmState(domain.parse().ok()?),
            ["metadata", domain] => Self::Metadata(domain.parse().ok()?),
            ["set-metadata", domain] => {
                let element = std::str::from_utf8(body).ok()?;
                return Some(Self::SetMetadata {
                    domain: domain.parse().ok()?,
                    element: Some(element).filter(|element| !element.is_empty()),
                });
            }
            ["saved-runs", domain] => Self::SavedRuns(domain.parse().ok()?),
            ["guests"] => Self::Guests,
            ["guest"] => return std::str::from_utf8(body).ok().map(Self::Guest),
            _ => return None,
        };
        body.is_empty().then_some(request)
    }
}

impl<'a> SecretRequest<'a> {
    fn words_and_body(&self) -> (String, &'a [u8]) {
        match *self {
            Self::Provide {
                secret,
                domain,
                key,
                over,
            } => {
                let over = word(over);
                (format!("provide {secret} {domain} {over}"), key)
            }
            Self::Drop { secret, domain } => (format!("drop {secret} {domain}"), &[]),
            Self::DropStaged { secret, domain } => (format!("drop-staged {secret} {domain}"), &[]),
            Self::Reveal(secret) => (format!("reveal {secret}"), &[]),
            Self::Undefine(secret) => (format!("undefine {secret}"), &[]),
        }
    }

    fn parse(words: &[&str], body: &'a [u8]) -> Option<Self> {
        let request = match *words {
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
            _ => return None,
        };
        body.is_empty().then_some(request)
    }
}

/// What a key may replace in libvirt. If libvirt has the key already, it is not asked.
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
    /// There is no such secret, or no such domain.
    Absent,
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
    /// Whether the guard's secret was there, and is dropped.
    Dropped(bool),
    /// A secret, and whether a frame with its value follows.
    Secret {
        /// Its definition, in libvirt's XML.
        definition: String,
        /// Its value.
        value: Revealed,
    },
    /// Whether there was a secret, which is undefined now.
    Undefined(bool),
    /// Whether the domain XML was changed; if not, it has no emulated TPM, or one that reads so
    /// already.
    Redefined(bool),
    /// The domain's saved runs.
    SavedRuns(SavedRuns),
    /// The guard's element in the domain's definitions.
    Metadata(Metadata),
    /// A job of the domain is in the way.
    Busy,
    /// The requested guests. The XML of one that libvirt did not tell in time is empty.
    Guests(Vec<Guest>),
    /// Some of the requested guests: another response with guests follows.
    SomeGuests(Vec<Guest>),
    /// [`SecretError::Refused`]
    Refused(String),
    /// [`SecretError::Unreachable`]
    Unreachable(String),
    /// [`SecretError::Conflict`]
    Conflict(String),
    /// [`SecretError::Changed`]
    Changed,
}

/// Whether libvirt discloses a secret's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Revealed {
    /// It has no value.
    None,
    /// The secret is private.
    Private,
    /// It is in the next frame.
    Follows,
}

impl Response {
    /// The responses that are sent for this one: the definitions of ten thousand guests are too long for one.
    pub(super) fn into_parts(self) -> Vec<Self> {
        let Self::Guests(guests) = self else {
            return vec![self];
        };
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for guest in guests {
            if bytes >= PART {
                parts.push(Self::SomeGuests(std::mem::take(&mut part)));
                bytes = 0;
            }
            bytes += guest.xml.len();
            part.push(guest);
        }
        parts.push(Self::Guests(part));
        parts
    }

    /// Returns the frame.
    pub(super) fn to_frame(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        to_frame(&[&serde_json::to_vec(self)?], MAX_RESPONSE)
    }

    /// Parses a frame's bytes.
    pub(super) fn parse(frame: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(frame)?)
    }
}

impl From<SecretError> for Response {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Refused(words) => Self::Refused(words),
            SecretError::Unreachable(words) | SecretError::NoHelper(words) => {
                Self::Unreachable(words)
            }
            SecretError::Starting | SecretError::OfGuest(_) => Self::Unreachable(error.to_string()),
            SecretError::Conflict(words) => Self::Conflict(words),
            SecretError::Changed => Self::Changed,
        }
    }
}

/// Returns the frame of a secret's value, in a buffer that is wiped.
pub(super) fn value_frame(value: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    to_frame(&[value], MAX_VALUE)
}
