//! The domain XML of the last refused starts, kept for `replay`. libvirt gives hooks the XML
//! without its secrets, so there are none in these files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::verdict::code::Code;

/// The directory of captures in a state directory.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("captures")
}

/// Keeps the XML of a refused start and removes the oldest beyond `keep` of them. File names
/// sort by time: `MILLISECONDS-CODE-GUEST.xml`.
pub fn keep(state_dir: &Path, xml: &[u8], code: Code, guest: &str, keep: usize) -> io::Result<()> {
    if keep == 0 || xml.is_empty() {
        return Ok(());
    }
    let directory = directory(state_dir);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let Timestamp(now) = Timestamp::now();
    let file_name = format!("{now:015}-{}-{}.xml", code.as_str(), file_name_part(guest));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join(file_name))?;
    file.write_all(xml)?;
    prune(state_dir, keep)
}

/// The captures in `state_dir`, oldest first.
pub fn list(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = match fs::read_dir(directory(state_dir)) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.sort();
    Ok(files)
}

fn prune(state_dir: &Path, keep: usize) -> io::Result<()> {
    let files = list(state_dir)?;
    let surplus = files.len().saturating_sub(keep);
    for file in &files[..surplus] {
        match fs::remove_file(file) {
            // Another hook prunes too.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A guest's name as a part of a file name: short, and of harmless characters.
fn file_name_part(guest: &str) -> String {
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    guest.chars().map(harmless).take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_last_refusals_are_kept_for_root_alone() {
        let state_dir = tempfile::tempdir().unwrap();
        for number in 0..5 {
            let xml = format!("<domain>{number}</domain>");
            let guest = format!("../vm {number}");
            keep(
                state_dir.path(),
                xml.as_bytes(),
                Code::KeyMissing,
                &guest,
                3,
            )
            .unwrap();
        }
        let files = list(state_dir.path()).unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(fs::read_to_string(&files[2]).unwrap(), "<domain>4</domain>");
        assert!(
            files[2].to_str().unwrap().ends_with("-VG201-.._vm_4.xml"),
            "{files:?}"
        );
        let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_to_be_kept() {
        let state_dir = tempfile::tempdir().unwrap();
        keep(state_dir.path(), b"<domain/>", Code::KeyMissing, "vm", 0).unwrap();
        keep(state_dir.path(), b"", Code::KeyMissing, "vm", 3).unwrap();
        assert_eq!(list(state_dir.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
