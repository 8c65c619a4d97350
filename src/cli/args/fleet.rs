//! The arguments of `fleet …`.

use clap::Subcommand;

/// `fleet …`
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Say that a host is down, whatever it has said last of its guests.
    ///
    /// Then its guests start on this host also with policy.elsewhere = "deny". Fence the host first: nothing here stops
    /// guests that it still runs.
    Lost {
        /// Name of the host, or its UUID in the fleet.
        host: String,
    },
}
