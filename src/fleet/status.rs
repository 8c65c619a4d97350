//! What a wrapped key counts as in the fleet, and how two hosts' words about it become one.

use serde::{Deserialize, Serialize};

/// What a wrapped key counts as. The order decides between hosts that said different things at the same
/// revision: a candidate too many never stops a start, one too few may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// No host needs it: it is not learnt any more. Who has it keeps it.
    Pruned,
    /// It is no candidate.
    Retired,
    /// It is a candidate.
    Live,
}

impl KeyStatus {
    /// The status of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let all = [Self::Pruned, Self::Retired, Self::Live];
        all.into_iter().find(|status| status.word() == word)
    }

    /// Its word in facts.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Retired => "retired",
            Self::Live => "live",
        }
    }
}

/// The status of a key, with what decides between two: the higher revision, then the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stated {
    /// Rises with each change. A key that nobody has said anything of has 0.
    pub revision: u32,
    /// What it counts as.
    pub status: KeyStatus,
}

impl Stated {
    /// Of a key that nobody has said anything of.
    pub const NEW: Self = Self {
        revision: 0,
        status: KeyStatus::Live,
    };
}
