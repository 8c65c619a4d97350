//! `state list --fleet`: the TPM states in the fleet's store.

use serde::Serialize;

use super::connection::{FleetCommandError, connect};
use crate::clock::Timestamp;
use crate::fleet::tpm_state::SignedState;
use crate::manage::guests::GuestRef;
use crate::manage::host::{Host, default_deadline};

/// How many states are listed.
const LIMIT: u32 = 10_000;

/// A TPM state in the fleet's store, as its host has described it; nothing of it is verified before it is restored.
#[derive(Debug, Serialize)]
pub(crate) struct FleetState {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// The host that has saved it.
    pub(crate) host: Option<String>,
    /// When the run ended that it is of.
    pub(crate) saved_at: Timestamp,
    /// By which it is named.
    pub(crate) id: String,
}

/// The TPM states of the fleet's store.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct FleetStates {
    pub(crate) states: Vec<FleetState>,
    /// Whether there may be older ones.
    #[serde(skip)]
    pub(crate) is_cut: bool,
}

/// All TPM states of the fleet's store, the newest first.
pub(crate) fn fleet_states(host: &Host) -> Result<FleetStates, FleetCommandError> {
    let mut client = connect(&host.config()?)?;
    let found = client.states(None, LIMIT, default_deadline())?;
    let is_cut = is_cut(found.more, found.states.len());
    let states = found.states.into_iter().map(|info| {
        let read = SignedState::read(&info, info.domain);
        let says = read.as_ref().map(SignedState::unverified);
        FleetState {
            guest: GuestRef::of_uuid(info.domain, says.map(|says| says.note.name.clone())),
            host: says.map(|says| says.host_name.clone()),
            saved_at: info.at,
            id: info.id.to_string(),
        }
    });
    let states = states.collect();
    Ok(FleetStates { states, is_cut })
}

/// Whether there may be older states than so many that the store has listed, which says whether it has more of those that it
/// was asked for.
fn is_cut(has_more: bool, listed: usize) -> bool {
    has_more || listed >= LIMIT as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_may_be_older_ones_where_the_store_or_the_limit_has_ended_the_list() {
        let limit = LIMIT as usize;
        for (has_more, listed, may_be) in [
            (false, 0, false),
            (false, limit - 1, false),
            (false, limit, true),
            (true, 1, true),
        ] {
            assert_eq!(is_cut(has_more, listed), may_be, "{has_more}, {listed}");
        }
    }
}
