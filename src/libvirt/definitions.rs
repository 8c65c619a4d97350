//! libvirt's definitions of persistent guests, read from its own files: a hook must not ask
//! libvirt about guests.

use std::fs;
use std::path::Path;

use crate::clock::Deadline;
use crate::domain::{self, Domain};

/// The longest definition that is read, in bytes; a real one has a few thousand.
const MAX_LEN: u64 = 1024 * 1024;

/// The guests whose definition holds this text, a UUID as libvirt writes it, by name. What
/// cannot be read, and what is not reached by the deadline, is left out.
#[must_use]
pub fn holding(dir: &Path, text: &str, deadline: Deadline) -> Vec<Domain> {
    let Ok(entries) = dir.read_dir() else {
        return Vec::new();
    };
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "xml"));
    let mut found: Vec<_> = files
        .take_while(|_| !deadline.has_passed())
        .filter_map(|path| read(&path, |xml| xml.contains(text)))
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The definition of this name.
#[must_use]
pub fn named(dir: &Path, name: &str) -> Option<Domain> {
    read(&dir.join(format!("{name}.xml")), |_| true)
}

fn read(path: &Path, is_wanted: impl FnOnce(&str) -> bool) -> Option<Domain> {
    let is_small = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_LEN);
    let xml = is_small.then(|| fs::read_to_string(path).ok()).flatten()?;
    is_wanted(&xml)
        .then(|| domain::read(xml.as_bytes()).ok())
        .flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn definitions_are_found_by_what_they_hold_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = |number: u32| format!("11111111-2222-4333-8444-{number:012}");
        for number in 1..=3 {
            let xml = format!(
                "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n<domain type='kvm'>\
                 <name>vm{number}</name><uuid>{}</uuid></domain>\n",
                uuid(number)
            );
            fs::write(dir.path().join(format!("vm{number}.xml")), xml).unwrap();
        }
        fs::write(
            dir.path().join("broken.xml"),
            format!("<domain>{}", uuid(2)),
        )
        .unwrap();
        fs::create_dir(dir.path().join("a.xml")).unwrap();
        let soon = Deadline::after(Duration::from_secs(20));
        let found = holding(dir.path(), &uuid(2), soon);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "vm2");
        assert_eq!(holding(dir.path(), "11111111", soon).len(), 3);
        let passed = Deadline::after(Duration::ZERO);
        assert!(holding(dir.path(), "11111111", passed).is_empty());
        assert_eq!(named(dir.path(), "vm3").unwrap().uuid.to_string(), uuid(3));
        assert!(named(dir.path(), "vm4").is_none());
        assert!(holding(Path::new("/nowhere"), "x", soon).is_empty());
    }
}
