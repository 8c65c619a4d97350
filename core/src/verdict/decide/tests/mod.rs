//! The decision table (docs/decision-table.md): its groups of rows, in their order. Each test names
//! its rows; `rows` holds that the table and the tests name the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod given;
mod properties;
mod rows;

mod unencrypted;

mod state;

mod one_key;

mod several_keys;

mod refuted_keys;

mod missing_state;

mod placeholders;

mod no_rows;

mod elsewhere;
mod fleet;

mod host_secret;

mod store;

mod travelling;

mod verdict;
