//! Every path that this program knows: its own, libvirt's, the system's.

use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// The configuration, unless `--config` says otherwise.
pub const CONFIG: &str = "/etc/vtpm-guard/config.toml";

/// The hook, as packages install it.
pub const HOOK: &str = "/usr/sbin/vtpm-guard-hook";

/// The helper that is linked with libvirt, as packages install it.
pub const HELPER: &str = "/usr/libexec/vtpm-guard-libvirt";

/// The log of a host without journald.
const LOG: &str = "/var/log/vtpm-guard.log";

/// journald's socket.
pub const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";

/// Where programs are looked for; the caller's own `PATH` is not asked.
pub const SEARCH_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The host's users (passwd(5)).
pub const PASSWD: &str = "/etc/passwd";

/// The host's groups (group(5)).
pub const GROUP: &str = "/etc/group";

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

    /// Guests whose metadata may lack their keys: `DOMAIN-UUID`. vtpm-guard-sync.path watches it.
    #[must_use]
    pub fn unsynced(&self) -> PathBuf {
        self.0.join("unsynced")
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

/// Where a system libvirt keeps its files. Distributions build it with other directories; `[libvirt]`
/// of the configuration says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtDirs {
    /// `libvirt.config_dir`: definitions, secrets, hooks, `qemu.conf`.
    pub config: PathBuf,
    /// `libvirt.state_dir`: what libvirt keeps over a boot.
    pub state: PathBuf,
    /// `libvirt.run_dir`: what it does not.
    pub run: PathBuf,
    /// `libvirt.tpm_dir`: TPM states; `None` is the usual place below `state`.
    pub tpm: Option<PathBuf>,
    /// The logs of swtpm: `NAME-swtpm.log`.
    pub swtpm_logs: PathBuf,
}

impl Default for LibvirtDirs {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl LibvirtDirs {
    /// The usual places below another root.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            config: root.join("etc/libvirt"),
            state: root.join("var/lib/libvirt"),
            run: root.join("run/libvirt"),
            tpm: None,
            swtpm_logs: root.join("var/log/swtpm/libvirt/qemu"),
        }
    }

    /// The TPM states: `UUID/tpm2/tpm2-00.permall`.
    #[must_use]
    pub fn tpm_states(&self) -> PathBuf {
        let usual = || self.state.join("swtpm");
        self.tpm.clone().unwrap_or_else(usual)
    }

    /// The definitions of persistent guests, `NAME.xml`.
    #[must_use]
    pub fn definitions(&self) -> PathBuf {
        self.config.join("qemu")
    }

    /// Links to the definitions of guests that start with the daemon, `NAME.xml`.
    #[must_use]
    pub fn autostart(&self) -> PathBuf {
        self.definitions().join("autostart")
    }

    /// The secrets that are not ephemeral.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.config.join("secrets")
    }

    /// The one hook that libvirt before 6.5 runs, and later ones run, too.
    #[must_use]
    pub fn only_hook(&self) -> PathBuf {
        self.config.join("hooks/qemu")
    }

    /// The other hooks of libvirt 6.5 and later.
    #[must_use]
    pub fn hooks(&self) -> PathBuf {
        self.config.join("hooks/qemu.d")
    }

    /// Where libvirt 6.5 and later look for this hook.
    #[must_use]
    pub fn hook_link(&self) -> PathBuf {
        self.hooks().join("50-vtpm-guard")
    }

    /// The link by which libvirt runs the hook, or the one that should be there.
    #[must_use]
    pub fn present_hook(&self) -> PathBuf {
        let (link, only) = (self.hook_link(), self.only_hook());
        let is_the_only_one = fs::read_link(&only).is_ok_and(|target| target == Path::new(HOOK));
        if is_the_only_one && !link.exists() {
            only
        } else {
            link
        }
    }

    /// The configuration of the QEMU driver.
    #[must_use]
    pub fn qemu_conf(&self) -> PathBuf {
        self.config.join("qemu.conf")
    }

    /// The notes on running guests, `NAME.xml`.
    #[must_use]
    pub fn running(&self) -> PathBuf {
        self.run.join("qemu")
    }

    /// There once the daemon has started its guests after a boot: it does so only once
    /// (`virDriverShouldAutostart` in libvirt's `src/driver.c`).
    #[must_use]
    pub fn autostarted(&self) -> PathBuf {
        self.running().join("autostarted")
    }

    /// What `virsh managedsave` wrote: `NAME.save`.
    #[must_use]
    pub fn managed_saves(&self) -> PathBuf {
        self.state.join("qemu/save")
    }

    /// The snapshots: `NAME/SNAPSHOT.xml`.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("qemu/snapshot")
    }

    /// The guests that libvirt-guests has saved or shut down, and will start again.
    #[must_use]
    pub fn stopped_for_shutdown(&self) -> PathBuf {
        self.state.join("libvirt-guests")
    }

    /// The socket of this modular daemon (`virtqemud`).
    #[must_use]
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.run.join(format!("{daemon}-sock"))
    }

    /// Where this daemon (`libvirtd`, `virtqemud`) writes its process id when it starts. The file of
    /// one that was killed stays.
    #[must_use]
    pub fn pid_file(&self, daemon: &str) -> PathBuf {
        let beside = self.run.parent().unwrap_or(Path::new("/run"));
        beside.join(format!("{daemon}.pid"))
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

    #[test]
    fn the_paths_are_those_that_distributions_build_in() {
        let dirs = LibvirtDirs::default();
        for (found, wanted) in [
            (dirs.tpm_states(), "/var/lib/libvirt/swtpm"),
            (dirs.definitions(), "/etc/libvirt/qemu"),
            (dirs.secrets(), "/etc/libvirt/secrets"),
            (dirs.only_hook(), "/etc/libvirt/hooks/qemu"),
            (dirs.hook_link(), "/etc/libvirt/hooks/qemu.d/50-vtpm-guard"),
            (dirs.qemu_conf(), "/etc/libvirt/qemu.conf"),
            (dirs.running(), "/run/libvirt/qemu"),
            (dirs.autostarted(), "/run/libvirt/qemu/autostarted"),
            (dirs.managed_saves(), "/var/lib/libvirt/qemu/save"),
            (dirs.snapshots(), "/var/lib/libvirt/qemu/snapshot"),
            (
                dirs.stopped_for_shutdown(),
                "/var/lib/libvirt/libvirt-guests",
            ),
            (dirs.pid_file("libvirtd"), "/run/libvirtd.pid"),
            (dirs.socket("virtqemud"), "/run/libvirt/virtqemud-sock"),
            (dirs.swtpm_logs.clone(), "/var/log/swtpm/libvirt/qemu"),
        ] {
            assert_eq!(found, Path::new(wanted));
        }
    }

    #[test]
    fn on_nixos_libvirt_keeps_its_configuration_below_var_lib() {
        let dirs = LibvirtDirs {
            config: "/var/lib/libvirt".into(),
            tpm: Some("/tank/swtpm".into()),
            ..LibvirtDirs::default()
        };
        assert_eq!(dirs.definitions(), Path::new("/var/lib/libvirt/qemu"));
        assert_eq!(dirs.tpm_states(), Path::new("/tank/swtpm"));
    }
}
