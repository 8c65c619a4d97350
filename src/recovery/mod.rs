//! The recovery file, which carries a provider's key from host to host.

pub mod file;
pub mod passphrase;
