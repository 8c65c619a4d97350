use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::host::dirs::LibvirtDirs;

/// A directory of secrets with one value in it, under this extension and with this mode.
fn secrets(extension: &str, content: &str, mode: u32) -> (tempfile::TempDir, SecretUuid) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let secret = SecretUuid::random();
    let file = dir.path().join(format!("{secret}.{extension}"));
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    (dir, secret)
}

/// Returns why nothing was read.
fn refusal((dir, secret): &(tempfile::TempDir, SecretUuid)) -> String {
    match stored_value(dir.path(), *secret) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was read"),
    }
}

#[test]
fn a_value_is_read_byte_for_byte() {
    for (text, bytes) in [
        ("YQ==", &b"a"[..]),
        ("YQ==\n", b"a"),
        ("AP8KAA==", b"\0\xff\n\0"),
        ("YSBtYWRlLXVwIGtleQ==", b"a made-up key"),
    ] {
        let (dir, secret) = secrets("base64", text, 0o600);
        let StoredValue::Value(dek) = stored_value(dir.path(), secret).unwrap() else {
            panic!("no value in {text:?}");
        };
        assert_eq!(dek.expose(), bytes, "{text:?}");
    }
}

#[test]
fn the_longest_value_that_libvirt_takes_is_read_and_a_longer_one_is_not() {
    let whole_triples = "AAAA".repeat(Dek::MAX_LEN / 3);
    let longest = format!("{whole_triples}AA==");
    let (dir, secret) = secrets("base64", &longest, 0o600);
    let stored = stored_value(dir.path(), secret).unwrap();
    assert!(matches!(stored, StoredValue::Value(dek) if dek.expose().len() == Dek::MAX_LEN));

    let longer = format!("{whole_triples}AAA=");
    assert!(refusal(&secrets("base64", &longer, 0o600)).contains("does not contain a value"));
}

/// A file is only read so far, and what is there may look like a value that ends.
#[test]
fn what_follows_a_value_far_behind_it_is_not_passed_over() {
    for blanks in [1, MAX_BASE64_LEN - 4, MAX_BASE64_LEN, 2 * MAX_BASE64_LEN] {
        let text = format!("YQ=={}Yg==", "\n".repeat(blanks));
        let words = refusal(&secrets("base64", &text, 0o600));
        assert!(words.contains("does not contain a value"), "{blanks}");
    }
    let longest = format!("{}AA==\n", "AAAA".repeat(Dek::MAX_LEN / 3));
    let (dir, secret) = secrets("base64", &longest, 0o600);
    assert!(stored_value(dir.path(), secret).is_ok());
}

#[test]
fn text_that_is_not_base64_is_not_a_value() {
    for text in ["", "\n", "YQ", "Y Q==", "YQ==YQ==", "not base64!"] {
        let words = refusal(&secrets("base64", text, 0o600));
        assert!(
            words.contains("does not contain a value"),
            "{text:?}: {words}"
        );
    }
}

#[test]
fn a_file_that_others_may_read_or_a_link_is_not_trusted() {
    for mode in [0o640, 0o604, 0o620] {
        let words = refusal(&secrets("base64", "YQ==", mode));
        assert!(words.contains("others "), "{words}");
    }
    let (dir, secret) = secrets("elsewhere", "YQ==", 0o600);
    let target = dir.path().join(format!("{secret}.elsewhere"));
    symlink(target, dir.path().join(format!("{secret}.base64"))).unwrap();
    assert!(refusal(&(dir, secret)).contains("not a regular file"));
}

#[test]
fn a_directory_that_others_may_write_to_is_not_trusted() {
    let made = secrets("base64", "YQ==", 0o600);
    fs::set_permissions(made.0.path(), Permissions::from_mode(0o770)).unwrap();
    assert!(refusal(&made).contains("others may write to it"));
}

#[test]
fn an_encrypted_value_and_no_value_differ() {
    let (dir, secret) = secrets("aes256cbc", "AAAA", 0o600);
    let stored = stored_value(dir.path(), secret).unwrap();
    assert!(
        matches!(stored, StoredValue::Encrypted(path) if path.ends_with(format!("{secret}.aes256cbc")))
    );
    let other = SecretUuid::random();
    assert!(matches!(
        stored_value(dir.path(), other).unwrap(),
        StoredValue::None
    ));
}

#[test]
fn all_files_of_a_secret_are_found_and_no_others() {
    let (dir, secret) = secrets("base64", "YQ==", 0o600);
    let name = |extension: &str| dir.path().join(format!("{secret}.{extension}"));
    fs::write(name("xml"), "").unwrap();
    fs::write(dir.path().join("another.xml"), "").unwrap();
    let left = remaining_files(dir.path(), secret).unwrap();
    assert_eq!(left, [name("base64"), name("xml")]);
    let nowhere = dir.path().join("nowhere");
    assert!(remaining_files(&nowhere, secret).unwrap().is_empty());
}

#[test]
fn a_definition_is_read_from_the_file_that_a_guest_of_its_kind_has() {
    let root = tempfile::tempdir().unwrap();
    let dirs = LibvirtDirs::below(root.path());
    fs::create_dir_all(dirs.definitions()).unwrap();
    fs::create_dir_all(dirs.running()).unwrap();
    let xml = "<domain type='qemu'>\n  <name>vm1</name>\n</domain>";
    let defined = format!("<!--\nWARNING: <b> virsh edit vm1\n-->\n\n{xml}\n");
    fs::write(dirs.definitions().join("vm1.xml"), defined).unwrap();
    let status = format!("<domstatus state='running'>\n  <job/>\n{xml}\n</domstatus>\n");
    fs::write(dirs.running().join("vm2.xml"), status).unwrap();
    let read = |name, persistent| definition(&dirs, name, persistent);
    assert_eq!(read("vm1", true).unwrap().as_deref(), Some(xml));
    assert_eq!(read("vm2", false).unwrap().as_deref(), Some(xml));
    let missing = read("vm1", false).unwrap_err();
    assert_eq!(missing.source.kind(), io::ErrorKind::NotFound);
    fs::write(dirs.running().join("vm1.xml"), "<domstatus/>").unwrap();
    assert_eq!(read("vm1", false).unwrap(), None);
}
