//! Every path of libvirt's that this program knows.

use std::path::{Path, PathBuf};

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
}

impl Default for LibvirtDirs {
    fn default() -> Self {
        Self {
            config: "/etc/libvirt".into(),
            state: "/var/lib/libvirt".into(),
            run: "/run/libvirt".into(),
            tpm: None,
        }
    }
}

impl LibvirtDirs {
    /// The TPM states: `UUID/tpm2/tpm2-00.permall`.
    #[must_use]
    pub fn tpm_states(&self) -> PathBuf {
        let usual = || self.state.join("swtpm");
        self.tpm.clone().unwrap_or_else(usual)
    }

    /// The definitions of persistent guests, `NAME.xml`; below it `autostart`.
    #[must_use]
    pub fn definitions(&self) -> PathBuf {
        self.config.join("qemu")
    }

    /// The secrets that are not ephemeral.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.config.join("secrets")
    }

    /// The hooks.
    #[must_use]
    pub fn hooks(&self) -> PathBuf {
        self.config.join("hooks")
    }

    /// Where libvirt 6.5 and later look for this hook.
    #[must_use]
    pub fn hook_link(&self) -> PathBuf {
        self.hooks().join("qemu.d/50-vtpm-guard")
    }

    /// The one hook that earlier ones run, and later ones run, too.
    #[must_use]
    pub fn only_hook(&self) -> PathBuf {
        self.hooks().join("qemu")
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

    /// What it saved of runs that have not ended: managed saves in `save`, snapshots in `snapshot`.
    #[must_use]
    pub fn saved(&self) -> PathBuf {
        self.state.join("qemu")
    }

    /// The guests that libvirt-guests has saved or shut down, and will start again.
    #[must_use]
    pub fn stopped_for_shutdown(&self) -> PathBuf {
        self.state.join("libvirt-guests")
    }

    /// Where this daemon (`libvirtd`, `virtqemud`) writes its process id when it starts.
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
    fn the_places_are_those_that_distributions_build_in() {
        let dirs = LibvirtDirs::default();
        for (found, wanted) in [
            (dirs.tpm_states(), "/var/lib/libvirt/swtpm"),
            (dirs.definitions(), "/etc/libvirt/qemu"),
            (dirs.secrets(), "/etc/libvirt/secrets"),
            (dirs.hooks(), "/etc/libvirt/hooks"),
            (dirs.qemu_conf(), "/etc/libvirt/qemu.conf"),
            (dirs.running(), "/run/libvirt/qemu"),
            (dirs.saved(), "/var/lib/libvirt/qemu"),
            (
                dirs.stopped_for_shutdown(),
                "/var/lib/libvirt/libvirt-guests",
            ),
            (dirs.pid_file("libvirtd"), "/run/libvirtd.pid"),
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
