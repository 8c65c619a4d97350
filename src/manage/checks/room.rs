//! Room on the disks, where TPM states are, the version of libvirt.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::finding::unreadable;
use super::{Finding, HostFinding};
use crate::host::bounded::bounded;
use crate::host::process;
use crate::manage::host::{Host, default_deadline};

/// Below this, in bytes, a disk counts as full.
const SCARCE: u64 = 64 * 1024 * 1024;

/// libvirt runs every program in `qemu.d` since then.
const OLDEST_LIBVIRT: Version = Version(6, 5);

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let states = host.libvirt_dirs().tpm_states();
    let places: [&Path; 2] = [host.state_dir(), &states];
    let mut found: Vec<_> = places.into_iter().filter_map(room).collect();
    let others = linked_states(host, &states)
        .into_iter()
        .chain(old_libvirt(host));
    found.extend(others.map(Finding::from));
    found
}

fn room(place: &Path) -> Option<Finding> {
    let (asked, path) = (place.to_owned(), place.to_owned());
    let disk = match bounded(place, move || statvfs(&asked)) {
        Some(Ok(disk)) => disk,
        Some(Err(Errno::ENOENT)) => return None,
        Some(Err(errno)) => return Some(unreadable(place, errno.into())),
        None => return Some(HostFinding::DeadFileSystem(path).into()),
    };
    let free = disk.blocks_available() * disk.fragment_size();
    let free_kib = free / 1024;
    (free < SCARCE).then(|| HostFinding::Full { path, free_kib }.into())
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
    let version = version_of(host.daemons().of_guests())?;
    (version < OLDEST_LIBVIRT).then(|| HostFinding::OldLibvirt(version.to_string()))
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

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(
            Version::find("libvirtd (libvirt) 11.3.0\n"),
            Some(Version(11, 3))
        );
        assert_eq!(Version::find("no version"), None);
        assert!(Version(6, 10) > OLDEST_LIBVIRT && Version(5, 9) < OLDEST_LIBVIRT);
    }
}
