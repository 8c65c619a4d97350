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
