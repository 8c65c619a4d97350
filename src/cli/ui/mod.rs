//! What answers, errors and questions are made of; knows no command.

pub(crate) mod answer;
pub(crate) mod check_table;
pub(crate) mod describe;
pub(crate) mod error;
pub(crate) mod fleet;
pub(crate) mod guest_errors;
pub(crate) mod host_errors;
pub(crate) mod passphrase;
pub(crate) mod printer;
pub(crate) mod progress;
pub(crate) mod provider_errors;
pub(crate) mod slot_errors;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod travelling;
pub(crate) mod wrap;
