//! The administrator's command as an administrator runs it: the built program on a state
//! directory of its own, its answers, its exit statuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]

mod absurd_recovery;
mod adopt;
mod ambiguous;
mod bad_input;
#[path = "../kms/built.rs"]
mod built;
mod check;
mod elsewhere;
mod encrypt;
mod env;
mod help;
mod history;
mod hostile_names;
mod json_contract;
mod key;
mod key_import;
mod metrics;
mod monitoring;
#[path = "../privileges/mod.rs"]
#[allow(dead_code, reason = "shared with tests of other programs")]
mod privileges;
#[path = "../programs/mod.rs"]
mod programs;
mod protected;
mod provider;
mod prune;
mod recovery;
mod reseal;
mod rotate;
mod slots;
mod state;
mod store;
mod warnings;
