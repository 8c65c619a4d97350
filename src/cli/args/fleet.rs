//! The arguments of `fleet …`.

use clap::Subcommand;

/// `fleet …`
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Create the schema of the shared store, or update it.
    ///
    /// Run it once, as the owner of the database. It prints the SQL that makes a role for each host.
    Init {
        /// Address, with the owner's role [default: fleet.store of the configuration].
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// Only print the SQL that would be run.
        #[arg(long)]
        sql: bool,
    },
    /// Join the fleet of the configuration.
    ///
    /// Tells the other hosts which wrapped keys are here, and learns those that concern this host: those that its
    /// provider keys open. Provider keys that others announced are opened through this host's own key managers
    /// ([kms.NAME]). Running it again is harmless.
    Join {
        /// What to call this host there [default: the name of the machine].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Show the shared store, and the hosts as they last reported.
    Status,
    /// Leave the fleet. The keys on this host stay.
    Leave {
        /// Leave even if the shared store cannot be told.
        #[arg(long)]
        force: bool,
    },
    /// Record that a host is off for good: none of its guests runs there any more.
    ///
    /// Make sure that it is off: two hosts that run one guest damage its disks.
    Lost {
        /// Name or UUID of the host.
        host: String,
    },
}
