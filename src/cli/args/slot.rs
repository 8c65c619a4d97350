//! The arguments of `provider slot …`.

use clap::Subcommand;

/// `provider slot …`
#[derive(Debug, Subcommand)]
pub enum Slot {
    /// Let a key manager open a provider's key, too.
    ///
    /// The key manager wraps the key, and unwraps it once before the slot is stored. Doing it again re-wraps
    /// it, as after the key manager's key was rotated.
    Add {
        /// Provider name or UUID.
        name: String,
        /// Section [kms.NAME] of the configuration, and a key of that key manager.
        #[arg(value_name = "KMS:REMOTE-KEY")]
        slot: String,
        /// What to call the slot.
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
    },
    /// List every way to a provider's key.
    List {
        /// Provider name or UUID.
        name: String,
    },
    /// Open a provider's key through each of its slots.
    Verify {
        /// Provider name or UUID.
        name: String,
    },
    /// Remove a slot, unless nothing else opens the key.
    ///
    /// Another slot must open it now, or it must be sealed on this host's disk. The key manager keeps its own
    /// key.
    Remove {
        /// Provider name or UUID.
        name: String,
        /// The slot: KMS:REMOTE-KEY, its label or its UUID.
        #[arg(value_name = "SLOT")]
        slot: String,
    },
}
