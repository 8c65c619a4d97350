//! A section `[kms.NAME]` of the configuration: where a key manager is, and with which credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A section `[kms.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsSettings {
    /// Which plugin speaks with it: `kms-KIND`.
    pub kind: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// All other keys; they are the plugin's.
    pub settings: BTreeMap<String, Setting>,
}

impl KmsSettings {
    /// How long one request may take, unless `timeout` says otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
}

/// The value of a key that a plugin gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// A text.
    Text(String),
    /// A list of texts, such as a command line.
    List(Vec<String>),
}

/// Whether a text can be the kind of a plugin: a part of a file's name.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
