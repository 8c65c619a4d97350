//! Why a key manager did not wrap or unwrap a provider key.

use std::io;

use super::protocol::Trouble;
use crate::host::trusted::Distrust;
use crate::key::id::KeyId;

/// Why a key manager did not wrap or unwrap a provider key.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// The configuration has no such section.
    #[error("the configuration has no section [kms.{0}]")]
    NoSection(String),
    /// There is no plugin of its kind.
    #[error(
        "kms.{kms}: {program} is not installed, which speaks with a key manager of kind \"{kind}\""
    )]
    NoPlugin {
        /// The section's name.
        kms: String,
        /// The section's kind.
        kind: String,
        /// The plugin's path.
        program: String,
    },
    /// Somebody else could have written the plugin.
    #[error("kms.{kms}: {distrust}")]
    NotTrusted {
        /// The section's name.
        kms: String,
        /// What is wrong with it.
        distrust: Distrust,
    },
    /// The plugin did not start, ended, or did not answer in time.
    #[error("kms.{kms}: {program}: {source}")]
    Plugin {
        /// The section's name.
        kms: String,
        /// The plugin's name.
        program: String,
        /// What happened.
        source: io::Error,
    },
    /// The plugin's answer is not one of the protocol.
    #[error("kms.{kms}: {program} gave an answer that cannot be understood: {reason}")]
    Nonsense {
        /// The section's name.
        kms: String,
        /// The plugin's name.
        program: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key manager, or the plugin, said no.
    #[error("kms.{kms}: {trouble}: {message}")]
    Refused {
        /// The section's name.
        kms: String,
        /// What kind of trouble it is.
        trouble: Trouble,
        /// In the plugin's words.
        message: String,
    },
    /// It gave the key back as it was.
    #[error("kms.{0}: it has not wrapped the key: what it gave back shows it")]
    NotWrapped(String),
    /// What it unwrapped is another key.
    #[error(
        "kms.{kms}: what key \"{remote_key}\" unwraps is not the key {key_id}: a key was made anew under that name, or its slot belongs to another"
    )]
    OtherKey {
        /// The section's name.
        kms: String,
        /// The key manager's key.
        remote_key: String,
        /// The KEK that was expected.
        key_id: KeyId,
    },
}

impl KmsError {
    /// Whether it says that the key manager does not answer, or lets nobody in, now: nothing of the key.
    pub(crate) fn is_of_the_moment(&self) -> bool {
        match self {
            Self::Plugin { .. } => true,
            Self::Refused { trouble, .. } => {
                matches!(trouble, Trouble::Unreachable | Trouble::Credentials)
            }
            _ => false,
        }
    }
}
