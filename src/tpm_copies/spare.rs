//! What is not whole yet, or not to be kept, of what libvirt deletes with a TPM: it is next to the original, under a
//! name that nobody else makes: not the process of a start that comes next, not another host. A killed process leaves
//! it; who comes later removes what is old.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::dirs::of_descriptor;
use crate::host::interrupted::read_dir;

/// How the name begins; random digits and the name of the original follow.
const PREFIX: &str = ".vtpm-guard.spare.";

/// The age at which nobody is at work with it any more, in milliseconds; clocks of hosts differ.
const STALE_MS: i64 = 120_000;

/// A new name beside the original.
pub(super) fn name(original: &OsStr) -> io::Result<OsString> {
    let mut name = OsString::from(atomic::random_name(PREFIX)?);
    name.push(".");
    name.push(original);
    Ok(name)
}

/// Those of the original that a killed process has left.
pub(super) fn left(dir: &File, original: &OsStr, now: Timestamp) -> io::Result<Vec<OsString>> {
    let mut found = names(dir)?;
    found.retain(|name| {
        is_of(name, original) && stat(dir, name).is_ok_and(|found| is_old(&found, now))
    });
    Ok(found)
}

/// Whether nobody is at work with it any more.
pub(super) fn is_old(found: &FileStat, now: Timestamp) -> bool {
    let changed = found.st_ctime.saturating_mul(1000);
    now.0.saturating_sub(changed) > STALE_MS
}

/// Whether a name is one of [`name`].
fn is_of(name: &OsStr, original: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    rest.and_then(|rest| rest.get(17..)) == Some(original.as_bytes())
}

pub(super) fn stat(dir: &File, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

pub(super) fn remove_empty(dir: &File, name: &OsStr) -> nix::Result<()> {
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
}

/// Returns the names in an open directory, whatever its path leads to now.
pub(super) fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let entries = read_dir(of_descriptor(dir))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}
