//! The configuration file: TOML, every key optional, unknown keys an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::dirs::LibvirtDirs;
use crate::host::path_error::PathError;
use crate::host::trusted::Distrust;
use crate::kms::KmsSettings;
use crate::verdict::facts::Policy;

pub mod duration;
mod file;
mod fleet;
mod kms;
mod parse;

#[cfg(test)]
mod tests;

pub use fleet::{FleetConfig, FleetStates, StoreAddress};
pub use parse::LineError;
pub(crate) use parse::{MAX_CAPTURED, MAX_DEADLINE};

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[policy]`
    pub policy: Policy,
    /// `secret.uri`
    pub secret_uri: String,
    /// `secret.lifetime`
    pub secret_lifetime: Lifetime,
    /// `hook.deadline`
    pub hook_deadline: Duration,
    /// `log.level`
    pub log_level: tracing::Level,
    /// `log.target`
    pub log_target: LogTarget,
    /// `[libvirt]`: where libvirt keeps its files.
    pub libvirt: LibvirtDirs,
    /// `[fleet]`
    pub fleet: FleetConfig,
    /// `capture.denied`: how many XML documents of refused starts are kept.
    pub capture_denied: usize,
    /// `state.keep`
    pub kept_states: KeptStates,
    /// `provider.cache`
    pub kek_cache: KekCache,
    /// `provider.max_age`: how long after a key manager has opened a KEK it may be used; for ever if `None`.
    pub kek_max_age: Option<Duration>,
    /// `[kms.NAME]`
    pub kms: BTreeMap<String, KmsSettings>,
}

/// Where this host keeps a KEK that a key manager has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekCache {
    /// Sealed on disk.
    Sealed,
    /// Sealed on tmpfs: after a reboot the key manager opens it again.
    Boot,
}

/// Of which guests a copy of the TPM state is saved when they stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptStates {
    /// Of transient guests, whose state libvirt deletes then.
    Transient,
    /// Of all that have a key.
    All,
}

/// How long a host secret of the guard's lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the guest runs.
    Start,
    /// As long as the guest runs.
    Run,
    /// Until something else removes it.
    Keep,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// journald where there is one, else a file.
    Auto,
    /// journald.
    Journald,
    /// This file.
    File(PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] PathError),
    /// It is not a regular file, or another user could have written it.
    #[error(transparent)]
    NotTrusted(Distrust),
    /// It is larger than any honest configuration.
    #[error("{path}: larger than {limit} bytes", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// It is not text.
    #[error("{path}: not UTF-8", path = .path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error("{path}: line {line}: {error}", path = .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        error: LineError,
    },
}

impl Config {
    /// Reads a configuration file. A file that is not there gives the defaults.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let Some(text) = file::read_trusted(path)? else {
            return Ok(Self::default());
        };
        parse::parse(&text).map_err(|(line, error)| ConfigError::Invalid {
            path: path.to_owned(),
            line,
            error,
        })
    }
}

impl Config {
    /// `provider.max_age` in milliseconds.
    #[must_use]
    pub fn kek_max_age_ms(&self) -> Option<i64> {
        let ms = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.kek_max_age.map(ms)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            secret_uri: "secret:///system".to_owned(),
            secret_lifetime: Lifetime::Start,
            hook_deadline: Duration::from_secs(10),
            log_level: tracing::Level::INFO,
            log_target: LogTarget::Auto,
            libvirt: LibvirtDirs::default(),
            fleet: FleetConfig::default(),
            capture_denied: 20,
            kept_states: KeptStates::Transient,
            kek_cache: KekCache::Sealed,
            kek_max_age: None,
            kms: BTreeMap::new(),
        }
    }
}

/// Whether this is a configuration, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_valid(text: &str) -> bool {
    parse::parse(text).is_ok()
}
