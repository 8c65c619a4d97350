//! The protocol between `vtpm-guard` and a plugin, over the plugin's stdin and stdout.
//!
//! Both directions carry [frames](crate::host::frame). A request and a reply are one JSON document each;
//! neither ever contains a key. `wrap` and `unwrap`, and the replies to them, are followed by a frame of
//! raw bytes: the KEK, or what the key manager made of it. docs/kms-plugins.md describes it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::settings::Setting;
use crate::host::conversation::troubles;

/// The version of the protocol.
pub(super) const VERSION: u32 = 1;

/// The longest JSON document, in bytes.
pub(super) const MAX_DOCUMENT: usize = 64 << 10;

/// The longest wrapped KEK, in bytes.
pub(super) const MAX_BLOB: usize = 64 << 10;

/// A question to a plugin.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request<'a> {
    /// The first: the settings of its section, which it checks. It asks no key manager.
    Hello {
        /// [`VERSION`].
        protocol: u32,
        /// The section, without `kind` and `timeout`.
        settings: Cow<'a, BTreeMap<String, Setting>>,
    },
    /// Whether the key manager answers, and takes the credentials.
    Status {
        /// How long it may take, in milliseconds.
        deadline_ms: u64,
    },
    /// Wraps the KEK of the frame that follows.
    Wrap {
        /// How long it may take, in milliseconds.
        deadline_ms: u64,
        /// Which key of the key manager wraps it.
        remote_key: Cow<'a, str>,
        /// What is authenticated with it, where the key manager can.
        context: Cow<'a, str>,
    },
    /// Unwraps what is in the frame that follows.
    Unwrap {
        /// How long it may take, in milliseconds.
        deadline_ms: u64,
        /// Which key of the key manager has wrapped it.
        remote_key: Cow<'a, str>,
        /// The version of that key, as the reply to `wrap` named it.
        remote_version: Option<Cow<'a, str>>,
        /// What was authenticated with it.
        context: Cow<'a, str>,
    },
}

/// A plugin's answer: `"ok": true` with what was asked for, or `"ok": false` with `error` and `message`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Whether it was done.
    pub(super) ok: bool,
    /// To `hello`: [`VERSION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<u32>,
    /// To `hello`: the kind of the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    /// To `hello`: the plugin's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// To `status`: what the key manager says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// To `wrap`: the version of the key that wrapped, where the key manager has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remote_version: Option<String>,
    /// What kind of trouble there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Trouble>,
    /// What the plugin says about it, on one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

troubles! {
    /// What kind of trouble a plugin has.
    Trouble {
        /// A setting of the section is missing, unknown or wrong.
        Settings = "settings", "its settings are wrong";
        /// A file with credentials cannot be used, or the key manager does not take them.
        Credentials = "credentials", "its credentials cannot be used";
        /// Nobody answers at its address, in time, or with a certificate that is trusted.
        Unreachable = "unreachable", "it does not answer";
        /// It has no such key, or not this version of it.
        NoKey = "no-key", "it has no such key";
        /// These credentials may not use the key.
        Denied = "denied", "it does not let this host use the key";
        /// The wrapped key does not open.
        NotOpened = "not-opened", "it does not open the wrapped key";
        /// Anything else.
        Failed = "failed", "it failed";
    }
}
