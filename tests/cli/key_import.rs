//! `key import`: a guest's key moves to another host, as it is wrapped.

use std::fs;

use crate::env::{Host, VM1, VM2, golden};

const PASSPHRASE: &str = "correct horse battery staple";

/// Two hosts: on the first a guest with a key; the second has its provider.
struct Hosts {
    first: Host,
    second: Host,
    /// A backup of the first one's store.
    backup: String,
}

fn hosts() -> Hosts {
    let first = Host::with_provider("nkp-a");
    first.start_for_the_first_time(VM1, "nkp-a");
    first.name_guest(VM1, "vm1");
    let passphrase = first.file("passphrase", PASSPHRASE);
    let recovery = first.path("nkp-a.recovery");
    let recovery = recovery.to_str().unwrap();
    let export = ["provider", "export", "nkp-a", "--output", recovery];
    first
        .run(&[&export[..], &["--passphrase-file", &passphrase]].concat())
        .succeeds();
    let second = Host::new();
    let import = ["provider", "import", recovery];
    second
        .run(&[&import[..], &["--passphrase-file", &passphrase]].concat())
        .succeeds();
    let backup = backup(&first, "store.backup");
    Hosts {
        first,
        second,
        backup,
    }
}

fn backup(host: &Host, name: &str) -> String {
    let backup = host.path(name).to_str().unwrap().to_owned();
    host.run(&["store", "backup", &backup]).succeeds();
    backup
}

#[test]
fn a_key_is_taken_over_once_under_its_provider() {
    let Hosts {
        first,
        second,
        backup,
    } = hosts();
    golden(
        "key-import",
        &second.run(&["key", "import", "vm1", "--from", &backup]),
    );
    let stored = second.stored();
    golden(
        "key-import-again",
        &second.run(&["key", "import", VM1, "--from", &backup]),
    );
    assert_eq!(second.stored(), stored);

    let row = |host: &Host| host.json(&["key", "show", VM1])["key_refs"][0].clone();
    let (here, there) = (row(&second), row(&first));
    assert_eq!(here["opens"], true);
    for same in ["key_id", "first_used_at", "secret_uuid"] {
        assert_eq!(here[same], there[same], "{same}");
    }
}

#[test]
fn a_key_that_does_not_open_here_stays_where_it_is() {
    let Hosts { first, backup, .. } = hosts();
    let other = Host::with_provider("nkp-a");
    let stored = other.stored();
    golden(
        "key-import-no-provider",
        &other.run(&["key", "import", VM1, "--from", &backup]),
    );
    assert_eq!(other.stored(), stored);
    Host::new()
        .run(&["key", "import", VM1, "--from", &backup])
        .ends_with(1)
        .saying("which is not on this host");

    let sql = "UPDATE key_ref SET resource_uuid = ?1";
    let damaged = rusqlite::Connection::open(&backup).unwrap();
    damaged.execute(sql, [VM2]).unwrap();
    drop(damaged);
    first
        .run(&["key", "import", VM2, "--from", &backup])
        .ends_with(1)
        .saying("the wrapped key of 11111111-2222-4333-8444-000000000002 is damaged");
}

#[test]
fn another_key_of_the_guest_is_not_replaced() {
    let Hosts {
        first: _first,
        second,
        backup,
    } = hosts();
    let own = second.start_for_the_first_time(VM1, "nkp-a");
    let stored = second.stored();
    let import = || second.run(&["key", "import", VM1, "--from", &backup]);
    let refused = import().ends_with(1);
    let retire = format!("vtpm-guard key retire {own}, then retry");
    for words in ["has another key in use (key reference ", &retire] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert_eq!(second.stored(), stored);
    // The hint, followed.
    second.run(&["key", "retire", &own.to_string()]).succeeds();
    import().succeeds();
}

#[test]
fn nonsense_is_told() {
    let Hosts {
        first,
        second,
        backup,
    } = hosts();
    let import = |domain: &str, from: &str| second.run(&["key", "import", domain, "--from", from]);
    // Nor does libvirt, which does not answer here.
    import("vm9", &backup)
        .ends_with(4)
        .saying("name the guest by its UUID");
    import(VM2, &backup).ends_with(2).saying("has no key of");
    import(VM1, "/nowhere").ends_with(4).saying("/nowhere");
    let text = first.file("text", "no store");
    import(VM1, &text).ends_with(4);
    fs::create_dir(first.path("dir")).unwrap();
    import(VM1, first.path("dir").to_str().unwrap()).ends_with(4);
}

/// The host's own store is whole: whoever restored a backup over it would lose what it has.
#[test]
fn what_is_wrong_with_the_backup_is_not_said_of_the_store() {
    let Hosts {
        first: _first,
        second,
        backup,
    } = hosts();
    let import = || second.run(&["key", "import", VM1, "--from", &backup]);
    let newer = rusqlite::Connection::open(&backup).unwrap();
    newer.pragma_update(None, "user_version", 999).unwrap();
    drop(newer);
    let ran = import().ends_with(4).saying("the backup is too new");
    let ran = ran.saying("install a newer vtpm-guard");
    assert!(!format!("{ran:?}").contains("reinstall"));
    let mut bytes = fs::read(&backup).unwrap();
    bytes[..]
        .chunks_mut(4096)
        .skip(1)
        .for_each(|page| page.fill(0x55));
    fs::write(&backup, bytes).unwrap();
    let ran = import().ends_with(4);
    assert!(!format!("{ran:?}").contains("store restore"));
}
