//! Why a clone did not get a key.

use std::path::PathBuf;

use super::original::Original;
use crate::ids::{KeyRefId, SecretUuid};
use crate::manage::guests::GuestRef;
use crate::manage::stopped_guest::StoppedError;
use crate::tpm_copies::RestoreError;

/// Why a clone did not get a key. Nothing has changed, except where a variant says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloneError {
    /// A guest cannot be had, or the host failed.
    #[error(transparent)]
    Guest(StoppedError),
    /// The original is the clone.
    #[error("itself")]
    Itself(GuestRef),
    /// No other guest with the clone's name has a key.
    #[error("no namesake")]
    NoNamesake(GuestRef),
    /// Neither libvirt nor the store knows the original.
    #[error("unknown original")]
    UnknownOriginal(String),
    /// The clone's XML names no secret.
    #[error("not encrypted")]
    NotEncrypted(GuestRef),
    /// The clone's XML does, and its TPM state is not encrypted.
    #[error("unencrypted state")]
    PlainState(GuestRef),
    /// The clone's TPM state cannot be read.
    #[error("{1}")]
    UnreadableState(GuestRef, String),
    /// No key of the original opens the clone's TPM state.
    #[error("no key opens it")]
    NotOpened(Original, GuestRef, NotOpened),
    /// The clone's own key opens its TPM state, and is retired.
    #[error("retired")]
    Retired(GuestRef, KeyRefId),
    /// The clone runs, and would get another state.
    #[error("running")]
    Running(GuestRef),
    /// The original's state could not be written in the clone's place.
    #[error("{1}")]
    NotRestored(GuestRef, RestoreError),
    /// The original has used its TPM, and no state of it is left here: the clone would get a new
    /// TPM. Its state belongs in this place.
    #[error("no state left")]
    NoStateLeft(Original, GuestRef, PathBuf),
    /// A state of the original's may be left here: why it could not be read, or its keys not be tried.
    #[error("{1}")]
    NotTried(Original, String),
    /// The original is bound to no provider of this host.
    #[error("not bound")]
    NotBound(Original, GuestRef),
    /// Both name this secret, and each would have a key of its own.
    #[error("one secret")]
    OneSecret(Original, GuestRef, SecretUuid),
}

/// What there is of the original's keys, none of which opens the clone's TPM state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// Others; why one could not be tried, if so.
    OtherKeys(Option<String>),
    /// None on this host, and none in the clone's XML that opens it; why one could not be tried, if so.
    NoKey(Option<String>),
    /// One in the clone's XML, which needs the provider of this name; it is not on this host.
    NoProvider(String),
}

impl<E: Into<StoppedError>> From<E> for CloneError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}
