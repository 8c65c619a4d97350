//! The command line of `vtpm-guard`: arguments only, no work.

mod fleet;
mod headings;
mod key;
mod provider;
mod slot;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod which;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::fleet::Fleet;
pub use self::key::Key;
pub use self::provider::Provider;
pub use self::slot::Slot;
pub use self::state::State;
pub use self::store::Store;
pub use self::which::{
    CheckedDomains, Decisions, Domains, RecoveryFiles, ReplayedHook, ReplayedXml, StatusFilters,
};
use crate::host::dirs::StateDir;

/// Guards the start of KVM guests with encrypted vTPMs.
///
/// A libvirt hook, vtpm-guard-hook, looks at the key references of each guest that starts,
/// repairs what is provably repairable, proves that the key opens the TPM's state, and hands
/// libvirt the secret; or it refuses the start and says which command fixes it. This command is
/// for the administrator.
#[derive(Debug, Parser)]
#[command(
    name = "vtpm-guard",
    version,
    max_term_width = 100,
    help_template = headings::template(),
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
    /// Manage key providers (named keys that wrap guest keys).
    #[command(subcommand)]
    Provider(Provider),
    /// Manage key references (which provider wraps which guest's key).
    #[command(subcommand)]
    Key(Key),
    /// Take over the keys in existing libvirt vTPM secrets.
    ///
    /// For each guest: reads the secret's value, proves it against the TPM state, wraps it with
    /// the provider's key. libvirt's secret, and its plaintext copy, is removed only after the
    /// wrapped key has been verified. Running guests are not affected. Interrupted, it can be run
    /// again.
    Adopt {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
        /// Provider name or UUID [default: the one that the guest is bound to, else the default
        /// provider].
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// Keep libvirt's secret.
        #[arg(long)]
        keep_plaintext: bool,
        /// Also set `persistent_state='yes'` in the XML of each guest that is adopted (see `state
        /// persist`).
        #[arg(long)]
        persistent_state: bool,
    },
    /// Check whether guests would start now (read-only).
    Check {
        /// Which guests.
        #[command(flatten)]
        which: CheckedDomains,
        /// Also write the results to this file, for Prometheus' textfile collector.
        #[arg(long, value_name = "FILE")]
        metrics: Option<PathBuf>,
        /// Answer as a monitoring plugin: one line, and exit status 0 OK, 1 WARNING (repairs
        /// are due), 2 CRITICAL (a guest would not start), 3 UNKNOWN.
        #[arg(long)]
        nagios: bool,
    },
    /// Apply the repairs a start would make, without starting the guest.
    Repair {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
        /// Only show what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Answer as a monitoring plugin, as `check --nagios` does.
        #[arg(long)]
        nagios: bool,
    },
    /// Do what the hook would do with a captured domain XML.
    ///
    /// The secret that libvirt gets for a start is dropped again at the end, unless the guest is
    /// active.
    Replay {
        /// What to replay.
        #[command(flatten)]
        xml: ReplayedXml,
        /// As what.
        #[command(flatten)]
        call: ReplayedHook,
    },
    /// Encrypt a stopped guest's TPM state and update its XML.
    ///
    /// The guest keeps its TPM. All or nothing: an interrupted command leaves the guest as it was,
    /// or its start is refused until the command is run again, which completes it. The
    /// unencrypted state is kept next to the store until the guest has started.
    Encrypt {
        /// Guest name or UUID.
        domain: String,
        /// Provider name or UUID [default: the one that the guest is bound to, else the default
        /// provider].
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        /// Also set `persistent_state='yes'` in its XML (see `state persist`).
        #[arg(long)]
        persistent_state: bool,
    },
    /// Allow the guest's next start to create a new TPM.
    ///
    /// This includes guests whose key is libvirt's own. Refused if the guest has a managed save
    /// image, which holds its TPM.
    Reset {
        /// Guest name or UUID.
        domain: String,
    },
    /// Stage keys for guests that autostart with libvirtd (run before it starts).
    ///
    /// A monolithic libvirtd answers nobody until its autostarted guests are up, so their keys
    /// must be there before. They are stored on tmpfs only, linked from /etc/libvirt/secrets.
    /// Guests that would not start are reported and left out; that is not an error. With the modular
    /// daemons (virtqemud) nothing is staged: virtsecretd takes keys meanwhile.
    Stage,
    /// Remove staged keys (run once libvirtd is up, and after it stopped or failed to start).
    ///
    /// Waits until libvirtd answers, at most a minute, removes the files, and drops the secrets that
    /// are no longer needed. If no libvirtd runs, it removes the files at once. Running it again
    /// changes nothing.
    Unstage {
        /// Wait as long as libvirtd runs, not only one minute.
        ///
        /// For vtpm-guard-unstage.service. If libvirtd ends meanwhile, nothing is removed: the
        /// drop-in of libvirtd.service runs "vtpm-guard unstage" after each stop.
        #[arg(long)]
        wait: bool,
    },
    /// Manage saved copies of TPM state.
    #[command(subcommand)]
    State(State),
    /// Show the guard's status and every guest with an emulated TPM.
    Status {
        /// Which guests to show.
        #[command(flatten)]
        filters: StatusFilters,
        /// Show the guests of all hosts of the fleet, as these last reported.
        #[arg(long, conflicts_with_all = ["problems", "plain", "provider"])]
        fleet: bool,
    },
    /// Diagnose problems on this host.
    Doctor {
        /// Recovery files to verify.
        #[command(flatten)]
        recovery: RecoveryFiles,
    },
    /// Show past decisions, newest first, or captured XML of refused starts.
    History {
        /// Which decisions.
        #[command(flatten)]
        which: Decisions,
        /// List the captured XML of refused starts, numbered for `replay --capture`.
        #[arg(long, conflicts_with_all = ["domain", "code", "since", "until", "limit"])]
        captures: bool,
        /// Show the decisions of all hosts of the fleet.
        #[arg(long, conflicts_with_all = ["code", "captures"])]
        fleet: bool,
    },
    /// Explain a refusal code.
    Explain {
        /// Code (VG101) or its name [default: list all codes].
        code: Option<String>,
    },
    /// Open provider keys through their key managers.
    ///
    /// Brings to this host the keys that it does not hold, and keeps them as `provider.cache` says.
    /// vtpm-guard-open.service runs it before libvirtd starts. A key that is here is not asked for again, unless
    /// `provider.max_age` is half over, or the key must leave the disk (`provider.cache` = "boot"). Without names it
    /// also tries the slots that have not opened for six hours, once the host has been up for ten minutes: a key
    /// manager that is gone is noticed before it is needed. Running it again is harmless.
    Open {
        /// Provider name or UUID [default: all that have a slot of a key manager].
        name: Vec<String>,
    },
    /// Check, back up, restore or rebuild the store.
    #[command(subcommand)]
    Store(Store),
    /// Write guests' wrapped keys into their domain XML, and exchange facts with the fleet.
    ///
    /// With fleet.metadata = "wrapped" in the configuration. With "off" it removes what it wrote. Keys
    /// that are in a guest's XML and not on this host stay there. A guest with a job (a migration, a
    /// save) is left for the next run: vtpm-guard-sync.path and vtpm-guard-sync.timer run it.
    ///
    /// On a host that has joined a fleet it then exchanges facts with the shared store: wrapped keys, where guests
    /// run, history.
    Sync {
        /// Exchange facts with the shared store every fleet.interval, until it is stopped.
        #[arg(long, conflicts_with = "compare")]
        follow: bool,
        /// Compare everything with the shared store, as is done once a day.
        #[arg(long)]
        compare: bool,
        /// Only write keys into domain XML; exchange no facts (for vtpm-guard-sync.service).
        #[arg(long, conflicts_with_all = ["follow", "compare"])]
        metadata_only: bool,
    },
    /// Work with other hosts through a shared store.
    #[command(subcommand)]
    Fleet(Fleet),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Command {
    /// Whether it may change a guest's keys, or which of them are in use.
    #[must_use]
    pub fn changes_keys(&self) -> bool {
        match self {
            Self::Repair { dry_run, .. } => !dry_run,
            Self::Replay { call, .. } => !call.dry_run,
            Self::Key(Key::List { .. } | Key::Show { .. } | Key::Metadata { .. }) => false,
            Self::Adopt { .. }
            | Self::Encrypt { .. }
            | Self::Reset { .. }
            | Self::Key(_)
            | Self::Provider(Provider::Rotate { .. }) => true,
            _ => false,
        }
    }
}
