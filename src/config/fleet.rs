//! The section `[fleet]`: what guests take along when they move, and the shared store.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::duration;
use super::parse::{LineError, bad_secret, bad_value, choice, string};

/// The keys of the section, in the order of the shipped file.
pub(super) const KEYS: &[&str] = &[
    "metadata",
    "store",
    "ca",
    "certificate",
    "key",
    "password_file",
    "interval",
    "ask",
    "state",
];

/// The shortest `fleet.interval`: each exchange is a few questions to the shared store.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The longest `fleet.interval`: what others know of a host would be older than a day.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest `fleet.ask`: a start waits for it.
const MAX_ASK: Duration = Duration::from_secs(30);

const METADATA: &[(&str, FleetMetadata)] = &[
    ("off", FleetMetadata::Off),
    ("wrapped", FleetMetadata::Wrapped),
];
const STATES: &[(&str, FleetStates)] =
    &[("off", FleetStates::Off), ("stopped", FleetStates::Stopped)];

/// `[fleet]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// `fleet.metadata`
    pub metadata: FleetMetadata,
    /// `fleet.store`; no shared store if `None`.
    pub store: Option<StoreAddress>,
    /// `fleet.ca`, `certificate`, `key` and `password_file`, where they are set: absolute paths, which the program
    /// that speaks with the shared store reads.
    pub credentials: BTreeMap<String, String>,
    /// `fleet.interval`: how often facts are exchanged.
    pub interval: Duration,
    /// `fleet.ask`: how long a start may wait for the shared store; it asks nothing if zero.
    pub ask: Duration,
    /// `fleet.state`
    pub states: FleetStates,
}

/// What the guard writes into the metadata of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetMetadata {
    /// Nothing.
    Off,
    /// Their wrapped keys.
    Wrapped,
}

impl FleetMetadata {
    /// Whether keys are written.
    #[must_use]
    pub fn is_wrapped(self) -> bool {
        self == Self::Wrapped
    }
}

/// Which TPM states go to the shared store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetStates {
    /// None.
    Off,
    /// The encrypted ones of guests that have stopped.
    Stopped,
}

/// The address of a shared store. Its scheme names the program that speaks with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress(String);

impl StoreAddress {
    /// Reads an address such as `postgresql://db1,db2/vtpm_guard`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = (1..=32).contains(&scheme.len())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase());
        (is_scheme && !rest.is_empty() && text.len() <= 1024).then(|| Self(text.to_owned()))
    }

    /// The whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind of store.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            metadata: FleetMetadata::Off,
            store: None,
            credentials: BTreeMap::new(),
            interval: Duration::from_secs(60),
            ask: Duration::from_secs(2),
            states: FleetStates::Off,
        }
    }
}

/// Sets one key of the section, which is one of [`KEYS`]. `full` is its name with the section's.
pub(super) fn set(
    config: &mut FleetConfig,
    key: &str,
    full: &str,
    value: &DeValue<'_>,
) -> Result<(), LineError> {
    let wrong = |wanted: &str| bad_value(full, value, wanted);
    let not_shown = |wanted: &str| bad_secret(full, value, wanted);
    let time = |allowed: std::ops::RangeInclusive<Duration>, wanted: &str| {
        let time = string(value).and_then(duration::parse);
        time.filter(|time| allowed.contains(time))
            .ok_or_else(|| wrong(wanted))
    };
    match key {
        "metadata" => config.metadata = choice(full, value, METADATA)?,
        "state" => config.states = choice(full, value, STATES)?,
        "store" => {
            let wanted = "an address like \"postgresql://db.example.com/vtpm_guard\", or \"\"";
            let text = string(value).ok_or_else(|| not_shown(wanted))?;
            config.store = StoreAddress::parse(text);
            if config.store.is_none() && !text.is_empty() {
                return Err(not_shown(wanted));
            }
        }
        "interval" => {
            let wanted = "a time like \"60s\" or \"5m\", from \"1s\" to \"24h\"";
            config.interval = time(MIN_INTERVAL..=MAX_INTERVAL, wanted)?;
        }
        "ask" => {
            let wanted = "a time like \"2s\", at most \"30s\"; \"0s\" never asks";
            config.ask = time(Duration::ZERO..=MAX_ASK, wanted)?;
        }
        credential => {
            let wanted = "the absolute path of a file, or \"\"";
            let path = string(value).ok_or_else(|| not_shown(wanted))?;
            if path.is_empty() {
                config.credentials.remove(credential);
            } else if Path::new(path).is_absolute() {
                config
                    .credentials
                    .insert(credential.to_owned(), path.to_owned());
            } else {
                return Err(not_shown(wanted));
            }
        }
    }
    Ok(())
}
