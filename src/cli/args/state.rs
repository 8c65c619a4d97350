//! The arguments of `state …`.

use clap::Subcommand;

use super::Domains;

/// `state …`
#[derive(Debug, Subcommand)]
pub enum State {
    /// List saved copies.
    List {
        /// List the TPM states in the fleet's store instead.
        #[arg(long)]
        fleet: bool,
    },
    /// Show a guest's saved copies, and where their state was.
    Show {
        /// Guest name or UUID.
        domain: String,
    },
    /// Restore a saved copy (an existing state is never overwritten).
    ///
    /// Of several, the newest that the guest's key opens; with fleet.store, also one of the newest three in the fleet's
    /// store.
    Restore {
        /// Guest name or UUID.
        domain: String,
        /// This copy: first digits of its SHA-256 (see `state show`), or of its ID in the fleet's store; four at least.
        #[arg(long = "copy", value_name = "DIGITS")]
        copy: Option<String>,
    },
    /// Make libvirt keep the TPM state of guests that are undefined, or stop while transient.
    ///
    /// Sets `persistent_state='yes'` in their XML, for their next start. Then only `virsh undefine
    /// --tpm` deletes the state. With --all: of every guest that is defined and has an encrypted
    /// vTPM.
    Persist {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
    },
    /// Remove saved copies of a guest's TPM state, and the one from before an encrypt.
    ///
    /// Refuses to remove the only TPM state that a used key opens, or one that cannot be tried may open.
    Drop {
        /// Guest name or UUID.
        domain: String,
        /// Only this copy: first digits of its SHA-256, four at least, see `state show` (repeatable).
        #[arg(long = "copy", value_name = "SHA256")]
        copies: Vec<String>,
        /// Remove them even if the guest's TPM is lost with them.
        #[arg(long)]
        force: bool,
    },
}
