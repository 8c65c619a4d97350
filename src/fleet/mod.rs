//! The shared store of a fleet: facts that hosts exchange, in a database that a program of its own speaks with,
//! `store-SCHEME`.
//!
//! [`client`] is the side of `vtpm-guard` and of the hook, [`program`] what this project's own programs are made of,
//! [`protocol`] what both speak; docs/fleet-store-programs.md has it for others. [`fact`] is what is exchanged, as a
//! program sees it: it checks nothing in a body, and nothing here trusts what comes back.

pub(crate) mod client;
mod error;
mod fact;
pub mod program;
mod protocol;

pub use client::{Client, Facts, Found, Pushed};
pub use error::FleetError;
pub use fact::{Cursor, Fact, FactId, Kind, MAX_BODY, MAX_STATE, Scope, Search, State, StateInfo};
pub use protocol::{Initialized, Page, Status, Trouble};
