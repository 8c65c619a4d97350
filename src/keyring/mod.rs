//! The sealed KEKs of this host: `keys/KEYID` next to the store; with `provider.cache = "boot"` those that a key
//! manager opens are in the same form on tmpfs.
//!
//! Each is a file of mode 0600: a line with its format (1) and its seal, then the sealed key.
//!
//! ```text
//! vtpm-guard-kek 1 systemd-creds host+tpm2      the output of `systemd-creds encrypt` (base64)
//! vtpm-guard-kek 1 systemd-creds host           the same
//! vtpm-guard-kek 1 root-only                    the key, 64 hexadecimal digits
//! ```

mod dir;
mod error;
mod host_key;
mod keks;
mod places;
pub mod seal;
mod shared;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
mod tests;
pub mod unlock;

pub use error::KeyringError;
pub use keks::{Keyring, Resealed, StoredKek};
pub use places::KekPlace;
#[cfg(test)]
pub use seal::SealError;
pub use seal::{Seal, WeakerSeal};
