//! Key providers: the recovery file that carries one from host to host.

pub mod file;
pub mod passphrase;
