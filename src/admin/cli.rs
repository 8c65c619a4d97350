//! The command line of `vtpm-guard`: arguments only, no work.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::DEFAULT_STATE_DIR;

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
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
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
    },
    /// The repairs of a start, without a start.
    Repair {
        /// Which guests.
        #[command(flatten)]
        which: Domains,
        /// Say what would be repaired, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Do what the hook would do with this captured domain XML.
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
    /// When libvirtd is up: take away what `stage` laid out.
    ///
    /// Waits until libvirtd answers, removes the files, and drops the secrets that have done
    /// their work. Doing it again changes nothing.
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

/// `provider …`
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// Make a provider with a new key.
    Create {
        /// Its name.
        name: String,
        /// Make it the default.
        #[arg(long)]
        default: bool,
    },
    /// List the providers.
    List,
    /// Show one provider.
    Show {
        /// Its name or UUID.
        name: String,
    },
    /// Give a provider another name.
    Rename {
        /// Its name or UUID.
        name: String,
        /// The new name.
        new_name: String,
    },
    /// Make a provider the default.
    SetDefault {
        /// Its name or UUID.
        name: String,
    },
    /// Give a provider a new key, and wrap every guest's key anew with it.
    Rotate {
        /// Its name or UUID.
        name: String,
    },
    /// Write a provider's key to a recovery file, protected by a passphrase.
    Export {
        /// Its name or UUID.
        name: String,
        /// The recovery file; it must not exist yet.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// The passphrase is the first line of this file ("-": of stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Bring a provider back from its recovery file: a new UUID, the same key.
    Import {
        /// The recovery file.
        file: PathBuf,
        /// Give it this name instead of the one in the file.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The passphrase is the first line of this file ("-": of stdin).
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Check the file and the passphrase, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a provider and its key.
    Delete {
        /// Its name or UUID.
        name: String,
        /// Even if guests need it, or it was never exported.
        #[arg(long)]
        force: bool,
    },
}

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
    /// Take a guest's key over from the backup of another host's store.
    Import {
        /// The guest's name or UUID.
        domain: String,
        /// What `store backup` wrote on the other host.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
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
    /// Give a cloned guest what its TPM needs: the key of the original for a copied state, a
    /// key of its own where there is none.
    Clone {
        /// The original's name or UUID.
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
    /// Remove the key references of guests that libvirt no longer knows and whose TPM state is
    /// gone. The store of before is kept beside the store.
    Prune {
        /// Only of guests that nothing was heard of for so long: 12h, 30d, 8w.
        #[arg(long, value_name = "AGE", default_value = "30d")]
        older_than: String,
        /// Say what would be removed, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

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

/// `store …`
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Look at the whole store for damage and oddities.
    Check,
    /// Write a consistent copy of the store.
    Backup {
        /// The copy; it must not exist yet.
        file: PathBuf,
    },
    /// Replace the store by a copy; the present one is kept beside it.
    Restore {
        /// The copy.
        file: PathBuf,
    },
}

/// DOMAIN... or --all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Domains {
    /// The guests' names or UUIDs.
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// All guests that libvirt knows.
    #[arg(long)]
    pub all: bool,
}

/// DOMAIN..., --all or --xml FILE.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CheckedDomains {
    /// The guests' names or UUIDs.
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// All guests that libvirt knows.
    #[arg(long)]
    pub all: bool,
    /// The guest of this domain XML ("-": stdin), known to libvirt or not.
    #[arg(long, value_name = "FILE")]
    pub xml: Option<PathBuf>,
}

/// FILE or --capture N.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ReplayedXml {
    /// The XML; "-" reads it from stdin.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The XML of a refused start, by its number in `history --captures`; 1 is the last one.
    #[arg(long, value_name = "N")]
    pub capture: Option<usize>,
}

/// The filters of `history`.
#[derive(Debug, Args)]
pub struct Decisions {
    /// Only this guest's: name or UUID.
    pub domain: Option<String>,
    /// Only refusals with this code: VG101, or its name.
    #[arg(long)]
    pub code: Option<String>,
    /// Only from then on: "2h", "7d" (ago), "2026-11-30" or "2026-11-30 14:00" (local time).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only until then.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

/// The recovery files that `doctor` looks at.
#[derive(Debug, Args)]
pub struct RecoveryFiles {
    /// Is this recovery file whole, and does every provider have one? May be given several times.
    #[arg(long, value_name = "FILE")]
    pub recovery_file: Vec<PathBuf>,
    /// Open the recovery files, too: the first line of this file ("-": of stdin) is their passphrase.
    #[arg(long, value_name = "FILE", requires = "recovery_file")]
    pub passphrase_file: Option<PathBuf>,
}

/// Which guests `status` shows.
#[derive(Debug, Args)]
pub struct StatusFilters {
    /// Only guests that would not start now, or only after repairs.
    #[arg(long)]
    pub problems: bool,
    /// Only guests whose TPM is not encrypted.
    #[arg(long)]
    pub plain: bool,
    /// Only guests whose key reference names this provider.
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
}
