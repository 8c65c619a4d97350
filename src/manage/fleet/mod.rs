//! A fleet: what hosts tell each other through the shared store.
//!
//! | file | job |
//! | --- | --- |
//! | `connection` | the program that speaks with the shared store |
//! | `exchange` | pushes, pulls, compares |
//! | `guests` | what the exchange has to know of this host's guests |
//! | `round` | one exchange of this host, and what follows from it |
//! | `announced` | what hosts announced: provider keys, slots, successors |
//! | `opening` | announced keys are opened through their slots |
//! | `report` | how this host is, for the others |
//! | `rotation` | a provider's next key, once all hosts have opened it |
//! | `init`, `join`, `leave`, `lost`, `status`, `accept` | what an administrator asks for |
//! | `states` | the TPM states in the shared store |
//! | `tell` | facts pushed |
//! | `elsewhere` | guests and history of other hosts |

mod accept;
mod announced;
mod connection;
mod elsewhere;
pub(crate) mod exchange;
mod guests;
mod init;
mod join;
mod leave;
mod lost;
mod opening;
mod report;
pub(crate) mod rotation;
mod round;
pub(crate) mod states;
mod status;
mod tell;

pub(crate) use accept::{AcceptedProvider, accept};
pub(crate) use announced::announced_name;
pub(in crate::manage) use announced::{is_next_key, kept_name};
pub(crate) use connection::{FleetCommandError, waiting};
#[cfg(test)]
pub(crate) use elsewhere::{FleetEvent, FleetGuest};
pub(crate) use elsewhere::{FleetGuests, FleetHistory, fleet_guests, fleet_history};
pub(crate) use init::{Initialized, init, sql};
pub(crate) use join::{Joined, join, to_accept};
pub(crate) use leave::{Left, leave};
pub(crate) use lost::{LostHost, lost};
pub(crate) use opening::OpenedKey;
pub(crate) use round::{FleetRound, Follower, round, round_of_member};
pub(crate) use status::{FleetHost, FleetStatus, status};
