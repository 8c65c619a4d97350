//! Where libvirt keeps its files.

use std::fs;
use std::path::{Path, PathBuf};

use super::HOOK;

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
