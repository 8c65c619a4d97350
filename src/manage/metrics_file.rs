//! The file for Prometheus' textfile collector.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc;

use crate::host::atomic::{self, NewFile};

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
    let mut text = String::new();
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(file)
        .ok()?;
    opened.take(MAX_LEN).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
