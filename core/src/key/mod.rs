//! Keys: their identities, their boxes, how one wraps another, how a host seals them.

pub mod dek;
mod derive;
pub mod hex;
pub mod id;
pub mod kek;
pub mod new_key;
pub mod random;
pub mod statement;
pub mod wrap;
