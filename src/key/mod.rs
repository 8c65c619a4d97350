//! Keys: their identities, their boxes, how one wraps another, how a host seals them.

pub mod dek;
mod derive;
pub(crate) mod hex;
pub mod id;
pub mod kek;
pub mod keyring;
pub mod random;
pub mod seal;
pub mod wrap;
