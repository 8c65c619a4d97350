//! The arguments of `provider …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Slot;
use crate::keyring::WeakerSeal;

/// `provider …`
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// Create a provider with a new key.
    Create {
        /// Provider name.
        name: String,
        /// Set it as the default.
        #[arg(long)]
        default: bool,
        /// Let a key manager open the key: a section [kms.NAME] of the configuration, and a key there
        /// (repeatable).
        #[arg(long = "slot", value_name = "KMS:REMOTE-KEY")]
        slots: Vec<String>,
        /// Where to store the key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// List providers.
    List,
    /// Show one provider.
    Show {
        /// Provider name or UUID.
        name: String,
    },
    /// Rename a provider.
    Rename {
        /// Provider name or UUID.
        name: String,
        /// New name.
        new_name: String,
    },
    /// Set the default provider.
    SetDefault {
        /// Provider name or UUID.
        name: String,
    },
    /// Accept a provider that another host of the fleet announced.
    ///
    /// Its key must open here: through a slot whose key manager this host uses, or from its recovery file. Until it
    /// is accepted the key opens guests' keys, and wraps no new ones.
    Accept {
        /// Provider name, as it was announced.
        name: String,
        /// Which key, where several were announced under that name and open here; without it the error lists them.
        #[arg(long, value_name = "KEYID")]
        key: Option<String>,
    },
    /// Rotate a provider's key and re-wrap every guest's key.
    ///
    /// In a fleet the new key is announced first; keys are re-wrapped when the other hosts have opened it, each
    /// through its own key managers. Run it again to go on waiting.
    Rotate {
        /// Provider name or UUID.
        name: String,
        /// Do not wait for this host of the fleet, by name or UUID (repeatable). It opens the new key when it can.
        #[arg(long, value_name = "HOST")]
        without: Vec<String>,
        /// How long to wait for the other hosts, like "5m" [default: twice fleet.interval].
        #[arg(long, value_name = "TIME")]
        wait: Option<String>,
        /// Where to store the new key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// Re-seal provider keys that this host can now protect better.
    ///
    /// For a key that was stored in a root-only file, or without the TPM, because nothing
    /// stronger could be used then. The old file is replaced only when the new one has been
    /// opened and read back. Running it again changes nothing.
    Reseal {
        /// Provider name or UUID [default: all providers].
        name: Option<String>,
    },
    /// Write a provider's key to a recovery file, protected by a passphrase.
    Export {
        /// Provider name or UUID.
        name: String,
        /// Recovery file; it must not exist yet.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Read the passphrase from the first line of this file ("-" for stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Restore a provider from its recovery file (same key, new UUID).
    Import {
        /// Recovery file.
        file: PathBuf,
        /// Name for the provider [default: the one in the file].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Read the passphrase from the first line of this file ("-" for stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Only verify the file and the passphrase.
        #[arg(long)]
        dry_run: bool,
        /// Where to store the key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// Manage the ways to a provider's key (key managers, HSMs).
    #[command(subcommand)]
    Slot(Slot),
    /// Delete a provider and its key.
    Delete {
        /// Provider name or UUID.
        name: String,
        /// Delete even if guests need it or it was never exported.
        #[arg(long)]
        force: bool,
    },
}

/// How a provider's key is sealed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Sealing {
    /// If systemd-creds fails, use the next weaker seal: without the TPM, at worst a root-only
    /// file, which holds the key in plaintext.
    #[arg(long)]
    allow_weaker_seal: bool,
}

impl Sealing {
    /// What happens where the host's strongest seal fails.
    pub(in crate::cli) fn weaker(self) -> WeakerSeal {
        if self.allow_weaker_seal {
            WeakerSeal::Allowed
        } else {
            WeakerSeal::Refused
        }
    }
}
