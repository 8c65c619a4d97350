//! What the other hosts of a fleet say of a guest.

use super::Facts;
use crate::clock::Timestamp;
use crate::domain::{Domain, Vtpm};
use crate::verdict::facts::Arrival;

/// What the other hosts of a fleet say of a guest. Its keys in the shared store are among those that travel with it
/// ([`super::Travelling`]), and its TPM states among the saved copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// What became of the question to the shared store.
    pub question: FleetQuestion,
    /// Where the guest runs, as another host has said last, unless it has run here since.
    pub runs_on: Option<RunsOn>,
    /// How much of the answer was not what it says it is: a key that does not authenticate, a state that none of the
    /// guest's keys opens, a statement that nobody has signed.
    pub ignored: usize,
}

/// The question to the shared store, which is asked at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FleetQuestion {
    /// There is nobody to ask.
    #[default]
    None,
    /// It can be asked.
    Open,
    /// It has answered.
    Answered,
    /// It has not: says why.
    Silent(String),
}

/// Where a guest runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsOn {
    /// The host's name.
    pub host: String,
    /// Since when.
    pub since: Timestamp,
}

impl Facts {
    /// Where the guest runs, if a start here would be a second run. A guest that migrates to this host runs where it
    /// comes from until it is here.
    #[must_use]
    pub fn second_run(&self) -> Option<&RunsOn> {
        let has_emulated = |domain: &Domain| matches!(domain.vtpm, Some(Vtpm::Emulator(_)));
        let is_guarded = self.domain.as_ref().is_ok_and(has_emulated);
        let migrates = self.arrival == Some(Arrival::Migration);
        self.fleet
            .runs_on
            .as_ref()
            .filter(|_| is_guarded && !migrates)
    }
}
