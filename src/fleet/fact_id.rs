//! The identity of a fact: a hash of what it says, so that one that arrives three times is one fact.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::DomainUuid;
use crate::key::hex;
use crate::key::wrap::WrappedDek;

/// SHA-256 of what a fact says. Written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FactId([u8; Self::LEN]);

impl FactId {
    /// The length in bytes.
    pub const LEN: usize = 32;

    /// That of a key: `SHA-256(domain || wrapped key)`.
    #[must_use]
    pub fn of_key(domain: DomainUuid, wrapped: &WrappedDek) -> Self {
        Self::of(&[domain.as_bytes(), wrapped.as_bytes()])
    }

    /// That of a TPM state: `SHA-256(domain || data)`.
    #[must_use]
    pub fn of_state(domain: DomainUuid, data: &[u8]) -> Self {
        Self::of(&[domain.as_bytes(), data])
    }

    /// That of any other fact: `SHA-256(kind || 0x00 || body)`.
    #[must_use]
    pub fn of_body(kind: &str, body: &str) -> Self {
        Self::of(&[kind.as_bytes(), &[0], body.as_bytes()])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        Self(hash.finalize().into())
    }

    /// Reads one from its bytes; `None` unless there are exactly [`Self::LEN`].
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for FactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<FactId> for String {
    fn from(id: FactId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for FactId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; Self::LEN];
        match hex::decode(text.as_bytes(), &mut bytes) {
            Some(()) => Ok(Self(bytes)),
            None => Err("not the id of a fact"),
        }
    }
}
