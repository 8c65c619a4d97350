//! What asks for decisions and changes.

/// What asked for a decision or a change that the history records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The hook's `prepare`: a start.
    Prepare,
    /// A start that was allowed and has failed, as the hook learnt at `stopped` or `release`.
    Stopped,
    /// `check`, which records nothing.
    Check,
    /// `repair`.
    Repair,
    /// `replay`.
    Replay,
    /// `stage`.
    Stage,
    /// `adopt`.
    Adopt,
    /// `encrypt`.
    Encrypt,
    /// `key renew`.
    Renew,
    /// `key clone`.
    Clone,
    /// `key prune`.
    Prune,
    /// `state drop`.
    Drop,
    /// `store rebuild`.
    Rebuild,
}

impl Origin {
    /// The value of the column `operation`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Stopped => "stopped",
            Self::Check => "check",
            Self::Repair => "repair",
            Self::Replay => "replay",
            Self::Stage => "stage",
            Self::Adopt => "adopt",
            Self::Encrypt => "encrypt",
            Self::Renew => "renew",
            Self::Clone => "clone",
            Self::Prune => "prune",
            Self::Drop => "drop",
            Self::Rebuild => "rebuild",
        }
    }
}
