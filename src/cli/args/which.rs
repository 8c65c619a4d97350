//! Arguments that say which guests, decisions or files a verb is asked about.

use std::path::PathBuf;

use clap::Args;

/// DOMAIN... or --all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Domains {
    /// Guest names or UUIDs.
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// All guests that libvirt knows.
    #[arg(long)]
    pub all: bool,
}

/// DOMAIN..., --all, --xml FILE or --fleet.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CheckedDomains {
    /// Guest names or UUIDs.
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// All guests that libvirt knows.
    #[arg(long)]
    pub all: bool,
    /// The guest of this domain XML ("-" for stdin), known to libvirt or not.
    #[arg(long, value_name = "FILE")]
    pub xml: Option<PathBuf>,
    /// The guests of all hosts of the fleet, as these last reported.
    #[arg(long, conflicts_with_all = ["metrics", "nagios"])]
    pub fleet: bool,
}

/// FILE or --capture N.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ReplayedXml {
    /// Domain XML ("-" for stdin).
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// XML of a refused start, by its number in `history --captures`; 1 is the newest.
    #[arg(long, value_name = "N")]
    pub capture: Option<usize>,
}

/// The call of the hook that is replayed.
#[derive(Debug, Args)]
pub struct ReplayedHook {
    /// The hook's operation.
    #[arg(long, value_name = "OP", default_value = "prepare")]
    pub operation: String,
    /// The hook's sub-operation.
    #[arg(long, value_name = "S", default_value = "begin")]
    pub sub_operation: String,
    /// Only show what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave libvirt alone, as if it had no secret: works on any machine.
    #[arg(long)]
    pub no_secret: bool,
}

/// The filters of `history`.
#[derive(Debug, Args)]
pub struct Decisions {
    /// Only of this guest (name or UUID).
    pub domain: Option<String>,
    /// Only refusals with this code (VG101) or name.
    #[arg(long)]
    pub code: Option<String>,
    /// Only at or after this time: "2h", "7d" (ago), "2026-11-30" or "2026-11-30 14:00" (local
    /// time).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only at or before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Maximum number of entries.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

/// The recovery files that `doctor` verifies.
#[derive(Debug, Args)]
pub struct RecoveryFiles {
    /// Verify this recovery file (repeatable), and that every provider has one.
    #[arg(long, value_name = "FILE")]
    pub recovery_file: Vec<PathBuf>,
    /// Also open the recovery files, with the passphrase in the first line of this file ("-" for
    /// stdin).
    #[arg(long, value_name = "FILE", requires = "recovery_file")]
    pub passphrase_file: Option<PathBuf>,
}

/// Which guests `status` shows.
#[derive(Debug, Args)]
pub struct StatusFilters {
    /// Only guests that would not start now, or only after repairs.
    #[arg(long)]
    pub problems: bool,
    /// Only guests with an unencrypted TPM.
    #[arg(long)]
    pub plain: bool,
    /// Only guests with a key of this provider.
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
}
