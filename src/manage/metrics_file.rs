//! The file for Prometheus' textfile collector.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::host::atomic::{self, NewFile};
use crate::host::others;

/// The most that is read of a file, in bytes.
const MAX_LEN: u64 = 16 * 1024 * 1024;

/// Replaces the file, whole or not at all: the collector may read at any moment. Everybody may
/// read it, since the collector is not root. Its directory may be the collector's own, and what is
/// in it anybody's.
pub(crate) fn replace(file: &Path, text: &str) -> io::Result<()> {
    let (dir, name) = atomic::open_parent(file)?;
    // The collector reads files that end in .prom; the unfinished one does not.
    let new = NewFile::write(&dir, |new| {
        new.set_permissions(Permissions::from_mode(0o644))?;
        new.write_all(text.as_bytes())
    })?;
    new.replace(name)
}

/// Returns the value of a metric without labels, as a file has it.
pub(crate) fn read_value(file: &Path, name: &str) -> Option<i64> {
    let text = String::from_utf8(others::read(file, MAX_LEN).ok()?).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_value_is_read_of_the_file_itself_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("own"), "# a comment\nother 1\nlast 7\n").unwrap();
        assert_eq!(read_value(&path("own"), "last"), Some(7));
        assert_eq!(read_value(&path("own"), "none"), None);
        symlink(path("own"), path("link")).unwrap();
        assert_eq!(read_value(&path("link"), "last"), None);
        // Whoever may write to the collector's directory could put one there.
        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(read_value(&path("fifo"), "last"), None);
    }
}
