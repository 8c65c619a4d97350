//! A fleet: hosts that exchange facts through a shared store, which none of them has to trust: a database that a
//! program of its own speaks with, `store-SCHEME`.
//!
//! | file | job |
//! | --- | --- |
//! | `fact` | facts and TPM states, as a shared store and its program see them: they check nothing in a body |
//! | `claim` | what facts say, and whether that is to be believed |
//! | `status` | what a wrapped key counts as |
//! | `tpm_state` | what a host says of a TPM state |
//! | `client` | the side of `vtpm-guard` and of the hook |
//! | `shared` | a shared store as facts are exchanged with it: the client, or a test |
//! | `program` | what this project's own programs are made of |
//! | `protocol` | what both speak; docs/fleet-store-programs.md has it for others |

pub mod claim;
pub(crate) mod client;
mod error;
mod fact;
pub mod program;
mod protocol;
pub(crate) mod shared;
pub mod status;
pub mod tpm_state;

#[cfg(feature = "internals")]
pub use client::Facts;
pub use client::{Client, Found, Pushed};
pub use error::FleetError;
pub use fact::{Cursor, Fact, FactId, Kind, MAX_STATE, Scope, Search, State, StateInfo};
pub use protocol::{Page, Status, Trouble};
#[cfg(feature = "internals")]
pub use {fact::MAX_BODY, protocol::Initialized};

/// What a reply of a store's program has in it.
#[cfg(feature = "internals")]
pub type Items = (Vec<Fact>, Vec<State>);

/// Whether these are the bytes of a request to a store's program; and what facts and states its reply has, if they are
/// one, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn read_message(document: &[u8]) -> (bool, Option<Items>) {
    let request = serde_json::from_slice::<protocol::Request<'_>>(document);
    let reply = serde_json::from_slice::<protocol::Reply>(document).ok();
    let items = |reply: protocol::Reply| {
        let (facts, states) = (reply.facts, reply.states);
        (facts.unwrap_or_default(), states.unwrap_or_default())
    };
    (request.is_ok(), reply.map(items))
}
