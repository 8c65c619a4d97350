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

/// What breaks a rule, and how.
fn broken(path: &Path, rule: Rule) -> (PathBuf, Reason) {
    match find(path, rule) {
        Err(Distrust::Untrusted { path, reason }) => (path, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_of_this_users_own_leads_to_its_directory() {
    let (dir, path) = directory("a/b");
    let opened = find(&path, STATE_DIR).unwrap().unwrap();
    assert_eq!(opened.path(), fs::canonicalize(&path).unwrap());
    let found = opened.open().unwrap().metadata().unwrap();
    assert_eq!(found.ino(), fs::metadata(&path).unwrap().ino());
    assert!(find(&dir.path().join("c"), STATE_DIR).unwrap().is_none());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        broken(&file, STATE_DIR),
        (file.clone(), Reason::NotADirectory)
    );
    assert_eq!(
        broken(&file.join("c"), STATE_DIR),
        (file, Reason::NotADirectory)
    );
}

#[test]
fn missing_directories_are_made_for_this_user_alone() {
    let (dir, _) = directory("");
    let path = dir.path().join("a/b");
    make_dir(&path, STATE_DIR).unwrap();
    make_dir(&path, STATE_DIR).unwrap();
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
        let reason = Reason::Writable(mode);
        assert_eq!(broken(&path, STATE_DIR), (above.clone(), reason));
    }
    set_mode(&above, 0o1777);
    find(&path, STATE_DIR).unwrap();
    set_mode(&path, 0o1777);
    let reason = Reason::Writable(0o1777);
    assert_eq!(
        broken(&path, STATE_DIR),
        (path, reason),
        "it is not on the way"
    );
}

#[test]
fn a_directory_on_the_way_that_somebody_else_owns_is_refused() {
    let (dir, path) = directory("a/b");
    let above = dir.path().join("a");
    // Only root can give it away.
    if chown(&above, Some(SOMEBODY), None).is_err() {
        return;
    }
    assert_eq!(broken(&path, STATE_DIR), (above, Reason::Owner(SOMEBODY)));
    assert!(make(&path.join("new"), STATE_DIR).is_err());
}

#[test]
fn links_are_followed_as_long_as_every_step_can_be_relied_on() {
    let (dir, path) = directory("a/b");
    let (link, relative) = (dir.path().join("link"), dir.path().join("relative"));
    symlink(&path, &link).unwrap();
    symlink("a/../link", &relative).unwrap();
    for way in [&link, &relative] {
        let opened = find(way, STATE_DIR).unwrap().unwrap();
        assert_eq!(opened.path(), fs::canonicalize(&path).unwrap());
    }
    set_mode(&dir.path().join("a"), 0o777);
    for way in [&link, &relative] {
        assert!(find(way, STATE_DIR).is_err());
    }
    let looped = dir.path().join("loop");
    symlink(&looped, &looped).unwrap();
    assert!(find(&looped, STATE_DIR).is_err());
}

#[test]
fn a_link_of_somebody_else_is_not_followed_though_anybody_may_make_one_there() {
    let (dir, path) = directory("a");
    set_mode(dir.path(), 0o1777);
    let (link, file) = (dir.path().join("link"), dir.path().join("file-link"));
    symlink(&path, &link).unwrap();
    fs::write(path.join("file"), "").unwrap();
    symlink(path.join("file"), &file).unwrap();
    find(&link, STATE_DIR).unwrap().unwrap();
    open(&file, CONFIG).unwrap().unwrap();
    let given_away = [&link, &file]
        .iter()
        .all(|link| std::os::unix::fs::lchown(link, Some(SOMEBODY), None).is_ok());
    if given_away {
        assert_eq!(broken(&link, STATE_DIR), (link, Reason::Link(SOMEBODY)));
        assert_eq!(broken(&file, CONFIG), (file, Reason::Link(SOMEBODY)));
    }
}

#[test]
fn a_file_is_opened_through_links_that_can_be_relied_on() {
    let (dir, path) = directory("a/b");
    fs::write(path.join("file"), "words").unwrap();
    let link = dir.path().join("link");
    symlink("a/b/file", &link).unwrap();
    let read = |path: &Path| open(path, CONFIG);
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

#[test]
fn each_rule_says_which_modes_are_too_open() {
    let (dir, _) = directory("");
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    for (mode, rule, reason) in [
        (0o644, CONFIG, None),
        (0o664, CONFIG, Some(Reason::Writable(0o664))),
        (0o600, SEALED_KEY, None),
        (0o640, SEALED_KEY, Some(Reason::Accessible(0o640))),
        (0o622, SEALED_KEY, Some(Reason::Writable(0o622))),
        (0o666, LOG, None),
    ] {
        set_mode(&path, mode);
        match reason {
            None => assert!(find(&path, rule).unwrap().is_some(), "{mode:o} {rule:?}"),
            Some(reason) => assert_eq!(broken(&path, rule), (path.clone(), reason)),
        }
    }
}

#[test]
fn what_is_not_followed_or_not_a_file_is_not_opened() {
    let (dir, path) = directory("a");
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(&file, &link).unwrap();
    assert_eq!(broken(&link, HELPER), (link.clone(), Reason::NotAFile));
    let to_dir = dir.path().join("to-dir");
    symlink(&path, &to_dir).unwrap();
    let reason = Reason::NotADirectory;
    assert_eq!(broken(&to_dir, KEYRING_DIR), (to_dir.clone(), reason));

    fs::hard_link(&file, dir.path().join("second")).unwrap();
    find(&file, HELPER).unwrap().unwrap();
    assert_eq!(broken(&file, LOG), (file.clone(), Reason::SecondName));

    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(broken(&fifo, CONFIG), (fifo.clone(), Reason::NotAFile));
    let open_dir = File::open(dir.path()).unwrap();
    for name in ["fifo", "link"] {
        let opened = open_in(&open_dir, &fifo, OsStr::new(name), SEALED_KEY);
        let reason = Reason::NotAFile;
        assert!(
            matches!(opened, Err(Distrust::Untrusted { reason: found, .. }) if found == reason)
        );
    }
}
