//! The arguments of `state …`.

use clap::Subcommand;

/// `state …`
#[derive(Debug, Subcommand)]
pub enum State {
    /// List the kept copies.
    List,
    /// Show a guest's kept copies, and where their state was.
    Show {
        /// The guest's name or UUID.
        domain: String,
    },
    /// Put a kept copy back by hand; an existing state is never overwritten.
    Restore {
        /// The guest's name or UUID.
        domain: String,
    },
}
