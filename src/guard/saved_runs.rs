//! What libvirt saved of a guest's runs: managed saves, and snapshots with the guest's memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::context::Guard;
use crate::domain::Domain;

/// How much of a file of libvirt's is read, in bytes.
const READ_LIMIT: u64 = 1024 * 1024;

/// Returns the names of the guest's snapshots with memory: they contain its TPM as it was.
pub(super) fn snapshots(guard: &Guard, domain: &Domain) -> Vec<String> {
    if !is_file_name(&domain.name) {
        return Vec::new();
    }
    let all = guard.config.libvirt.snapshots();
    let entries = all.join(&domain.name).read_dir();
    let mut names: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let has_memory = read_definition(&path).is_some_and(|xml| {
                ["internal", "external"]
                    .iter()
                    .any(|kind| xml.contains(&format!("<memory snapshot='{kind}'")))
            });
            let name = path.file_stem()?.to_str()?.to_owned();
            has_memory.then_some(name)
        })
        .collect();
    names.sort();
    names
}

/// Returns whether the next start of the guest with this name continues from a managed save.
#[must_use]
pub fn has_managed_save(guard: &Guard, name: &str) -> bool {
    let save = guard.config.libvirt.managed_saves();
    is_file_name(name) && save.join(format!("{name}.save")).exists()
}

/// Returns whether a guest's name is safe in a path. At `restore` a caller may pass anything.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.contains('/') && name != ".."
}

pub(super) fn read_definition(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(READ_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{LibvirtDirs, StateDir};
    use crate::ids::DomainUuid;

    #[test]
    fn snapshots_with_memory_are_found_by_name() {
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
