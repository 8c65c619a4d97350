//! The arguments of `store …`.

use std::path::PathBuf;

use clap::Subcommand;

/// `store …`
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Check the whole store for damage and inconsistencies.
    Check,
    /// Back up the store.
    Backup {
        /// Backup file; it must not exist yet.
        file: PathBuf,
    },
    /// Replace the store with a backup (the previous store is kept next to it).
    Restore {
        /// Backup file.
        file: PathBuf,
    },
    /// Store the keys in the guests' XML, for guests that have none here.
    Rebuild {
        /// Only show what would be stored.
        #[arg(long)]
        dry_run: bool,
    },
}
