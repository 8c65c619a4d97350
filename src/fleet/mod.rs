//! A fleet: hosts that exchange facts through a shared store, which none of them has to trust.
//!
//! | file | job |
//! | --- | --- |
//! | `fact` | facts and TPM states as a shared store keeps them |
//! | `claim` | what facts say |
//! | `status` | what a wrapped key counts as |

pub mod claim;
mod fact;
pub mod status;

pub use fact::{Cursor, Fact, FactId, Kind, Scope, Search, State, StateInfo};
