//! The domain XML of the last refused starts, kept for `replay`.
//!
//! At `prepare` libvirt leaves out the passwords of graphics devices, and nothing else. What else
//! a definition holds is in these files, too, and may be confidential: OEM strings and credentials
//! in `<sysinfo>`, arguments in `<qemu:commandline>`, cloud-init's user data in `<metadata>`. So
//! they are readable by root only, and few. At `restore`, where the passwords are there, none is kept.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::dirs::StateDir;
use crate::host::interrupted::read_dir;
use crate::host::trusted;
use crate::verdict::code::Code;

/// Keeps the XML of a refused start and removes the oldest beyond `keep` of them. File names
/// sort by time: `MILLISECONDS-CODE-GUEST.xml`. Where none is to be kept, those of before go too.
pub fn keep(
    state_dir: &StateDir,
    xml: &[u8],
    code: Code,
    guest: &str,
    keep: usize,
) -> io::Result<()> {
    if keep == 0 {
        return prune(state_dir, keep);
    }
    if xml.is_empty() {
        return Ok(());
    }
    let directory = trusted::make_dir(&state_dir.captures(), trusted::STATE_DIR)?;
    let Timestamp(now) = Timestamp::now();
    let file_name = format!("{now:015}-{}-{}.xml", code.as_str(), file_name_part(guest));
    atomic::create(&directory, OsStr::new(&file_name), xml)?;
    prune(state_dir, keep)
}

/// The XML of one refused start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// When the start was refused.
    pub at: Timestamp,
    /// Why.
    pub code: Code,
    /// The guest's name, as far as it fits into a file name.
    pub guest: String,
    /// The file.
    pub path: PathBuf,
}

impl Capture {
    /// Reads `MILLISECONDS-CODE-GUEST.xml`; other files are not ours.
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".xml")?;
        let mut parts = name.splitn(3, '-');
        let at = Timestamp(parts.next()?.parse().ok()?);
        let code = Code::parse(parts.next()?)?;
        let guest = parts.next()?.to_owned();
        Some(Self {
            at,
            code,
            guest,
            path,
        })
    }
}

/// The captures in `state_dir`, oldest first. Those of a clock that was ahead and has been set back since are the oldest:
/// otherwise they would stay, and each new one go.
pub fn list(state_dir: &StateDir) -> io::Result<Vec<Capture>> {
    let entries = match read_dir(state_dir.captures()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut captures: Vec<_> = paths?.into_iter().filter_map(Capture::parse).collect();
    let now = Timestamp::now();
    captures.sort_by_cached_key(|it| (!it.at.is_ahead_of(now), it.path.clone()));
    Ok(captures)
}

fn prune(state_dir: &StateDir, keep: usize) -> io::Result<()> {
    let captures = list(state_dir)?;
    let surplus = captures.len().saturating_sub(keep);
    for capture in &captures[..surplus] {
        // Another hook prunes too.
        atomic::remove_path(&capture.path)?;
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state_dir() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        (dir, state_dir)
    }

    #[test]
    fn a_refusal_is_kept_even_if_the_clock_was_ahead_at_those_before() {
        let (_dir, state_dir) = state_dir();
        let keep_two = |guest| keep(&state_dir, b"<domain/>", Code::KeyMissing, guest, 2).unwrap();
        let guests = || -> Vec<_> {
            let captures = list(&state_dir).unwrap().into_iter();
            captures.map(|it| it.guest).collect()
        };
        keep_two("vm1");
        keep_two("vm2");
        for (year, Capture { path, .. }) in (0..).zip(list(&state_dir).unwrap()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let ahead = path.with_file_name(format!("90{year}{}", &name[3..]));
            fs::rename(&path, ahead).unwrap();
        }
        assert_eq!(guests(), ["vm1", "vm2"]);
        keep_two("vm3");
        assert_eq!(guests(), ["vm2", "vm3"]);
    }

    #[test]
    fn the_last_refusals_are_kept_for_root_alone() {
        let (_dir, state_dir) = state_dir();
        for number in 0..5 {
            let xml = format!("<domain>{number}</domain>");
            let guest = format!("../vm {number}");
            keep(&state_dir, xml.as_bytes(), Code::KeyMissing, &guest, 3).unwrap();
        }
        let captures = list(&state_dir).unwrap();
        assert_eq!(captures.len(), 3);
        let last = &captures[2];
        assert_eq!(
            fs::read_to_string(&last.path).unwrap(),
            "<domain>4</domain>"
        );
        assert_eq!(
            (last.code, last.guest.as_str()),
            (Code::KeyMissing, ".._vm_4")
        );
        assert!((Timestamp::now().0 - last.at.0).abs() < 60_000, "{last:?}");
        let mode = fs::metadata(&last.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn files_of_other_names_are_left_alone() {
        let (_dir, state_dir) = state_dir();
        keep(&state_dir, b"<domain/>", Code::KeyLost, "vm", 3).unwrap();
        for name in ["notes.xml", "1-VG999-vm.xml", "000-VG101", "README"] {
            fs::write(state_dir.captures().join(name), "x").unwrap();
        }
        keep(&state_dir, b"<domain/>", Code::KeyLost, "vm2", 1).unwrap();
        let captures = list(&state_dir).unwrap();
        assert_eq!(captures.len(), 1);
        assert_eq!(captures[0].guest, "vm2");
        let files = fs::read_dir(state_dir.captures()).unwrap().count();
        assert_eq!(files, 5);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_to_be_kept() {
        let (_dir, state_dir) = state_dir();
        keep(&state_dir, b"<domain/>", Code::KeyMissing, "vm", 0).unwrap();
        keep(&state_dir, b"", Code::KeyMissing, "vm", 3).unwrap();
        assert_eq!(list(&state_dir).unwrap(), []);
        // What was captured before somebody wanted none may be what they do not want.
        for xml in [b"<domain/>".as_slice(), b""] {
            keep(&state_dir, b"<domain/>", Code::KeyMissing, "vm", 3).unwrap();
            assert_eq!(list(&state_dir).unwrap().len(), 1);
            keep(&state_dir, xml, Code::KeyMissing, "vm", 0).unwrap();
            assert_eq!(list(&state_dir).unwrap(), []);
        }
    }
}
