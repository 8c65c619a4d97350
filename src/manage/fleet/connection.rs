//! The program that speaks with the shared store of this host's configuration.

use std::time::Duration;

use super::exchange::ExchangeError;
use crate::clock::Deadline;
use crate::config::{Config, FleetStates, StoreAddress};
use crate::fleet::{Client, FleetError};
use crate::manage::host::{Host, HostError};
use crate::manage::name::BadName;
use crate::manage::providers::ProviderError;
use crate::manage::sync::SyncError;
use crate::store::{Access, Membership, Store, StoreError};

/// How long the program may take to begin.
const START: Duration = Duration::from_secs(10);

/// Why a command of a fleet failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetCommandError {
    /// The configuration names no shared store.
    #[error("the configuration names no shared store")]
    NoAddress,
    /// This text is no address of a shared store.
    #[error("not the address of a shared store")]
    BadAddress(String),
    /// This host is in no fleet.
    #[error("this host is in no fleet")]
    NoMember,
    /// There is no such host.
    #[error("no host of this fleet has that name or UUID")]
    NoHost(String),
    /// It is the host on which this was said.
    #[error("that is this host")]
    ThisHost,
    /// Several hosts have this name.
    #[error("several hosts of this fleet have that name")]
    AmbiguousHost(String),
    /// Nobody has announced such a provider.
    #[error("no host of this fleet has announced such a provider")]
    NotAnnounced(String),
    /// Several keys were announced under that name.
    #[error("several keys were announced under that name")]
    AmbiguousKey(String, Vec<crate::key::id::KeyId>),
    /// A host cannot be called so, and why.
    #[error("not a name for a host")]
    BadName(String, BadName),
    /// The announced key does not open here, and why.
    #[error("its key does not open on this host")]
    NotOpened(String, Vec<String>),
    /// The shared store has no end of facts.
    #[error("the shared store has more facts than one exchange takes")]
    Endless,
    /// What this host has to say was not said: so many changes.
    #[error("not all changes of this host could be told")]
    Untold(usize),
    /// Another exchange is at it, or what does not go with one: leaving, accepting a key.
    #[error("another run of sync, or a command that does not run beside one, has not ended")]
    Running,
    /// Another provider of this host has its key.
    #[error("another provider of this host has its key")]
    OtherName(String, String),
    /// The shared store.
    #[error(transparent)]
    Shared(#[from] FleetError),
    /// A provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The host.
    #[error(transparent)]
    Host(HostError),
}

impl FleetCommandError {
    /// Whether this host is in no fleet, by its configuration or by its store.
    pub(crate) fn is_of_no_fleet(&self) -> bool {
        matches!(self, Self::NoAddress | Self::NoMember)
    }

    /// Whether this host's own store is newer than this program: a newer release has been installed since it was started.
    pub(crate) fn is_of_newer_store(&self) -> bool {
        matches!(
            self,
            Self::Host(HostError::Store(StoreError::TooNew { .. }))
        )
    }
}

impl<E: Into<HostError>> From<E> for FleetCommandError {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

impl From<SyncError> for FleetCommandError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Running => Self::Running,
            SyncError::Host(error) => Self::Host(error),
        }
    }
}

impl From<ExchangeError> for FleetCommandError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Shared(error) => error.into(),
            ExchangeError::Store(error) => StoreError::into(error),
            ExchangeError::NoMember => Self::NoMember,
            ExchangeError::Endless => Self::Endless,
        }
    }
}

/// The store of a host that is in a fleet, and its membership.
pub(super) fn member(
    host: &Host,
    access: Access,
) -> Result<(Store, Membership), FleetCommandError> {
    let store = host.store(access)?.ok_or(FleetCommandError::NoMember)?;
    let member = store.membership()?.ok_or(FleetCommandError::NoMember)?;
    Ok((store, member))
}

/// Starts the program, which connects with the first question.
pub(super) fn connect(config: &Config) -> Result<Client, FleetCommandError> {
    let address = config.fleet.store.as_ref();
    connect_to(config, address.ok_or(FleetCommandError::NoAddress)?)
}

/// The same, with another address.
pub(super) fn connect_to(
    config: &Config,
    address: &StoreAddress,
) -> Result<Client, FleetCommandError> {
    let deadline = Deadline::after(START);
    let credentials = &config.fleet.credentials;
    Ok(Client::connect(address, credentials, deadline)?)
}

/// How much waits to be told to the fleet. What waits of TPM states is not counted where none is sent any more.
pub(crate) fn waiting(host: &Host, store: &Store) -> Result<usize, StoreError> {
    let stay = |config: Config| config.fleet.states == FleetStates::Off;
    if host.config().is_ok_and(stay) {
        store.notes_len()
    } else {
        store.outbox_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_later_release_is_told_from_one_that_is_locked() {
        let of = |error: StoreError| FleetCommandError::from(error).is_of_newer_store();
        assert!(of(StoreError::TooNew { found: 9, known: 1 }));
        assert!(!of(StoreError::Locked));
    }
}
