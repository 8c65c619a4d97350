//! Identities, each a type of its own: a domain's UUID cannot be
//! passed where a secret's is wanted, and once parsed nobody handles them as strings.

use std::fmt;
use std::str::FromStr;

use crate::domain::MAX_KEYS;

/// A text that is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a UUID")]
pub struct UuidError(pub String);

/// Whether a name could be read as a UUID, by this program or by libvirt, which takes dashes between any two bytes. Wherever
/// they are, it is no name that anybody needs.
#[must_use]
pub fn is_like_a_uuid(name: &str) -> bool {
    let mut digits = name.trim().chars().filter(|&c| c != '-');
    let is_hex = digits.by_ref().take(32).filter(char::is_ascii_hexdigit);
    is_hex.count() == 32 && digits.next().is_none()
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Reads a UUID in the spellings that people and programs write: upper or lower case,
            /// with or without dashes, with white space around it.
            pub fn parse(text: &str) -> Result<Self, UuidError> {
                // The lengths leave out the forms `urn:uuid:…` and `{…}`.
                Some(text.trim())
                    .filter(|trimmed| matches!(trimmed.len(), 32 | 36))
                    .and_then(|trimmed| uuid::Uuid::try_parse(trimmed).ok())
                    .map(Self)
                    .ok_or_else(|| UuidError(text.to_owned()))
            }

            /// A new random UUID (version 4).
            #[must_use]
            #[allow(dead_code, reason = "each identity has the same functions")]
            pub fn random() -> Self {
                Self(uuid::Uuid::new_v4())
            }

            /// The UUID of these sixteen bytes, most significant first (RFC 9562).
            #[must_use]
            #[allow(dead_code, reason = "each identity has the same functions")]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(uuid::Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes, most significant first (RFC 9562).
            #[must_use]
            #[allow(dead_code, reason = "each identity has the same functions")]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        /// Lower case with hyphens, as the store keeps it.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl FromStr for $name {
            type Err = UuidError;

            fn from_str(text: &str) -> Result<Self, UuidError> {
                Self::parse(text)
            }
        }
    };
}

uuid_type! {
    /// A libvirt domain's UUID; it names the domain's vTPM too.
    DomainUuid
}
uuid_type! {
    /// The UUID of a libvirt secret, as `<encryption secret='…'/>` names it.
    SecretUuid
}
uuid_type! {
    /// The UUID of a key provider's row. A provider that is deleted and imported again gets
    /// a new one; its key id stays.
    ProviderUuid
}
uuid_type! {
    /// The UUID of a slot: a KEK, wrapped by a key manager.
    SlotUuid
}
uuid_type! {
    /// The UUID by which a fleet's shared store knows a host. `fleet join` makes it.
    HostUuid
}

/// The primary key of a row in `key_ref`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct KeyRefId(pub i64);

impl KeyRefId {
    /// Stands for a key of the domain XML that has no row: the number of such a key, from 0.
    #[must_use]
    pub(crate) fn travelling(number: usize) -> Self {
        Self(i64::MIN.saturating_add_unsigned(number as u64))
    }

    /// Stands for a key of the fleet's store that has no row here: the number of such a key, from 0.
    #[must_use]
    pub fn of_fleet(number: usize) -> Self {
        Self::travelling(MAX_KEYS + number.min(MAX_KEYS - 1))
    }

    /// Whether it stands for a key without a row, wherever that comes from.
    #[must_use]
    pub(crate) fn is_travelling(self) -> bool {
        self < Self::travelling(2 * MAX_KEYS)
    }

    /// Whether it stands for a key of the fleet's store.
    #[must_use]
    pub fn is_of_fleet(self) -> bool {
        self.is_travelling() && self >= Self::of_fleet(0)
    }
}

impl fmt::Display for KeyRefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_read_as_a_uuid_anywhere_is_like_one() {
        for name in [
            "6695eb01-f6a4-8304-79aa-97f2502e193f",
            "6695EB01F6A4830479AA97F2502E193F",
            " 6695eb01-f6a4-8304-79aa-97f2502e193f\n",
            "6695eb01f6a48304-79-aa-97f2-502e193f",
            "-6695eb01f6a4830479aa97f2502e19--3f-",
        ] {
            assert!(is_like_a_uuid(name), "{name:?}");
        }
        for name in [
            "",
            "----",
            "vm1",
            "6695eb01-f6a4-8304-79aa-97f2502e193",
            "6695eb01-f6a4-8304-79aa-97f2502e193f0",
            "6695eb01-f6a4-8304-79aa-97f2502e193g",
            "vm-6695eb01-f6a4-8304-79aa-97f2502e193f",
            "6695eb01 f6a4 8304 79aa 97f2502e193f",
        ] {
            assert!(!is_like_a_uuid(name), "{name:?}");
        }
    }
}
