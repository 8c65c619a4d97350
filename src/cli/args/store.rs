//! The arguments of `store …`.

use std::path::PathBuf;

use clap::Subcommand;

/// `store …`
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Look at the whole store for damage and oddities.
    Check,
    /// Write a consistent copy of the store.
    Backup {
        /// The copy; it must not exist yet.
        file: PathBuf,
    },
    /// Replace the store by a copy; the present one is kept beside it.
    Restore {
        /// The copy.
        file: PathBuf,
    },
}
