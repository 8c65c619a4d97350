//! What is staged, who may read it, and what is left of it afterwards.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// A place on the tmpfs that every Linux has, and a directory for the links.
fn place() -> (tempfile::TempDir, StagingDir) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = StagingDir::at(dir.path().join("run/staged"), dir.path().join("secrets"));
    (dir, place)
}

fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec()))
}

fn new() -> StagedSecret {
    StagedSecret {
        secret: SecretUuid::random(),
        domain: DomainUuid::random(),
    }
}

fn is_empty(dir: &Path) -> bool {
    entries(dir).unwrap().is_empty()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_key_is_staged_as_libvirt_reads_it_and_only_for_root() {
    let (_dir, place) = place();
    let one = new();
    place.stage(one, &dek(b"any bytes\0\xff")).unwrap();
    assert_eq!(place.staged().unwrap(), [one]);

    let value = place.secrets.join(format!("{}.base64", one.secret));
    assert_eq!(fs::read_to_string(&value).unwrap(), "YW55IGJ5dGVzAP8=");
    let file = fs::read_link(&value).unwrap();
    assert!(file.starts_with(&place.staged));
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&place.staged), 0o700);
    assert_eq!(mode(&place.secrets), 0o700);
    let definition = place.secrets.join(format!("{}.xml", one.secret));
    let definition = fs::read_to_string(definition).unwrap();
    assert!(definition.contains("ephemeral='yes'"), "{definition}");
}

#[test]
fn clear_removes_all_staged_files_and_nothing_else() {
    let (dir, place) = place();
    for _ in 0..3 {
        place.stage(new(), &dek(b"key")).unwrap();
    }
    let of_others = ["own.xml", "own.base64"].map(|name| place.secrets.join(name));
    fs::write(&of_others[0], "<secret/>").unwrap();
    symlink(dir.path().join("elsewhere"), &of_others[1]).unwrap();
    for _ in 0..2 {
        place.clear().unwrap();
        let mut left = entries(&place.secrets).unwrap();
        left.sort();
        assert_eq!(left, [of_others[1].clone(), of_others[0].clone()]);
        assert!(is_empty(&place.staged));
    }
}

#[test]
fn clear_removes_links_whose_files_are_gone() {
    let (_dir, place) = place();
    place.stage(new(), &dek(b"key")).unwrap();
    fs::remove_dir_all(&place.staged).unwrap();
    place.clear().unwrap();
    assert!(is_empty(&place.secrets));
}

#[test]
fn clear_removes_what_a_killed_stage_left() {
    let (_dir, place) = place();
    place.check().unwrap();
    fs::write(place.staged.join(".new"), "half a key").unwrap();
    fs::write(place.staged.join("some.base64"), "a key without a link").unwrap();
    assert_eq!(place.staged().unwrap(), []);
    place.clear().unwrap();
    assert!(is_empty(&place.staged));
}

#[test]
fn keys_can_be_removed_without_definitions() {
    let (_dir, place) = place();
    let one = new();
    place.stage(one, &dek(b"key")).unwrap();
    place.remove_keys().unwrap();
    assert_eq!(place.staged().unwrap(), [one]);
    let value = format!("{}.base64", one.secret);
    assert!(!place.staged.join(&value).exists());
    assert!(!place.secrets.join(&value).is_symlink());
    assert!(place.secrets.join(format!("{}.xml", one.secret)).exists());
}

#[test]
fn an_existing_secret_is_not_replaced() {
    let (_dir, place) = place();
    let one = new();
    fs::create_dir_all(&place.secrets).unwrap();
    let theirs = place.secrets.join(format!("{}.base64", one.secret));
    fs::write(&theirs, "theirs").unwrap();
    assert!(place.stage(one, &dek(b"key")).is_err());
    assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs");
}

#[test]
fn no_key_is_written_where_others_could_read_it() {
    let (_dir, place) = place();
    place.check().unwrap();
    fs::set_permissions(&place.staged, Permissions::from_mode(0o750)).unwrap();
    let error = place.stage(new(), &dek(b"key")).unwrap_err();
    assert!(matches!(error, StagingError::NotTrusted(_)), "{error}");
    assert!(error.to_string().contains("(mode 0750)"), "{error}");
    assert!(is_empty(&place.staged));
}

#[test]
fn no_key_is_written_through_a_link() {
    let (dir, place) = place();
    fs::create_dir_all(dir.path().join("run")).unwrap();
    symlink("/tmp", &place.staged).unwrap();
    assert!(place.stage(new(), &dek(b"key")).is_err());
}
