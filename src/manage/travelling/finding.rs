//! What an administrator should know about a guest's metadata.

use serde::Serialize;

use crate::ids::{DomainUuid, KeyRefId};
use crate::key::wrap::Generation;

/// A key in use that cannot travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct StayingKey {
    pub(crate) key_ref: KeyRefId,
    pub(crate) reason: StayReason,
}

/// Why a key cannot travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StayReason {
    /// It is not a wrapped key of a format that this program knows.
    UnknownFormat,
    /// It is longer than what is read from an XML.
    TooLong,
    /// The guest has more keys than are read from an XML.
    TooMany,
}

/// Something about a guest's metadata that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum TravelFinding {
    /// Its XML has a key that this host does not have; it stays there.
    UnknownKey {
        generation: Generation,
        provider: String,
    },
    /// That key is newer than those of this host: nothing was written.
    NewerKey {
        generation: Generation,
        provider: String,
    },
    /// Its XML has keys of another guest, which this host does not have: nothing was written.
    OtherGuest { domain: Option<DomainUuid> },
    /// Its XML has an element of the guard that cannot be read: nothing was written.
    Unreadable,
    /// This key of its own does not travel.
    Stays(StayingKey),
    /// What this host wrote is to go, and the guest is not defined here any more.
    NotHere,
}

impl TravelFinding {
    /// Whether nothing was written because of it.
    pub(crate) fn prevents(&self) -> bool {
        matches!(
            self,
            Self::NewerKey { .. } | Self::OtherGuest { .. } | Self::Unreadable | Self::NotHere
        )
    }
}
