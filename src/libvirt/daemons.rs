//! Which daemons this host's libvirt has: the one place that says so. Whatever names a daemon or its unit
//! asks here.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;

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
    /// libvirtd is started. A socket's file that is left without either is nobody's.
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
        let is_modular = is_served(&dirs.socket(modular))
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

/// Returns whether a daemon, or systemd in its place, has this socket: a datagram socket cannot
/// connect to it, and the error says why without anybody being called or started (connect(2); the
/// kernel's `unix_find_bsd`).
fn is_served(socket: &Path) -> bool {
    let tried = UnixDatagram::unbound().and_then(|probe| probe.connect(socket));
    match tried {
        Ok(()) => true,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => false,
            Some(Errno::EPROTOTYPE) => true,
            _ => socket.exists(),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// virtqemud's.
    #[derive(Debug, Clone, Copy)]
    enum Socket {
        None,
        /// Its file is left of a daemon that is gone.
        Stale,
        Served,
    }

    #[test]
    fn the_daemons_in_use_are_found_whatever_is_installed() {
        use Daemons::{Modular, Monolithic};
        let both = &["libvirtd", "virtqemud"][..];
        for (installed, socket, pid_file, daemons) in [
            (both, Socket::None, None, Monolithic),
            (both, Socket::Served, None, Modular),
            (both, Socket::None, Some("virtqemud"), Modular),
            (both, Socket::Served, Some("libvirtd"), Monolithic),
            // Nobody has removed its file, and its number is another's by now.
            (both, Socket::Served, Some("libvirtd was killed"), Modular),
            (both, Socket::Stale, None, Monolithic),
            (both, Socket::Stale, Some("virtqemud"), Modular),
            (&["libvirtd"], Socket::Stale, None, Monolithic),
            (&["libvirtd"], Socket::None, None, Monolithic),
            (&["virtqemud"], Socket::None, None, Modular),
            (&["virtqemud"], Socket::Stale, None, Modular),
            (&[], Socket::None, None, Monolithic),
        ] {
            let root = tempfile::tempdir().unwrap();
            let (dirs, proc) = (LibvirtDirs::below(root.path()), root.path().join("proc"));
            fs::create_dir_all(&dirs.run).unwrap();
            fs::create_dir_all(proc.join("7")).unwrap();
            let bind = || UnixListener::bind(dirs.socket("virtqemud")).unwrap();
            let _listener = match socket {
                Socket::None => None,
                Socket::Stale => {
                    drop(bind());
                    None
                }
                Socket::Served => Some(bind()),
            };
            if let Some(words) = pid_file {
                let (daemon, killed) = words.split_once(' ').unwrap_or((words, ""));
                fs::write(dirs.pid_file(daemon), "7\n").unwrap();
                let name = if killed.is_empty() { daemon } else { "sshd" };
                fs::write(proc.join("7/comm"), name).unwrap();
                fs::write(proc.join("7/stat"), format!("7 ({name}) S 1")).unwrap();
                fs::write(proc.join("7/status"), "Uid:\t0\t0\t0\t0\n").unwrap();
            }
            let found = Daemons::find(&dirs, &proc, &|program| installed.contains(&program));
            assert_eq!(found, daemons, "{installed:?} {socket:?} {pid_file:?}");
        }
    }
}
