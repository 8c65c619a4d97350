//! Arguments that say which guests, decisions or files a verb is asked about.

use std::path::PathBuf;

use clap::Args;

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
