//! Paths through directories of several owners and modes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::*;

/// Somebody who is neither root nor this user.
const SOMEBODY: u32 = 65_534;

fn directory(parts: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(parts);
    fs::create_dir_all(&path).unwrap();
    (dir, path)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_path_of_this_users_own_leads_to_its_directory() {
    let (dir, path) = directory("a/b");
    let opened = TrustedDir::open_own(&path).unwrap().unwrap();
    assert_eq!(opened.path(), fs::canonicalize(&path).unwrap());
    let found = opened.to_file().unwrap().metadata().unwrap();
    assert_eq!(found.ino(), fs::metadata(&path).unwrap().ino());
    assert!(
        TrustedDir::open_own(&dir.path().join("c"))
            .unwrap()
            .is_none()
    );
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(TrustedDir::open(&dir.path().join("file")).is_err());
}

#[test]
fn missing_directories_are_made_for_this_user_alone() {
    let (dir, _) = directory("");
    let path = dir.path().join("a/b");
    TrustedDir::open_or_make_own(&path).unwrap();
    TrustedDir::open_or_make_own(&path).unwrap();
    for made in [&path, &dir.path().join("a")] {
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o7777, 0o700);
    }
}

#[test]
fn a_directory_on_the_way_that_others_may_write_is_refused_unless_it_is_sticky() {
    let (dir, path) = directory("a/b");
    let above = dir.path().join("a");
    for mode in [0o775, 0o757] {
        set_mode(&above, mode);
        match TrustedDir::open(&path) {
            Err(Distrust::WritableByOthers { path, mode: found }) => {
                assert_eq!((path, found), (above.clone(), mode));
            }
            other => panic!("{other:?}"),
        }
    }
    set_mode(&above, 0o1777);
    TrustedDir::open(&path).unwrap();
    set_mode(&path, 0o1777);
    TrustedDir::open(&path).unwrap();
    assert!(TrustedDir::open_own(&path).is_err(), "not its own alone");
}

#[test]
fn a_directory_on_the_way_that_somebody_else_owns_is_refused() {
    let (dir, path) = directory("a/b");
    let above = dir.path().join("a");
    // Only root can give it away.
    if chown(&above, Some(SOMEBODY), None).is_err() {
        return;
    }
    for opened in [TrustedDir::open(&path), TrustedDir::open_or_make(&path)] {
        assert!(
            matches!(&opened, Err(Distrust::Owner { path, owner: SOMEBODY }) if *path == above),
            "{opened:?}"
        );
    }
}

#[test]
fn links_are_followed_as_long_as_every_step_can_be_relied_on() {
    let (dir, path) = directory("a/b");
    let (link, relative) = (dir.path().join("link"), dir.path().join("relative"));
    symlink(&path, &link).unwrap();
    symlink("a/../link", &relative).unwrap();
    for way in [&link, &relative] {
        let opened = TrustedDir::open_own(way).unwrap().unwrap();
        assert_eq!(opened.path(), fs::canonicalize(&path).unwrap());
    }
    set_mode(&dir.path().join("a"), 0o777);
    for way in [&link, &relative] {
        assert!(TrustedDir::open(way).is_err());
    }
    let looped = dir.path().join("loop");
    symlink(&looped, &looped).unwrap();
    assert!(TrustedDir::open(&looped).is_err());
}

#[test]
fn a_link_of_somebody_else_is_not_followed_though_anybody_may_make_one_there() {
    let (dir, path) = directory("a");
    set_mode(dir.path(), 0o1777);
    let (link, file) = (dir.path().join("link"), dir.path().join("file-link"));
    symlink(&path, &link).unwrap();
    fs::write(path.join("file"), "").unwrap();
    symlink(path.join("file"), &file).unwrap();
    TrustedDir::open(&link).unwrap();
    open_file(&file, OFlag::O_RDONLY).unwrap().unwrap();
    let given_away = [&link, &file]
        .iter()
        .all(|link| std::os::unix::fs::lchown(link, Some(SOMEBODY), None).is_ok());
    if given_away {
        assert!(TrustedDir::open(&link).is_err());
        assert!(open_file(&file, OFlag::O_RDONLY).is_err());
    }
}

#[test]
fn a_file_is_opened_through_links_that_can_be_relied_on() {
    let (dir, path) = directory("a/b");
    fs::write(path.join("file"), "words").unwrap();
    let link = dir.path().join("link");
    symlink("a/b/file", &link).unwrap();
    let read = |path: &Path| open_file(path, OFlag::O_RDONLY);
    let inode = |file: File| file.metadata().unwrap().ino();
    let file = inode(read(&path.join("file")).unwrap().unwrap());
    assert_eq!(inode(read(&link).unwrap().unwrap()), file);
    assert!(read(&path.join("none")).unwrap().is_none());
    assert!(read(&dir.path().join("none/none")).unwrap().is_none());
    set_mode(&path, 0o777);
    assert!(read(&link).is_err());
    let looped = dir.path().join("loop");
    symlink(&looped, &looped).unwrap();
    assert!(read(&looped).is_err());
}
