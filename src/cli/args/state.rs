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
    /// Remove saved copies of a guest's TPM state, and the plain state of before an encrypt.
    ///
    /// Refuses to remove the only TPM state that a used key opens.
    Drop {
        /// The guest's name or UUID.
        domain: String,
        /// Only this copy: the first digits of its sha256, as `state show` shows it (repeatable).
        #[arg(long = "copy", value_name = "SHA256")]
        copies: Vec<String>,
        /// Remove them even if the guest's TPM is lost with them.
        #[arg(long)]
        force: bool,
    },
}
