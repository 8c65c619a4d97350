//! Room on the disks, where TPM states are, the version of libvirt.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

use super::finding::unreadable;
use super::{Finding, HostFinding, Volatile};
use crate::host::bounded::{Unanswered, bounded};
use crate::host::dirs::LibvirtDirs;
use crate::host::process;
use crate::host::volatile::is_volatile;
use crate::manage::host::{Host, default_deadline};

/// Below this, in bytes, a disk counts as full.
const SCARCE: u64 = 64 * 1024 * 1024;

/// libvirt runs every program in `qemu.d` since then.
const OLDEST_LIBVIRT: Version = Version(6, 5);

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let states = host.libvirt_dirs().tpm_states();
    let places: [&Path; 2] = [host.state_dir(), &states];
    let mut found: Vec<_> = places.into_iter().filter_map(room).collect();
    let others = volatile(host.state_dir(), Volatile::Keys)
        .into_iter()
        .chain(volatile(&states, Volatile::States))
        .chain(linked_states(host, &states))
        .chain(old_libvirt(host));
    found.extend(others.map(Finding::from));
    found
}

fn room(place: &Path) -> Option<Finding> {
    let (asked, path) = (place.to_owned(), place.to_owned());
    let disk = match bounded(place, move || statvfs(&asked)) {
        Ok(Ok(disk)) => disk,
        Ok(Err(Errno::ENOENT)) => return None,
        Ok(Err(errno)) => return Some(unreadable(place, errno.into())),
        Err(Unanswered::NoThread(error)) => return Some(unreadable(place, error)),
        Err(Unanswered::TimedOut) => return Some(HostFinding::DeadFileSystem(path).into()),
    };
    full(path, (disk.blocks_available(), disk.fragment_size())).map(Finding::from)
}

/// Whether a disk with so many free blocks of this size is full.
fn full(path: PathBuf, (blocks, size): (u64, u64)) -> Option<HostFinding> {
    let free = blocks * size;
    let free_kib = free / 1024;
    (free < SCARCE).then_some(HostFinding::Full { path, free_kib })
}

/// Whether what is there is lost at the next boot. One that cannot be looked at is reported by [`room`].
fn volatile(place: &Path, what: Volatile) -> Option<HostFinding> {
    let asked = place.to_owned();
    let found = bounded(place, move || statfs(&asked)).ok()?.ok()?;
    let path = place.to_owned();
    is_volatile(found.filesystem_type()).then_some(HostFinding::Volatile { path, what })
}

/// TPM states on another file system, by a link in the place of libvirt's directory.
fn linked_states(host: &Host, states: &Path) -> Option<HostFinding> {
    let target = fs::read_link(states).ok()?;
    let (path, daemons) = (states.to_owned(), host.daemons());
    Some(HostFinding::LinkedStates {
        path,
        target,
        daemons,
    })
}

fn old_libvirt(host: &Host) -> Option<HostFinding> {
    old(
        version_of(host.daemons().of_guests())?,
        &host.libvirt_dirs(),
    )
}

fn old(version: Version, dirs: &LibvirtDirs) -> Option<HostFinding> {
    (version < OLDEST_LIBVIRT).then(|| HostFinding::OldLibvirt {
        version: version.to_string(),
        directory: dirs.hooks(),
        only_hook: dirs.only_hook(),
    })
}

/// The first two numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// The first word of these that looks like one, as in "libvirtd (libvirt) 9.0.0".
    fn find(words: &str) -> Option<Self> {
        words.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.');
            let version = Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
            Some(version)
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The version that a program reports; `None` where it is not installed or reports none.
fn version_of(program: &str) -> Option<Version> {
    let output = process::run(
        Path::new(program),
        &["--version"],
        b"",
        4096,
        default_deadline(),
    );
    Version::find(&String::from_utf8_lossy(&output.ok()?.stdout))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::host::process::tests::write_program;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(
            Version::find("libvirtd (libvirt) 11.3.0\n"),
            Some(Version(11, 3))
        );
        assert_eq!(Version::find("no version"), None);
        assert!(Version(6, 10) > OLDEST_LIBVIRT && Version(5, 9) < OLDEST_LIBVIRT);
    }

    #[test]
    fn a_libvirt_that_would_not_run_the_hook_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = dir.path().join("libvirtd");
        write_program(
            &daemon,
            "#!/bin/sh\n[ $1 = --version ] && echo libvirtd 6.4.0\n",
        );
        let version = version_of(daemon.to_str().unwrap());
        assert_eq!(version, Some(Version(6, 4)));
        let dirs = LibvirtDirs {
            config: "/var/lib/libvirt".into(),
            ..LibvirtDirs::default()
        };
        let found = old(Version(6, 4), &dirs);
        assert!(
            matches!(found, Some(HostFinding::OldLibvirt { version, directory, only_hook })
                if version == "6.4"
                    && directory == Path::new("/var/lib/libvirt/hooks/qemu.d")
                    && only_hook == Path::new("/var/lib/libvirt/hooks/qemu"))
        );
        assert!(old(Version(6, 5), &dirs).is_none() && old(Version(9, 0), &dirs).is_none());
    }

    #[test]
    fn what_is_not_there_has_no_disk_and_what_cannot_be_looked_at_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(room(&dir.path().join("missing")).is_none());
        assert!(room(&file.join("below")).is_some());
    }

    #[test]
    fn what_is_in_memory_alone_is_reported() {
        let what = Volatile::Keys;
        let memory = Path::new("/dev/shm");
        let found = volatile(memory, what);
        assert!(matches!(found, Some(HostFinding::Volatile { path, .. }) if path == memory));
        assert!(volatile(Path::new("/proc"), what).is_none());
        assert!(volatile(Path::new("/nowhere"), what).is_none());
    }

    #[test]
    fn a_disk_with_less_than_64_mib_is_full() {
        let blocks = 64 * 1024 * 1024 / 4096;
        let found = full("/there".into(), (blocks - 1, 4096));
        let free_kib = 64 * 1024 - 4;
        assert!(
            matches!(found, Some(HostFinding::Full { free_kib: found, .. }) if found == free_kib)
        );
        assert!(full("/there".into(), (blocks, 4096)).is_none());
    }
}
