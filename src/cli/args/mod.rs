//! The command line of `vtpm-guard`: arguments only, no work.

mod key;
mod provider;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod which;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::key::Key;
pub use self::provider::Provider;
pub use self::state::State;
pub use self::store::Store;
pub use self::which::{
    CheckedDomains, Decisions, Domains, RecoveryFiles, ReplayedXml, StatusFilters,
};
use crate::host::dirs::StateDir;

/// Guards the start of KVM guests with encrypted vTPMs.
///
/// A libvirt hook, vtpm-guard-hook, looks at the key references of each guest that starts,
/// repairs what is provably repairable, proves that the key opens the TPM's state, and hands
/// libvirt the secret; or it stops the start and says which command mends it. This command is
/// for the administrator: providers, bindings, checks, replays, history.
#[derive(Debug, Parser)]
#[command(
    name = "vtpm-guard",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done, or it would start; 1 refused, or it would not start; \
                  2 usage or configuration; 3 (check, repair --dry-run) it would start after \
                  repairs; 4 anything else that failed."
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration file [default: /etc/vtpm-guard/config.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of the store and the sealed keys.
    #[arg(long, global = true, value_name = "DIR", default_value = StateDir::DEFAULT)]
    pub state_dir: StateDir,
    /// Print one JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Key providers: named keys that wrap the guests' keys.
    #[command(subcommand)]
    Provider(Provider),
    /// Key references: which guest's key is wrapped by which provider.
    #[command(subcommand)]
    Key(Key),
    /// Take over the keys in existing libvirt vTPM secrets.
    ///
    /// For each guest: reads the secret's value, proves it against the TPM state, wraps it with
    /// the provider's key. Only when the wrapped key is certain is libvirt's secret undefined,
    /// its clear text with it. Running guests go on running. Interrupted, it can be run again.
    Adopt {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
        /// The provider's name or UUID; where none is named, the one that the guest is bound
        /// to, else the default provider.
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// Leave libvirt's secret as it is.
        #[arg(long)]
        keep_plaintext: bool,
    },
    /// Would it start now? Changes nothing.
    Check {
        /// Which guests.
        #[command(flatten)]
        which: CheckedDomains,
        /// Write what was found into this file, too, for Prometheus' textfile collector.
        #[arg(long, value_name = "FILE")]
        metrics: Option<PathBuf>,
        /// Answer as a monitoring plugin: one line, and exit status 0 OK, 1 WARNING (repairs
        /// are due), 2 CRITICAL (a guest would not start), 3 UNKNOWN.
        #[arg(long)]
        nagios: bool,
    },
    /// The repairs of a start, without a start.
    Repair {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
        /// Say what would be repaired, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Answer as a monitoring plugin, as `check --nagios` does.
        #[arg(long)]
        nagios: bool,
    },
    /// Do what the hook would do with this captured domain XML.
    ///
    /// The secret that libvirt gets for a start is dropped again at the end, unless the guest is
    /// active.
    Replay {
        /// What to replay.
        #[command(flatten)]
        xml: ReplayedXml,
        /// The hook's operation.
        #[arg(long, value_name = "OP", default_value = "prepare")]
        operation: String,
        /// The hook's sub-operation.
        #[arg(long, value_name = "S", default_value = "begin")]
        sub_operation: String,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Leave libvirt alone, as if it had no secret: works on any machine.
        #[arg(long)]
        no_secret: bool,
    },
    /// Turn a stopped guest's plain TPM state into an encrypted one, and say so in its XML.
    ///
    /// The guest keeps its TPM. All or nothing: a command that was interrupted leaves the guest
    /// as it was, or refused with the advice to run it again, which completes it. The plain
    /// state is kept beside the store until the guest has started.
    Encrypt {
        /// The guest's name or UUID.
        domain: String,
        /// The provider's name or UUID; without it the one that the guest is bound to, else the
        /// default provider.
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// Let the next start of a guest make a new TPM.
    ///
    /// Also of a guest whose key is libvirt's own. Refused where the guest has a managed save: its
    /// TPM is in there.
    Reset {
        /// The guest's name or UUID.
        domain: String,
    },
    /// Before libvirtd starts: lay out the keys of the guests that will start with it.
    ///
    /// A monolithic libvirtd answers nobody until the guests that start with it are up, so their
    /// keys must be there before. They lie on tmpfs alone, linked from /etc/libvirt/secrets.
    /// Guests that would not start are named and left out; that is no failure.
    Stage,
    /// Remove staged keys (run once libvirtd is up, and after it stopped or failed to start).
    ///
    /// Waits until libvirtd answers, removes the files, and drops the secrets that have done
    /// their work. Where no libvirtd runs, it removes the files at once. Doing it again changes
    /// nothing.
    Unstage,
    /// The kept copies of TPM state.
    #[command(subcommand)]
    State(State),
    /// The state of the guard on this host, and of every guest with an emulated TPM.
    Status {
        /// Which guests are shown.
        #[command(flatten)]
        filters: StatusFilters,
    },
    /// What can make the guard fail, or a start fail later.
    Doctor {
        /// Recovery files to look at, too.
        #[command(flatten)]
        recovery: RecoveryFiles,
    },
    /// The decisions of the past, newest first; or the captured XML of refused starts.
    History {
        /// Which decisions.
        #[command(flatten)]
        which: Decisions,
        /// List the captured XML of refused starts instead, as `replay --capture` counts them.
        #[arg(long, conflicts_with_all = ["domain", "code", "since", "until"])]
        captures: bool,
    },
    /// What a code means, why it matters, what to do.
    Explain {
        /// VG101, or its name; without one, all codes are listed.
        code: Option<String>,
    },
    /// The store: check, back up, restore.
    #[command(subcommand)]
    Store(Store),
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}
