//! What libvirt saved of a guest's runs: managed saves, and snapshots with the guest's memory. libvirt
//! makes QEMU's user the owner of these directories, so a QEMU that its guest has taken over may put
//! anything there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::context::Guard;
use crate::domain::Domain;
use crate::host::bounded::bounded;
use crate::host::interrupted::read_dir;
use crate::host::others;

/// How much of a snapshot's file is read, in bytes: libvirt reads no more, either.
const READ_LIMIT: u64 = 1024 * 1024;

/// How many files of one guest are looked at, and how much is read of them all, in bytes. A guest with
/// hundreds of snapshots has a few megabytes of them.
const MAX_FILES: usize = 1024;
const TOTAL_LIMIT: u64 = 64 * 1024 * 1024;

/// Returns the names of the guest's snapshots with memory: they contain its TPM as it was. Returns
/// within seconds. What cannot be read counts as none.
pub(super) fn snapshots(guard: &Guard, domain: &Domain) -> Vec<String> {
    if !is_file_name(&domain.name) {
        return Vec::new();
    }
    let all = guard.config.libvirt.snapshots();
    let of_guest = all.join(&domain.name);
    let path = of_guest.display().to_string();
    let found = bounded(&all, move || with_memory(&of_guest)).map_err(io::Error::other);
    match found.flatten() {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, path, "the guest's snapshots could not be read");
            Vec::new()
        }
    }
}

