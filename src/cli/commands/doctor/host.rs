//! The host around it: room on its disks, the version of libvirt.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::{Ailment, unreadable};
use crate::cli::context::Context;
use crate::host::bounded::bounded;
use crate::host::process;
use crate::manage::host::default_deadline;

/// Below this, in bytes, a disk counts as full.
const SCARCE: u64 = 64 * 1024 * 1024;

/// libvirt runs every program in `qemu.d` since then.
const OLDEST_LIBVIRT: Version = Version(6, 5);

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    let states = context.host.libvirt_dirs().tpm_states();
    let places: [&Path; 2] = [context.host.state_dir(), &states];
    let mut found: Vec<_> = places.into_iter().filter_map(room).collect();
    found.extend(linked_base(&states));
    found.extend(libvirt());
    found
}

fn room(place: &Path) -> Option<Ailment> {
    let asked = place.to_owned();
    let disk = match bounded(place, move || statvfs(&asked)) {
        Some(Ok(disk)) => disk,
        Some(Err(Errno::ENOENT)) => return None,
        Some(Err(errno)) => return Some(unreadable(place, &errno.into())),
        None => {
            return Some(Ailment::fault(
                format!("the file system of {} does not answer", place.display()),
                "no guest whose TPM state is there can start, and nothing is known of any",
                format!("findmnt -T {}", place.display()),
            ));
        }
    };
    let free = disk.blocks_available() * disk.fragment_size();
    (free < SCARCE).then(|| {
        Ailment::fault(
            format!("{} has {} KiB left", place.display(), free / 1024),
            "a new guest's key or TPM state could not be written, and its start would fail",
            format!("df -h {}", place.display()),
        )
    })
}

/// TPM states on another file system, by a link in the place of libvirt's directory.
fn linked_base(base: &Path) -> Option<Ailment> {
    let target = fs::read_link(base).ok()?;
    Some(Ailment::note(
        format!("{} is a link to {}", base.display(), target.display()),
        "where that file system is not mounted, every guest's TPM state counts as missing, and its \
         start is refused (VG205)",
        "have it mounted before the daemon starts: RequiresMountsFor= in a drop-in of libvirtd.service \
         or virtqemud.service",
    ))
}

fn libvirt() -> Option<Ailment> {
    let version = ["libvirtd", "virtqemud"].into_iter().find_map(version_of)?;
    (version < OLDEST_LIBVIRT).then(|| {
        Ailment::fault(
            format!("libvirt {version} does not know /etc/libvirt/hooks/qemu.d"),
            "the hook is never asked",
            "link it as the one hook of this host: ln -s /usr/sbin/vtpm-guard-hook /etc/libvirt/hooks/qemu",
        )
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

/// What a program says of its version; `None` where it is not installed or says nothing.
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
    fn a_link_in_the_place_of_the_base_is_told_as_a_fact() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("swtpm");
        assert!(linked_base(&base).is_none());
        std::os::unix::fs::symlink("/mnt/ceph/swtpm", &base).unwrap();
        let found = linked_base(&base).unwrap();
        assert!(found.what.ends_with("swtpm is a link to /mnt/ceph/swtpm"));
        assert_eq!(found.severity, super::super::Severity::Note);
    }

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
