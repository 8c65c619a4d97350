//! New files, also in directories in which somebody else puts things in the way.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::host::crash::armed;

/// A directory, and the same opened.
fn directory() -> (TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    let open = File::open(dir.path()).unwrap();
    (dir, open)
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    names
}

fn name() -> &'static OsStr {
    OsStr::new("file")
}

/// A file of somebody else's, which must stay as it is.
fn precious(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("precious");
    fs::write(&path, "precious").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn assert_untouched(precious: &Path) {
    assert_eq!(fs::read(precious).unwrap(), b"precious");
    let mode = fs::metadata(precious).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_new_file_is_whole_private_and_alone() {
    let (dir, open) = directory();
    create(&open, name(), b"words").unwrap();
    let path = dir.path().join("file");
    assert_eq!(fs::read(&path).unwrap(), b"words");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_file_that_is_there_is_not_overwritten() {
    let (dir, open) = directory();
    fs::write(dir.path().join("file"), b"old").unwrap();
    let error = create(&open, name(), b"new").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_link_that_leads_nowhere_is_a_file_that_is_there() {
    let (dir, open) = directory();
    symlink(dir.path().join("elsewhere"), dir.path().join("file")).unwrap();
    let error = create(&open, name(), b"new").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_replacement_takes_the_place_of_a_link_or_a_fifo_and_touches_nothing_behind_it() {
    let (elsewhere, (dir, open)) = (tempfile::tempdir().unwrap(), directory());
    let precious = precious(&elsewhere);
    let path = dir.path().join("file");
    symlink(&precious, &path).unwrap();
    replace(&open, name(), b"one").unwrap();
    assert_untouched(&precious);
    assert_eq!(fs::read(&path).unwrap(), b"one");

    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    replace(&open, name(), b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_replacement_that_fails_leaves_no_temporary() {
    let (dir, open) = directory();
    fs::create_dir(dir.path().join("file")).unwrap();
    assert!(replace(&open, name(), b"x").is_err());
    let failed = NewFile::write(&open, |_| Err(io::Error::other("a full disk")));
    assert!(failed.is_err());
    assert_eq!(names(dir.path()), ["file"]);
    remove(&open, OsStr::new("not there")).unwrap();
}

/// What the owner of the directory can do between the creation and the rename.
#[test]
fn what_is_put_in_the_place_of_a_temporary_is_neither_named_nor_removed() {
    let (elsewhere, (dir, open)) = (tempfile::tempdir().unwrap(), directory());
    let precious = precious(&elsewhere);
    for finish in [NewFile::create, NewFile::replace] {
        let new = NewFile::write(&open, |file| file.write_all(b"words")).unwrap();
        let temporary = dir.path().join(&new.temporary);
        fs::remove_file(&temporary).unwrap();
        symlink(&precious, &temporary).unwrap();
        finish(new, name()).unwrap_err();
        assert!(temporary.is_symlink(), "not this program's to remove");
        assert!(!dir.path().join("file").exists());
        fs::remove_file(temporary).unwrap();
    }
    assert_untouched(&precious);
}

#[test]
fn the_path_that_led_to_the_directory_may_change() {
    let (dir, open) = directory();
    let new = NewFile::write(&open, |file| file.write_all(b"words")).unwrap();
    let moved = tempfile::tempdir().unwrap();
    fs::rename(dir.path(), moved.path()).unwrap();
    symlink("/", dir.path()).unwrap();
    new.create(name()).unwrap();
    assert_eq!(names(moved.path()), ["file"]);
    fs::remove_file(dir.path()).unwrap();
}

#[test]
fn a_fifo_in_the_place_of_the_directory_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
    assert!(open_parent(&dir.path().join("fifo/file")).is_err());
}

#[test]
fn what_a_killed_writer_left_goes_with_a_later_file_and_nothing_else_does() {
    let (dir, open) = directory();
    leave_abandoned(dir.path());
    let old = SystemTime::now() - 2 * ABANDONED_AFTER;
    for (name, at) in [("other", old), (".vtpm-guard-at-work", SystemTime::now())] {
        let file = File::create(dir.path().join(name)).unwrap();
        file.set_modified(at).unwrap();
    }
    symlink("other", dir.path().join(".vtpm-guard-link")).unwrap();
    replace(&open, name(), b"x").unwrap();
    let left = [".vtpm-guard-at-work", ".vtpm-guard-link", "file", "other"];
    assert_eq!(names(dir.path()), left);
}

#[test]
fn replacing_leaves_the_new_bytes_alone() {
    let (dir, open) = directory();
    for bytes in [&b"one"[..], b"two"] {
        replace(&open, name(), bytes).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), bytes);
        assert_eq!(names(dir.path()), ["file"]);
    }
    remove(&open, name()).unwrap();
    remove(&open, name()).unwrap();
    assert!(names(dir.path()).is_empty());
}

/// As NFS does it: the file has its name, and the answer is an error.
#[test]
fn a_rename_that_is_done_although_its_answer_was_lost_counts_as_done() {
    let (dir, open) = directory();
    let path = dir.path().join("file");
    armed::lose_answer_of_rename();
    create(&open, name(), b"one").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    armed::lose_answer_of_rename();
    replace(&open, name(), b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(dir.path()), ["file"]);
}

/// As on NFS, again: a link has to do.
#[test]
fn a_file_is_created_where_no_rename_replaces_nothing() {
    let (dir, open) = directory();
    armed::without_flagged_renames(|| {
        create(&open, name(), b"one").unwrap();
        let error = create(&open, name(), b"two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    });
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"one");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_rename_of_which_the_directory_tells_nothing_may_be_done() {
    let (dir, open) = directory();
    let mut new = NewFile::write(&open, |file| file.write_all(b"words")).unwrap();
    armed::lose_answer_of_rename();
    armed::fail_at(1);
    assert!(new.take_name(name()).unwrap_err().may_have_it);
    drop(new);
    assert_eq!(names(dir.path()), ["file"]);

    // One that is not done is known not to be.
    let path = dir.path().join("file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let mut new = NewFile::write(&open, |file| file.write_all(b"words")).unwrap();
    assert!(!new.take_name(name()).unwrap_err().may_have_it);
}
