//! A provider's key in a fleet is rotated: announced, opened through the other hosts' own key manager, followed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::fleet::Kind;
use vtpm_guard::internals::fleet::claim::{Claim, Signed, SlotClaim, SuccessorClaim};
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::key::kek::Kek;

use crate::database::{Database, host as host_uuid, key_id, soon};
use crate::members::{Host, database};

/// Two hosts that both use the provider nkp-a.
fn sharing_a_provider(database: &Database) -> (Host<'_>, Host<'_>) {
    let (one, two) = (Host::new(database, "one"), Host::new(database, "two"));
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    two.joins();
    two.does("provider accept nkp-a");
    two.does("sync");
    (one, two)
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_rotation_waits_for_the_hosts_and_they_follow_it() {
    let database = database();
    let one = Host::new(&database, "one");
    let (two, three) = (Host::new(&database, "two"), Host::new(&database, "three"));
    one.does("provider create nkp-a --slot box:k1");
    for host in [&one, &two, &three] {
        host.joins();
    }
    two.does("provider accept nkp-a");
    two.does("sync");
    let before = one.key("nkp-a").unwrap();

    let waits = one.run("provider rotate nkp-a --wait 0s");
    assert_eq!(waits.status.code(), Some(1));
    let words = String::from_utf8_lossy(&waits.stderr).into_owned();
    assert!(words.contains("\"three\", \"two\" wait"), "{words}");
    assert_eq!(
        one.key("nkp-a"),
        Some(before.clone()),
        "nothing was changed"
    );
    let unknown = one.run("provider rotate nkp-a --wait 0s --without nobody");
    assert_eq!(unknown.status.code(), Some(2));

    // The second try goes on with the key that the first has announced.
    two.does("sync");
    let rotated = one.does("provider rotate nkp-a --wait 0s --without three");
    let after = one.key("nkp-a").unwrap();
    assert_ne!(after, before);
    assert_eq!(rotated["rotated"], true);
    let hosts: Vec<_> = rotated["hosts"].as_array().unwrap().iter().collect();
    let result = |name: &str| hosts.iter().find(|it| it["name"] == name).unwrap()["result"].clone();
    assert_eq!(
        (result("two"), result("three")),
        ("opened".into(), "left-out".into())
    );

    two.does("sync");
    assert_eq!(two.key("nkp-a"), Some(after.clone()));
    assert_eq!(
        two.key(&format!("nkp-a/{before}")),
        Some(before.clone()),
        "it opens what it wraps"
    );
    // Who has not accepted the provider has a key more that only opens.
    three.does("sync");
    assert_eq!(three.key("nkp-a"), None);
    assert_eq!(three.key(&format!("fleet/nkp-a/{after}")), Some(after));
}

/// It had announced the slot of the next key itself, and did not learn it again: it went on wrapping with the old key.
#[test]
#[ignore = "needs root: a network of its own"]
fn a_host_that_was_restored_to_before_its_own_rotation_follows_it() {
    let database = database();
    let (one, two) = sharing_a_provider(&database);
    let before = one.key("nkp-a").unwrap();
    let backup = one.path("backup").display().to_string();
    one.does(&format!("store backup {backup}"));
    let waits = one.run("provider rotate nkp-a --wait 0s");
    assert_eq!(waits.status.code(), Some(1));
    two.does("sync");
    one.does("provider rotate nkp-a --wait 0s");
    let after = one.key("nkp-a").unwrap();
    assert_ne!(after, before);
    one.does(&format!("store restore {backup}"));
    assert_eq!(one.key("nkp-a"), Some(before.clone()));
    one.does("sync");
    assert_eq!(one.key("nkp-a"), Some(after));
    assert_eq!(one.key(&format!("nkp-a/{before}")), Some(before));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_host_that_has_not_opened_the_next_key_is_waited_for_whatever_the_database_says_of_it() {
    let database = database();
    let (one, two) = sharing_a_provider(&database);
    assert_eq!(
        one.run("provider rotate nkp-a --wait 0s").status.code(),
        Some(1)
    );
    // Its report, changed so that it names the next key, with the proof of the present one.
    let listed = one.does("provider list");
    let is_next = |it: &&Value| it["name"].as_str().unwrap().starts_with("fleet/nkp-a/");
    let next = listed.as_array().unwrap().iter().find(is_next).unwrap();
    let next = next["key_id"].as_str().unwrap();
    let mut client = database.host();
    let newest = client.newest(Kind::Report, soon()).unwrap().facts;
    let reports = newest.iter().filter_map(|fact| Claim::read(fact).ok());
    let mut of_two = reports.filter_map(|claim| match claim {
        Claim::Report(report) if report.name == "two" => Some(report),
        _ => None,
    });
    let mut forged = of_two.next().unwrap();
    let proof = forged.proofs.values().next().unwrap().clone();
    forged.at += 1;
    forged.keks.push(next.to_owned());
    forged.proofs.insert(next.to_owned(), proof);
    let host = forged.host;
    let forged = Claim::Report(forged).write(host, Timestamp(1));
    assert_eq!(client.push(&[forged], &[], soon()).unwrap().stored, 1);
    let waits = one.run("provider rotate nkp-a --wait 0s");
    let words = String::from_utf8_lossy(&waits.stderr).into_owned();
    assert!(words.contains("\"two\" wait"), "{words}");
    two.does("sync");
    let rotated = one.does("provider rotate nkp-a --wait 0s");
    assert_eq!(rotated["hosts"][0]["result"], "opened");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn slots_that_open_nothing_keep_no_key_that_follows_from_opening() {
    let database = database();
    let (one, two) = sharing_a_provider(&database);
    let junk = |number: u8| {
        let slot = SlotClaim {
            key_id: key_id(number),
            kind: "exec".to_owned(),
            label: None,
            kms: "box".to_owned(),
            remote_key: "k1".to_owned(),
            remote_version: None,
            blob: vec![number; 60],
        };
        Claim::Slot(slot).write(host_uuid(9), Timestamp(1))
    };
    let junk: Vec<_> = (0..200).map(junk).collect();
    database.role("host3").push(&junk, &[], soon()).unwrap();
    assert_eq!(
        one.run("provider rotate nkp-a --wait 0s").status.code(),
        Some(1)
    );
    let synced = two.does("sync");
    assert_eq!(synced["fleet"]["opened"][0]["name"], "nkp-a");
    let trouble = synced["fleet"]["trouble"].as_array().unwrap().len();
    assert_eq!(trouble, 16, "it does not try them all at once");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_successor_that_the_key_before_has_not_signed_is_not_followed() {
    let database = database();
    let one = Host::new(&database, "one");
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    let before = one.key("nkp-a").unwrap();
    let listed = one.does("provider list");
    let old = KeyId::parse(listed[0]["key_id"].as_str().unwrap()).unwrap();
    // Somebody has a key that opens here, too, and says that it follows.
    one.does("provider create evil --slot box:k1");
    let listed = one.does("provider list");
    let new = KeyId::parse(listed[0]["key_id"].as_str().unwrap()).unwrap();
    assert_ne!(new, old);
    let forger = Kek::generate().unwrap();
    let says = SuccessorClaim {
        name: "nkp-a".to_owned(),
        old,
        new,
        key_version: 9,
        finished: true,
    };
    let claim = Claim::Successor(Signed::new(says, &forger));
    let mut fact = claim.write(host_uuid(9), Timestamp(1));
    fact.key_id = Some(old);
    database.host().push(&[fact], &[], soon()).unwrap();
    let synced = one.does("sync");
    assert_eq!(synced["fleet"]["followed"], Value::Array(Vec::new()));
    assert_eq!(one.key("nkp-a"), Some(before));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn without_a_key_manager_a_rotation_goes_by_recovery_files() {
    let database = database();
    let (one, two) = (Host::new(&database, "one"), Host::new(&database, "two"));
    let passphrase = one.path("passphrase");
    fs::write(&passphrase, "a passphrase of a file").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let export = |file: &str| {
        let file = one.path(file);
        one.does(&format!(
            "provider export nkp-a --output {} --passphrase-file {}",
            file.display(),
            passphrase.display()
        ));
        file
    };
    one.does("provider create nkp-a");
    two.does(&format!(
        "provider import {} --passphrase-file {}",
        export("first").display(),
        passphrase.display()
    ));
    one.joins();
    two.joins();
    let before = one.key("nkp-a").unwrap();
    assert_eq!(
        one.run("provider rotate nkp-a --wait 0s").status.code(),
        Some(1)
    );
    one.does("provider rotate nkp-a --wait 0s --without two");
    let after = one.key("nkp-a").unwrap();
    assert_ne!(after, before);
    let second = export("second");
    let line = format!(
        "provider import {} --passphrase-file {}",
        second.display(),
        passphrase.display()
    );
    // Nobody has told this host yet whose key it is.
    assert_eq!(two.run(&line).status.code(), Some(1));
    two.does("sync");
    assert_eq!(two.does(&line)["action"], "next-key");
    two.does("sync");
    assert_eq!(two.key("nkp-a"), Some(after));
    assert_eq!(
        two.key(&format!("nkp-a/{before}")),
        Some(before),
        "it opens what it wraps"
    );

    // Of a host that misses two rotations each key takes its turn.
    let rotated = |file: &str| {
        one.does("provider rotate nkp-a --wait 0s --without two");
        let (file, passphrase) = (export(file), passphrase.display());
        format!(
            "provider import {} --passphrase-file {passphrase}",
            file.display()
        )
    };
    let (third, fourth) = (rotated("third"), rotated("fourth"));
    two.does("sync");
    assert_eq!(two.run(&fourth).status.code(), Some(1));
    for line in [third, fourth] {
        assert_eq!(two.does(&line)["action"], "next-key");
    }
    two.does("sync");
    assert_eq!(two.key("nkp-a"), one.key("nkp-a"));
}
