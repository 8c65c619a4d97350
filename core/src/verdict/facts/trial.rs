//! What trying the wrapped keys gave.

use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::key::wrap::UnwrapError;

/// Whether a provider's KEK opens on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekState {
    /// It opens.
    Opens,
    /// It does not: says why.
    Sealed(String),
    /// It is not on this host.
    NotHere,
    /// A key manager has opened it too long ago.
    Expired,
    /// It had not opened when the time was over.
    TimedOut,
}

/// What trying one row's wrapped DEK gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// The KEK of this id opened it.
    Opened {
        /// The KEK's id.
        key_id: KeyId,
        /// Rows of equal number hold the same DEK.
        dek: DekNumber,
        /// What the TPM state says of this DEK.
        proof: Proof,
    },
    /// It did not open.
    NotOpened(NotOpened),
}

impl Trial {
    /// The DEK that it opened to.
    #[must_use]
    pub fn dek(&self) -> Option<DekNumber> {
        match self {
            Self::Opened { dek, .. } => Some(*dek),
            Self::NotOpened(_) => None,
        }
    }

    /// Whether it opened to the DEK that the TPM state was encrypted with.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        let proven = Proof::Proven;
        matches!(self, Self::Opened { proof, .. } if *proof == proven)
    }

    /// Whether one of a guest's keys opens its TPM state; or why one could not be tried that may.
    pub fn any_opens<'t>(
        mut trials: impl Iterator<Item = &'t Self> + Clone,
    ) -> Result<bool, &'t NotOpened> {
        if trials.clone().any(Self::is_proven) {
            return Ok(true);
        }
        trials.find_map(Self::untried).map_or(Ok(false), Err)
    }

    /// Why it could not be tried, if it may open another time.
    #[must_use]
    pub fn untried(&self) -> Option<&NotOpened> {
        match self {
            Self::NotOpened(why) if !self.is_damaged() => Some(why),
            _ => None,
        }
    }

    /// Whether it never opens. One that a later release has wrapped may be whole.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let Self::NotOpened(why) = self else {
            return false;
        };
        matches!(why, NotOpened::Corrupt { is_newer, .. } if !is_newer)
    }
}

/// Why a wrapped DEK did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// No provider on this host has the KEK that wrapped it.
    NoProvider {
        /// The id of the KEK that is missed.
        key_id: KeyId,
    },
    /// A provider has that key id, but its KEK cannot be opened here.
    Sealed {
        /// The KEK's id.
        key_id: KeyId,
        /// Why it does not open.
        reason: String,
    },
    /// A provider has that key id, but this host does not hold its KEK.
    NotHere {
        /// The KEK's id.
        key_id: KeyId,
    },
    /// This host holds its KEK, and may not use it: a key manager has opened it too long ago.
    Expired {
        /// The KEK's id.
        key_id: KeyId,
    },
    /// A provider has that key id, but its KEK had not opened when the time was over.
    TimedOut {
        /// The KEK's id.
        key_id: KeyId,
    },
    /// Its own KEK is there and the bytes do not authenticate, or they are no wrapped DEK of a format
    /// that is known.
    Corrupt {
        /// Says how.
        reason: String,
        /// Whether it may well be whole: its format is that of a later release.
        is_newer: bool,
    },
}

impl From<UnwrapError> for NotOpened {
    fn from(error: UnwrapError) -> Self {
        Self::Corrupt {
            reason: error.to_string(),
            is_newer: error == UnwrapError::TooNew,
        }
    }
}

/// A number that stands for a DEK among the rows of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DekNumber(pub usize);

/// What the TPM state says of a DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its MAC over the state verifies: this DEK opens this TPM.
    Proven,
    /// The state is encrypted, and not with this DEK.
    Refuted,
    /// No encrypted state could prove or refute it.
    None,
}

/// Whose DEK is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// The one of this row.
    Row(KeyRefId),
    /// The one that the verdict's `create-key` repair makes.
    Created,
}
