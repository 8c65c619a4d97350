//! The commands, one file or folder each.

pub(crate) mod adopt;
pub(crate) mod captures;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod encrypt;
pub(crate) mod explain;
pub(crate) mod fleet;
pub(crate) mod history;
pub(crate) mod key;
pub(crate) mod metrics;
pub(crate) mod nagios;
pub(crate) mod open;
pub(crate) mod provider;
pub(crate) mod repair;
pub(crate) mod replay;
pub(crate) mod reset;
pub(crate) mod stage;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod store;
mod store_rebuild;
pub(crate) mod sync;
pub(crate) mod unstage;
