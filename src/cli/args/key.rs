//! The arguments of `key …`.

use std::path::PathBuf;

use clap::Subcommand;

/// `key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Bind a guest to a provider; its key is made at its first start.
    Bind {
        /// The guest's name or UUID.
        domain: String,
        /// The provider's name or UUID; the default provider where none is named.
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Import a guest's key from a store backup, of this host or of another one.
    Import {
        /// The guest's name or UUID.
        domain: String,
        /// What `store backup` wrote.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The guest's name or UUID in the backup, where it has another UUID here.
        #[arg(long = "as", value_name = "OLD-DOMAIN")]
        old_domain: Option<String>,
    },
    /// List the key references.
    List {
        /// Only this guest's: name or UUID.
        domain: Option<String>,
    },
    /// Show a guest's key references, also the retired ones, and what each of them opens.
    Show {
        /// The guest's name or UUID.
        domain: String,
    },
    /// Take a guest out of the guard's hands: its placeholders go, its keys are retired.
    Unbind {
        /// The guest's name or UUID.
        domain: String,
    },
    /// Put a key reference out of use; its wrapped key is kept.
    Retire {
        /// Its ID, as `key list` shows it.
        id: i64,
    },
    /// Give a stopped guest's TPM a new key, under the same provider.
    ///
    /// Its state is encrypted anew; the TPM stays the same. The old key is retired.
    Renew {
        /// The guest's name or UUID.
        domain: String,
    },
    /// Set up a cloned guest's key: the original's for a copied TPM state, otherwise a new one.
    ///
    /// Also for a guest that came back under a new UUID: where libvirt has forgotten the former
    /// one, its TPM state is copied, too.
    Clone {
        /// The original's name or UUID; libvirt may have forgotten it.
        domain: String,
        /// The clone's name or UUID; libvirt must know it already.
        #[arg(value_name = "NEW-DOMAIN")]
        new_domain: String,
    },
    /// Use this key reference, and retire the guest's others.
    Use {
        /// Its ID, as `key show` shows it.
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
