//! Files that are there whole or not at all, also after a kill or a power cut.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, unlinkat};

/// Puts `bytes` under `name` into `dir`, mode 0600, in place of what is there.
///
/// They are written to `temporary`, in the same directory, first; what a killed writer left
/// there goes away. Writers that use the same name must not do so at once.
pub fn replace(dir: &File, temporary: &OsStr, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    write_temporary(dir, temporary, bytes)?;
    renameat(dir, temporary, dir, name).inspect_err(|_| forget(dir, temporary))?;
    sync_directory(dir)
}

/// Writes `bytes` durably under `name` into `dir`, with the owner, group and mode of another
/// file, in place of what a killed writer left there. For [`rename`] to follow.
pub fn write_as(dir: &File, name: &OsStr, bytes: &[u8], like: &Metadata) -> io::Result<()> {
    write_temporary_with(dir, name, bytes, |file| {
        fchown(
            file,
            Some(Uid::from_raw(like.uid())),
            Some(Gid::from_raw(like.gid())),
        )?;
        // After the owner: changing that takes the set-user-id bits away.
        file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))
    })
}

/// Writes `bytes` durably under `name` into `dir`, mode 0600, in place of what a killed writer
/// left there. For [`rename`] to follow.
pub fn write(dir: &File, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    write_temporary(dir, name, bytes)
}

/// Renames a file that was written durably, in place of what is there, for good.
pub fn rename(dir: &File, from: &OsStr, to: &OsStr) -> io::Result<()> {
    renameat(dir, from, dir, to)?;
    sync_directory(dir)
}

/// Makes a new file, mode 0600. One that is there already stays as it is, and is an error
/// (`AlreadyExists`).
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    create_in(&open_parent(path)?, name, bytes, |_| Ok(()))
}

/// Makes a new file of that name in `dir`, which `dress` gives its owner and mode before it
/// appears. One that is there already stays as it is, and is an error (`AlreadyExists`).
pub fn create_in(
    dir: &File,
    name: &OsStr,
    bytes: &[u8],
    dress: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let written = open_temporary(dir, &temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        dress(&file)?;
        file.sync_all()?;
        rename_to_new(dir, &temporary, name)
    });
    written.inspect_err(|_| forget(dir, &temporary))?;
    sync_directory(dir)
}

/// Removes a file for good; one that is not there is no error.
pub fn remove(dir: &File, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => sync_directory(dir),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes sure that a directory that was made stays made.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(&open_parent(path)?)
}

fn open_parent(path: &Path) -> io::Result<File> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
}

/// Makes sure that what was made, renamed or removed in a directory stays so.
fn sync_directory(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        // File systems without this call (some network ones) say so; there is no other.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn write_temporary(dir: &File, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    write_temporary_with(dir, name, bytes, |_| Ok(()))
}

/// `dress` gives the file what it needs besides its bytes before those are made durable.
fn write_temporary_with(
    dir: &File,
    name: &OsStr,
    bytes: &[u8],
    dress: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = open_temporary(dir, name)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| dress(&file))
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| forget(dir, name))
}

/// A new file, mode 0600, in place of what a killed writer left.
fn open_temporary(dir: &File, name: &OsStr) -> io::Result<File> {
    forget(dir, name);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    Ok(File::from(openat(dir, name, flags, mode)?))
}

/// Renames unless `to` exists. NFS has no such rename, but links; FAT has no links, but such
/// a rename.
fn rename_to_new(dir: &File, from: &OsStr, to: &OsStr) -> io::Result<()> {
    match renameat2(dir, from, dir, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            linkat(dir, from, dir, to, AtFlags::empty())?;
            forget(dir, from);
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Removes a file that nobody will miss, if it can be.
fn forget(dir: &File, name: &OsStr) {
    let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_is_whole_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create(&path, b"words").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"words");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_file_that_is_there_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"old").unwrap();
        let error = create(&path, b"new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_there_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(
            create(&path, b"new").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn replacing_leaves_the_new_bytes_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        fs::write(dir.path().join(".new"), b"left by a killed writer").unwrap();
        for bytes in [&b"one"[..], b"two"] {
            replace(&open, OsStr::new(".new"), OsStr::new("file"), bytes).unwrap();
            assert_eq!(fs::read(dir.path().join("file")).unwrap(), bytes);
            assert_eq!(names(dir.path()), ["file"]);
        }
        remove(&open, OsStr::new("file")).unwrap();
        remove(&open, OsStr::new("file")).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_replacement_that_fails_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("file")).unwrap();
        assert!(replace(&open, OsStr::new(".new"), OsStr::new("file"), b"x").is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }
}
