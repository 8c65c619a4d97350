//! Which daemons this host's libvirt has: the one place that says so. Whatever names a daemon or its unit
//! asks here.

use std::path::Path;

use super::daemon::runs_in;
use crate::host::dirs::{LibvirtDirs, PROC, SEARCH_PATH};

/// The daemons of a libvirt that runs QEMU guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    /// libvirtd alone.
    Monolithic,
    /// virtqemud for guests, virtsecretd for secrets, virtproxyd for other hosts.
    Modular,
}

impl Daemons {
    /// Returns those of this host. Both may be installed, and never both in use (their units
    /// conflict). systemd removes virtqemud's socket when its unit is stopped, as it is whenever
    /// libvirtd is started; the libvirt library goes by that socket, too.
    #[must_use]
    pub fn of_host(dirs: &LibvirtDirs) -> Self {
        Self::find(dirs, Path::new(PROC), &|program| {
            let mut directories = SEARCH_PATH.split(':').map(Path::new);
            directories.any(|directory| directory.join(program).exists())
        })
    }

    fn find(dirs: &LibvirtDirs, proc: &Path, is_installed: &dyn Fn(&str) -> bool) -> Self {
        let [monolithic, modular] = [Self::Monolithic, Self::Modular].map(Self::of_guests);
        let runs = |daemon| runs_in(proc, &dirs.pid_file(daemon), daemon);
        let is_modular = dirs.socket(modular).exists()
            || runs(modular)
            || is_installed(modular) && !is_installed(monolithic);
        if is_modular && !runs(monolithic) {
            Self::Modular
        } else {
            Self::Monolithic
        }
    }

    /// The name of the daemon that runs guests and their hooks, which is its unit's, too.
    #[must_use]
    pub fn of_guests(self) -> &'static str {
        match self {
            Self::Monolithic => "libvirtd",
            Self::Modular => "virtqemud",
        }
    }

    /// The name of the daemon that has the secrets.
    #[must_use]
    pub fn of_secrets(self) -> &'static str {
        match self {
            Self::Monolithic => "libvirtd",
            Self::Modular => "virtsecretd",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_daemons_in_use_are_found_whatever_is_installed() {
        use Daemons::{Modular, Monolithic};
        let both = &["libvirtd", "virtqemud"][..];
        for (installed, socket, pid_file, daemons) in [
            (both, false, None, Monolithic),
            (both, true, None, Modular),
            (both, false, Some("virtqemud"), Modular),
            (both, true, Some("libvirtd"), Monolithic),
            // Nobody has removed its file, and its number is another's by now.
            (both, true, Some("libvirtd was killed"), Modular),
            (&["libvirtd"], false, None, Monolithic),
            (&["virtqemud"], false, None, Modular),
            (&[], false, None, Monolithic),
        ] {
            let root = tempfile::tempdir().unwrap();
            let (dirs, proc) = (LibvirtDirs::below(root.path()), root.path().join("proc"));
            fs::create_dir_all(&dirs.run).unwrap();
            fs::create_dir_all(proc.join("7")).unwrap();
            if socket {
                fs::write(dirs.socket("virtqemud"), "").unwrap();
            }
            if let Some(words) = pid_file {
                let (daemon, killed) = words.split_once(' ').unwrap_or((words, ""));
                fs::write(dirs.pid_file(daemon), "7\n").unwrap();
                let name = if killed.is_empty() { daemon } else { "sshd" };
                fs::write(proc.join("7/comm"), name).unwrap();
                fs::write(proc.join("7/stat"), format!("7 ({name}) S 1")).unwrap();
            }
            let found = Daemons::find(&dirs, &proc, &|program| installed.contains(&program));
            assert_eq!(found, daemons, "{installed:?} {socket} {pid_file:?}");
        }
    }
}
