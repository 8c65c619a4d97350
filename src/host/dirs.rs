//! Every path that this program knows: its own, libvirt's, the system's.

use std::ffi::OsString;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

mod libvirt;

pub use libvirt::LibvirtDirs;

/// The configuration, unless `--config` says otherwise.
pub const CONFIG: &str = "/etc/vtpm-guard/config.toml";

/// The hook, as packages install it.
pub const HOOK: &str = "/usr/sbin/vtpm-guard-hook";

/// The helper that is linked with libvirt, as packages install it.
pub const HELPER: &str = "/usr/libexec/vtpm-guard-libvirt";

/// The programs that speak with key managers and shared stores, as packages install them.
pub const PLUGINS: &str = "/usr/libexec/vtpm-guard";

/// The log of a host without journald.
const LOG: &str = "/var/log/vtpm-guard.log";

/// journald's socket.
pub const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";

/// Where programs are looked for; the caller's own `PATH` is not asked. The last one is that of NixOS, root's own as well, where
/// the others have next to nothing.
pub const SEARCH_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// The host's ID (machine-id(5)).
pub const MACHINE_ID: &str = "/etc/machine-id";

/// The key with which systemd seals on this host (systemd-creds(1)).
pub const HOST_KEY: &str = "/var/lib/systemd/credential.secret";

/// The host's users (passwd(5)), and where the system is an image (rpm-ostree), those of the image (nss-altfiles).
pub const PASSWD: [&str; 2] = ["/etc/passwd", "/usr/lib/passwd"];

/// The host's groups (group(5)), and those of the image.
pub const GROUP: [&str; 2] = ["/etc/group", "/usr/lib/group"];

/// What the kernel says of processes (proc(5)).
pub const PROC: &str = "/proc";

/// The kernel's devices.
pub const DEVICES: &str = "/dev";

/// `SELinux`, where it is on.
pub const SELINUX: &str = "/sys/fs/selinux";

/// `Y` where `AppArmor` is on.
pub const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// Where `AppArmor`'s profile of libvirtd lets it start any program, unconfined.
pub const APPARMOR_FREE_TO_RUN: [&str; 3] = ["/usr/sbin/", "/usr/bin/", "/etc/libvirt/hooks/"];

/// There while systemd is process 1 (`sd_booted(3)`).
pub const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// There on NixOS, whose configuration makes what is in `/etc` and what libvirt runs.
pub const NIXOS: &str = "/etc/NIXOS";

/// Where systemd looks for the drop-ins of a unit (systemd.unit(5)).
pub const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The unit that removes staged keys once libvirtd answers.
pub const UNSTAGE_UNIT: &str = "vtpm-guard-unstage.service";

/// The units that run `vtpm-guard sync`: when a start has left a note, and from time to time.
pub const SYNC_UNITS: [&str; 2] = ["vtpm-guard-sync.path", "vtpm-guard-sync.timer"];

/// The units that run `vtpm-guard open`: before libvirtd starts, and from time to time.
pub const OPEN_UNITS: [&str; 2] = ["vtpm-guard-open.service", "vtpm-guard-open.timer"];

/// The unit that runs `vtpm-guard sync --follow`.
pub const FLEET_UNIT: &str = "vtpm-guard-fleet.service";

/// The path of an open file, whatever its own path leads to by now.
#[must_use]
pub fn of_descriptor(file: impl AsFd) -> PathBuf {
    let number = file.as_fd().as_raw_fd();
    format!("{PROC}/self/fd/{number}").into()
}

/// The directory of the store and the sealed provider keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// That of the host, unless `--state-dir` says otherwise.
    pub const DEFAULT: &str = "/var/lib/vtpm-guard";

    /// The name of the store's database in it.
    pub const STORE_NAME: &str = "store.db";

    /// The state directory with this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The store's database.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join(Self::STORE_NAME)
    }

    /// The sealed provider keys, `KEYID`.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// The domain XML of refused starts.
    #[must_use]
    pub fn captures(&self) -> PathBuf {
        self.0.join("captures")
    }

    /// The saved copies of TPM state, below each guest's UUID.
    #[must_use]
    pub fn tpm_copies(&self) -> PathBuf {
        self.0.join("tpm-state")
    }

    /// Unencrypted TPM states that `encrypt` has set aside, below each guest's UUID.
    #[must_use]
    pub fn plain_states(&self) -> PathBuf {
        self.0.join("plain-state")
    }

    /// Damaged TPM states that were set aside, below each guest's UUID.
    #[must_use]
    pub fn damaged_states(&self) -> PathBuf {
        self.0.join("damaged-state")
    }

    /// Made by the package once it has told the running daemon to look for hooks.
    #[must_use]
    pub fn hook_noticed(&self) -> PathBuf {
        self.0.join("hook-noticed")
    }

    /// The log where there is no journald: a host's log is where a host's logs are, that of any
    /// other state directory is inside it.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        if self.0 == Path::new(Self::DEFAULT) {
            LOG.into()
        } else {
            self.0.join("vtpm-guard.log")
        }
    }
}

impl Default for StateDir {
    fn default() -> Self {
        Self::at(Self::DEFAULT)
    }
}

/// From the command line.
impl From<OsString> for StateDir {
    fn from(path: OsString) -> Self {
        Self::at(path)
    }
}

impl Deref for StateDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for StateDir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// The guard's own directory on a tmpfs: what holds for one boot at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run directory with this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Who is being started with which secret of libvirt's: `SECRET-UUID`.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.0.join("secrets")
    }

    /// Notes on starts that have not succeeded yet: `DOMAIN-UUID`.
    #[must_use]
    pub fn starts(&self) -> PathBuf {
        self.0.join("starting")
    }

    /// Marks of transient guests that run under the guard: `DOMAIN-UUID`.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.0.join("running")
    }

    /// A note that virtsecretd is silent while virtqemud starts its guests.
    #[must_use]
    pub fn silence(&self) -> PathBuf {
        self.starts().join("silence")
    }

    /// Guests whose metadata may lack their keys: `DOMAIN-UUID`. vtpm-guard-sync.path watches it.
    #[must_use]
    pub fn unsynced(&self) -> PathBuf {
        self.0.join("unsynced")
    }

    /// Sealed provider keys that a key manager opens again after a reboot: `KEYID`.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Keys for guests that start with the daemon: `SECRET-UUID.base64`.
    #[must_use]
    pub fn staged(&self) -> PathBuf {
        self.0.join("staged")
    }
}

impl Default for RunDir {
    fn default() -> Self {
        Self::at("/run/vtpm-guard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_log_is_in_var_log_and_any_other_in_its_state_directory() {
        for (state_dir, log) in [
            ("/var/lib/vtpm-guard", "/var/log/vtpm-guard.log"),
            ("/var/lib/vtpm-guard/", "/var/log/vtpm-guard.log"),
            ("/srv/state", "/srv/state/vtpm-guard.log"),
        ] {
            assert_eq!(StateDir::at(state_dir).log(), Path::new(log));
        }
    }
}
