//! The arguments of `provider …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::keyring::WeakerSeal;

/// `provider …`
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// Make a provider with a new key.
    Create {
        /// Its name.
        name: String,
        /// Make it the default.
        #[arg(long)]
        default: bool,
        /// Where to store the key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// List the providers.
    List,
    /// Show one provider.
    Show {
        /// Its name or UUID.
        name: String,
    },
    /// Give a provider another name.
    Rename {
        /// Its name or UUID.
        name: String,
        /// The new name.
        new_name: String,
    },
    /// Make a provider the default.
    SetDefault {
        /// Its name or UUID.
        name: String,
    },
    /// Give a provider a new key, and wrap every guest's key anew with it.
    Rotate {
        /// Its name or UUID.
        name: String,
        /// Where to store the new key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// Seal provider keys again, where this host can protect them better now.
    ///
    /// For a key that was stored in a root-only file, or without the TPM, because nothing
    /// stronger could be used then. The old file is replaced only when the new one has been
    /// opened and read back. Doing it again changes nothing.
    Reseal {
        /// Provider name or UUID [default: all providers].
        name: Option<String>,
    },
    /// Write a provider's key to a recovery file, protected by a passphrase.
    Export {
        /// Its name or UUID.
        name: String,
        /// The recovery file; it must not exist yet.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// The passphrase is the first line of this file ("-": of stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Bring a provider back from its recovery file: a new UUID, the same key.
    Import {
        /// The recovery file.
        file: PathBuf,
        /// Give it this name instead of the one in the file.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The passphrase is the first line of this file ("-": of stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Check the file and the passphrase, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Where to store the key.
        #[command(flatten)]
        sealing: Sealing,
    },
    /// Delete a provider and its key.
    Delete {
        /// Its name or UUID.
        name: String,
        /// Even if guests need it, or it was never exported.
        #[arg(long)]
        force: bool,
    },
}

/// How a provider's key is sealed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Sealing {
    /// If systemd-creds fails, use the next weaker seal: without the TPM, at worst a root-only
    /// file, which holds the key in clear.
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
