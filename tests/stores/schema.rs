//! The schema: made once, kept, refused where a newer version has made it, and as administrators run it themselves.

use std::process::Command;

use vtpm_guard::internals::fleet::{Initialized, Kind, Trouble};

use crate::database::{Database, fact, refusal, soon};

#[test]
#[ignore = "needs root: a network of its own"]
fn init_makes_the_schema_once_and_keeps_what_is_in_it() {
    let database = Database::empty();
    let (trouble, message) = refusal(database.role("vtpm_guard_owner").status(soon()));
    assert_eq!(trouble, Trouble::NoSchema, "{message}");
    let made = database.owner().init(soon()).unwrap();
    assert_eq!(
        made,
        Initialized {
            before: 0,
            schema: 1
        }
    );
    let mut client = database.host();
    client
        .push(&[fact(Kind::Event, 1, "kept")], &[], soon())
        .unwrap();
    let status = client.status(soon()).unwrap();
    assert_eq!((status.schema, &*status.role), (1, "host"));
    assert!(
        status.server.starts_with("PostgreSQL "),
        "{}",
        status.server
    );
    let again = database.owner().init(soon()).unwrap();
    assert_eq!(
        again,
        Initialized {
            before: 1,
            schema: 1
        }
    );
    assert_eq!(client.status(soon()).unwrap().epoch, status.epoch);
    assert_eq!(database.sql("SELECT count(*) FROM vtpm_guard.fact"), "1");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn only_the_owner_makes_it() {
    let database = Database::empty();
    let (trouble, message) = refusal(database.host().init(soon()));
    assert_eq!(trouble, Trouble::Denied, "{message}");
    database.owner().init(soon()).unwrap();
    let (trouble, message) = refusal(database.role("stranger").status(soon()));
    assert_eq!(trouble, Trouble::Denied, "{message}");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_newer_one_is_left_alone() {
    let database = Database::prepared();
    database.sql("UPDATE vtpm_guard.fleet SET schema = 99");
    let mut client = database.host();
    let push = client.push(&[fact(Kind::Event, 1, "x")], &[], soon());
    for answer in [
        refusal(push),
        refusal(client.status(soon())),
        refusal(database.owner().init(soon())),
    ] {
        let words = "its schema has version 99; this version knows 1".to_owned();
        assert_eq!(answer, (Trouble::TooNew, words));
    }
}

#[test]
#[ignore = "needs root: a network of its own"]
fn the_statements_for_people_make_the_same() {
    let database = Database::empty();
    let sql = database.owner().sql(soon()).unwrap();
    let (_, rest) = sql.split_once("-- == what `fleet init` runs").unwrap();
    let (_, statements) = rest.split_once('\n').unwrap();
    database.sql(&format!("SET ROLE vtpm_guard_owner; {statements}"));
    let mut client = database.host();
    assert_eq!(
        client
            .push(&[fact(Kind::Event, 1, "x")], &[], soon())
            .unwrap()
            .stored,
        1
    );
    assert_eq!(database.owner().init(soon()).unwrap().before, 1);
    for part in [
        "CREATE DATABASE vtpm_guard",
        "LOGIN IN ROLE vtpm_guard_host",
        "GRANT INSERT",
    ] {
        assert!(sql.contains(part), "{part}");
    }
}

/// The tests of the program itself that need a database: steps from one version to the next.
#[test]
#[ignore = "needs root: a network of its own"]
fn steps_lead_from_each_version_to_the_next() {
    let database = Database::empty();
    let mut test = Command::new(env!("CARGO"));
    test.current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "test",
            "--quiet",
            "--package",
            "vtpm-guard-store-postgresql",
        ])
        .args([
            "--",
            "--ignored",
            "--exact",
            "schema::tests::a_step_follows_the_other",
        ])
        .env("VTPM_GUARD_TEST_DATABASE_SOCKET", database.place())
        .env(
            "VTPM_GUARD_TEST_DATABASE_PASSWORD",
            "password-of-vtpm_guard_owner",
        );
    assert!(test.status().unwrap().success());
}
