//! The arguments of `fleet …`.

use clap::Subcommand;

/// `fleet …`
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Create the schema of the shared store, or update it.
    ///
    /// Run it once, as the owner of the database. Before that a superuser makes the roles, one for each host; --sql prints
    /// the SQL for both.
    Init {
        /// Address, with the owner's role [default: fleet.store of the configuration].
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// Only print the SQL: that of the roles, and what would be run.
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
    /// Say that a host is down, whatever it has said last of its guests.
    ///
    /// Then its guests start on this host also with policy.elsewhere = "deny". Fence the host first: nothing here stops
    /// guests that it still runs.
    Lost {
        /// Name of the host, or its UUID in the fleet.
        host: String,
    },
}
