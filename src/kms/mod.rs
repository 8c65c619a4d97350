//! Key managers and HSMs: each kind is a program of its own, `kms-KIND`, which wraps and unwraps
//! provider keys (KEKs).
//!
//! [`client`] is the side of `vtpm-guard`, [`plugin`] what this project's own plugins are made of,
//! [`protocol`] what both speak; docs/kms-plugins.md has it for others. The hook uses none of it: a start
//! asks no key manager.

pub(crate) mod client;
mod error;
mod managers;
pub mod plugin;
mod protocol;
pub(crate) mod settings;

pub use client::{Client, WrappedKek};
pub use error::KmsError;
pub(crate) use managers::KeyManagers;
pub use protocol::Trouble;
pub use settings::{KmsSettings, Setting, is_kind};

/// Whether these are the bytes of a request to a plugin, and of a reply of one, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_message(document: &[u8]) -> (bool, bool) {
    let request = serde_json::from_slice::<protocol::Request<'_>>(document);
    let reply = serde_json::from_slice::<protocol::Reply>(document);
    (request.is_ok(), reply.is_ok())
}
