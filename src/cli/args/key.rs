//! The arguments of `key …`.

use std::path::PathBuf;

use clap::Subcommand;

/// `key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Bind a guest to a provider (its key is created at its first start).
    Bind {
        /// Guest name or UUID.
        domain: String,
        /// Provider name or UUID [default: the default provider].
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// Also set `persistent_state='yes'` in its XML (see `state persist`).
        #[arg(long)]
        persistent_state: bool,
    },
    /// Import a guest's key from a store backup, of this host or another.
    Import {
        /// Guest name or UUID.
        domain: String,
        /// Backup made by `store backup`.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Guest name or UUID in the backup, if its UUID differs here.
        #[arg(long = "as", value_name = "OLD-DOMAIN")]
        old_domain: Option<String>,
    },
    /// List key references.
    List {
        /// Only of this guest (name or UUID).
        domain: Option<String>,
    },
    /// Show a guest's key references, including retired ones, and what each one opens.
    Show {
        /// Guest name or UUID.
        domain: String,
    },
    /// Print the element with which a guest's wrapped keys travel in its domain XML.
    ///
    /// For files from which guests are defined: it belongs into the metadata element.
    Metadata {
        /// Guest name or UUID.
        domain: String,
        /// Write it into the guest's definitions, whatever fleet.metadata says.
        #[arg(long)]
        write: bool,
    },
    /// Stop managing a guest: delete its placeholders and retire its keys.
    Unbind {
        /// Guest name or UUID.
        domain: String,
    },
    /// Retire a key reference (its wrapped key is kept).
    Retire {
        /// Key reference ID (see `key list`).
        id: i64,
    },
    /// Give a stopped guest's TPM a new key, under the same provider.
    ///
    /// Re-encrypts its state; the TPM itself does not change. The old key is retired.
    Renew {
        /// Guest name or UUID.
        domain: String,
    },
    /// Set up a cloned guest's key: the original's for a copied TPM state, otherwise a new one.
    ///
    /// Also for a guest that came back under a new UUID: if libvirt no longer knows the previous
    /// one, its TPM state is copied too.
    Clone {
        /// Name or UUID of the original; libvirt need not know it any more.
        domain: String,
        /// Name or UUID of the clone; libvirt must know it.
        #[arg(value_name = "NEW-DOMAIN")]
        new_domain: String,
    },
    /// Use this key reference and retire the guest's others.
    Use {
        /// Key reference ID (see `key show`).
        id: i64,
    },
    /// Remove the keys of guests that libvirt no longer knows and whose TPM state is gone.
    ///
    /// The guard's own copies of their TPM state go with them. The previous store is kept next
    /// to it.
    Prune {
        /// Only guests inactive for at least this long (12h, 30d, 8w) [default: 30d; 1d for
        /// those that never had a key].
        #[arg(long, value_name = "AGE")]
        older_than: Option<String>,
        /// Also keys that were used, but never on this host: those of a standby host.
        #[arg(long)]
        standby: bool,
        /// Only show what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}
