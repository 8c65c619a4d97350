//! Renames that replace nothing, and those that exchange two names, on every file system: NFS, OCFS2, Ceph and
//! most of those in user space have neither.

use std::ffi::OsStr;
use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat, renameat2};

use super::crash;

/// Renames within a directory, and replaces nothing. Where the file system has no such rename, `otherwise` does it in
/// the way that is safe for what is renamed.
pub fn rename_new(
    dir: &File,
    from: &OsStr,
    to: &OsStr,
    otherwise: impl FnOnce() -> nix::Result<()>,
) -> nix::Result<()> {
    flagged(dir, from, to, RenameFlags::RENAME_NOREPLACE, otherwise)
}

/// Renames a directory within another, and replaces nothing but an empty one, and that only where the file system has no
/// better rename.
pub fn rename_new_directory(dir: &File, from: &OsStr, to: &OsStr) -> nix::Result<()> {
    rename_new(dir, from, to, || renameat(dir, from, dir, to))
}

/// Exchanges two names in a directory; `otherwise` does what comes nearest to it.
pub fn exchange(
    dir: &File,
    one: &OsStr,
    other: &OsStr,
    otherwise: impl FnOnce() -> nix::Result<()>,
) -> nix::Result<()> {
    flagged(dir, one, other, RenameFlags::RENAME_EXCHANGE, otherwise)
}

fn flagged(
    dir: &File,
    from: &OsStr,
    to: &OsStr,
    flags: RenameFlags,
    otherwise: impl FnOnce() -> nix::Result<()>,
) -> nix::Result<()> {
    let renamed = crash::flagged_rename().and_then(|()| renameat2(dir, from, dir, to, flags));
    match renamed {
        Err(Errno::EINVAL | Errno::ENOSYS) => otherwise(),
        renamed => renamed,
    }
}