/// Returns the names of the snapshots with memory in this directory.
fn with_memory(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut left = TOTAL_LIMIT;
    for (number, entry) in read_dir(dir)?.enumerate() {
        if number == MAX_FILES || left == 0 {
            let dir = dir.display();
            tracing::warn!(%dir, "there is more here than a guest has snapshots, and the rest is not read");
            break;
        }
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        // One that is deleted meanwhile, or not libvirt's, contains no TPM.
        let Ok(xml) = others::read(&path, READ_LIMIT.min(left)) else {
            continue;
        };
        left -= xml.len() as u64;
        let xml = String::from_utf8_lossy(&xml);
        let has = |kind: &str| xml.contains(&format!("<memory snapshot='{kind}'"));
        if has("internal") || has("external") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns whether the next start of the guest with this name continues from a managed save. Returns
/// within seconds.
#[must_use]
pub fn has_managed_save(guard: &Guard, name: &str) -> bool {
    if !is_file_name(name) {
        return false;
    }
    let saves = guard.config.libvirt.managed_saves();
    let save = saves.join(format!("{name}.save"));
    let path = save.display().to_string();
    // libvirt opens what is there, and from anything but a file it restores nothing.
    let found = bounded(&saves, move || fs::metadata(save)).map_err(io::Error::other);
    match found.flatten() {
        Ok(found) => found.is_file(),
        Err(error) => {
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                tracing::warn!(%error, path, "whether there is a managed save could not be seen");
            }
            false
        }
    }
}

/// Returns whether a guest's name is safe in a path. At `restore` a caller may pass anything.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.contains('/') && name != ".."
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{LibvirtDirs, StateDir};
    use crate::ids::DomainUuid;
    use crate::log::Warnings;

    /// A guest with a directory for its snapshots.
    fn setting() -> (TempDir, Guard, Domain, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path().join("state"));
        let mut guard = Guard::new(Config::default(), state_dir);
        guard.config.libvirt = LibvirtDirs::below(dir.path());
        let domain = Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
            travelling: None,
        };
        let of_vm1 = guard.config.libvirt.snapshots().join("vm1");
        fs::create_dir_all(&of_vm1).unwrap();
        (dir, guard, domain, of_vm1)
    }

    /// What QEMU's user may put there ends no start and delays none.
    #[test]
    fn neither_a_fifo_nor_an_endless_file_nor_thousands_of_files_are_waited_for() {
        let (_dir, guard, domain, of_vm1) = setting();
        fs::write(of_vm1.join("a.xml"), "<memory snapshot='internal'/>").unwrap();
        mkfifo(&of_vm1.join("fifo.xml"), Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", of_vm1.join("endless.xml")).unwrap();
        symlink(of_vm1.join("a.xml"), of_vm1.join("link.xml")).unwrap();
        let started = Instant::now();
        assert_eq!(snapshots(&guard, &domain), ["a"]);
        // Sparse: they need no room.
        for number in 0..100 {
            let file = File::create(of_vm1.join(format!("long{number}.xml"))).unwrap();
            file.set_len(1 << 40).unwrap();
        }
        for number in 0..10_000 {
            let memory = "<memory snapshot='internal'/>";
            fs::write(of_vm1.join(format!("{number}.xml")), memory).unwrap();
        }
        assert!(snapshots(&guard, &domain).len() <= MAX_FILES);
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    /// A guest without snapshots has no directory for them, which is nothing to warn of.
    #[test]
    fn what_cannot_be_looked_at_is_warned_of_and_what_is_not_there_is_not() {
        let (_dir, guard, domain, of_vm1) = setting();
        let saves = guard.config.libvirt.managed_saves();
        let save = saves.join("vm1.save");
        let warnings = || {
            Warnings::of(|| {
                assert_eq!(snapshots(&guard, &domain), [""; 0]);
                assert!(!has_managed_save(&guard, &domain.name));
            })
            .lines
        };
        fs::remove_dir(&of_vm1).unwrap();
        assert_eq!(warnings(), [""; 0]);
        fs::write(&saves, "no directory").unwrap();
        assert_eq!(warnings(), [""; 0]);
        fs::remove_file(&saves).unwrap();
        fs::create_dir(&saves).unwrap();
        symlink(&of_vm1, &of_vm1).unwrap();
        symlink(&save, &save).unwrap();
        let found = warnings();
        assert!(
            found.len() == 2 && found[0].contains("snapshots") && found[1].contains("managed save"),
            "{found:?}"
        );
    }

    #[test]
    fn so_much_is_read_of_all_snapshots_together() {
        let (_dir, guard, domain, of_vm1) = setting();
        for number in 0..TOTAL_LIMIT / READ_LIMIT + 3 {
            let path = of_vm1.join(format!("{number}.xml"));
            fs::write(&path, "<memory snapshot='internal'/>").unwrap();
            // Sparse: they need no room.
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(READ_LIMIT).unwrap();
        }
        let read = snapshots(&guard, &domain).len() as u64;
        assert_eq!(read, TOTAL_LIMIT / READ_LIMIT);
    }

    #[test]
    fn only_a_file_is_a_managed_save() {
        let (_dir, guard, ..) = setting();
        let saves = guard.config.libvirt.managed_saves();
        assert!(!has_managed_save(&guard, "vm1"));
        fs::create_dir_all(saves.join("vm1.save")).unwrap();
        mkfifo(&saves.join("vm2.save"), Mode::S_IRWXU).unwrap();
        symlink("/nowhere", saves.join("vm3.save")).unwrap();
        for name in ["vm1", "vm2", "vm3", "vm4"] {
            assert!(!has_managed_save(&guard, name), "{name}");
        }
        // Somebody has moved a large one to where there is room.
        fs::write(saves.join("moved"), "").unwrap();
        symlink(saves.join("moved"), saves.join("vm4.save")).unwrap();
        fs::write(saves.join("vm5.save"), "").unwrap();
        for name in ["vm4", "vm5"] {
            assert!(has_managed_save(&guard, name), "{name}");
        }
        assert!(!has_managed_save(&guard, "../save/vm5"));
    }

    #[test]
    fn snapshots_with_memory_are_found_by_name() {
        let (_dir, guard, domain, of_vm1) = setting();
        for (name, memory) in [
            ("b", "<memory snapshot='internal'/>"),
            ("a", "<memory snapshot='external' file='/x'/>"),
            (
                "disks",
                "<memory snapshot='no'/><domain><memory unit='KiB'/></domain>",
            ),
        ] {
            fs::write(of_vm1.join(format!("{name}.xml")), memory).unwrap();
        }
        assert_eq!(snapshots(&guard, &domain), ["a", "b"]);
        let elsewhere = Domain {
            name: "../snapshot/vm1".to_owned(),
            ..domain
        };
        assert!(snapshots(&guard, &elsewhere).is_empty());
    }
}
