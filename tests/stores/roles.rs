//! A host may add and read, and nothing else.

use vtpm_guard::internals::fleet::{Kind, Trouble};

use crate::database::{Database, fact, refusal, soon, state};

#[test]
#[ignore = "needs root: a network of its own"]
fn a_host_can_neither_change_nor_remove_nor_make_anything() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts = [fact(Kind::Event, 1, "an event")];
    client.push(&facts, &[state(1, 1)], soon()).unwrap();
    database.sql(
        "CREATE SCHEMA other; CREATE TABLE other.secrets (t text); \
         CREATE FUNCTION other.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    for statement in [
        "UPDATE vtpm_guard.fact SET body = 'x'",
        "UPDATE vtpm_guard.fact SET at = 0 WHERE false",
        "DELETE FROM vtpm_guard.fact",
        "TRUNCATE vtpm_guard.fact",
        "UPDATE vtpm_guard.tpm_state SET at = 0",
        "DELETE FROM vtpm_guard.tpm_state",
        "TRUNCATE vtpm_guard.tpm_state",
        "UPDATE vtpm_guard.fleet SET schema = 9",
        "DELETE FROM vtpm_guard.fleet",
        "INSERT INTO vtpm_guard.fleet (one, schema) VALUES (true, 1)",
        "DROP TABLE vtpm_guard.fact",
        "ALTER TABLE vtpm_guard.fact DISABLE TRIGGER ALL",
        "LOCK TABLE vtpm_guard.fact IN EXCLUSIVE MODE",
        "CREATE TABLE vtpm_guard.mine (t text)",
        "CREATE TABLE public.mine (t text)",
        "CREATE TEMP TABLE mine (t text)",
        "CREATE SCHEMA mine",
        "CREATE INDEX ON vtpm_guard.fact (at)",
        "CREATE ROLE mine",
        "SET ROLE vtpm_guard_owner",
        "SELECT vtpm_guard.trim('0 days')",
        "SELECT * FROM vtpm_guard.facts",
        "SELECT * FROM other.secrets",
        "SELECT other.one()",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY vtpm_guard.fact TO PROGRAM 'true'",
        // Who stored it, and when, it cannot say itself.
        "INSERT INTO vtpm_guard.fact (id, kind, host, at, body, made_in) VALUES \
         (sha256('\\x00'), 'host', gen_random_uuid(), 1, '{}', '1')",
        "INSERT INTO vtpm_guard.fact (id, kind, host, at, body, role) VALUES \
         (sha256('\\x00'), 'host', gen_random_uuid(), 1, '{}', 'host3')",
    ] {
        let error = database
            .try_sql(&format!("SET SESSION AUTHORIZATION host2; {statement}"))
            .expect_err(statement);
        let is_refused = ["permission denied", "must be owner", "must be superuser"];
        assert!(
            is_refused.iter().any(|words| error.contains(words)),
            "{statement}: {error}"
        );
    }
    assert_eq!(database.sql("SELECT count(*) FROM vtpm_guard.fact"), "1");
    assert_eq!(
        database.sql("SELECT DISTINCT role FROM vtpm_guard.fact"),
        "host"
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn what_is_not_what_its_id_says_is_not_stored() {
    let database = Database::prepared();
    let mut client = database.host();
    let mut other = fact(Kind::Event, 1, "an event");
    other.body.push(' ');
    let mut key = crate::database::key(1, 1, 1);
    key.domain = Some(crate::database::domain(2));
    let mut wrong_state = state(1, 1);
    wrong_state.data = Some(b"another".to_vec());
    for (facts, states) in [
        (vec![other], vec![]),
        (vec![key], vec![]),
        (vec![], vec![wrong_state]),
    ] {
        let (trouble, message) = refusal(client.push(&facts, &states, soon()));
        assert_eq!(trouble, Trouble::Failed);
        assert!(message.contains("is_what_its_id_says"), "{message}");
    }
    // The conversation goes on.
    assert_eq!(
        client
            .push(&[fact(Kind::Event, 1, "x")], &[], soon())
            .unwrap()
            .stored,
        1
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn one_role_cannot_store_so_much_of_what_everybody_keeps_that_others_are_not_heard() {
    let database = Database::prepared();
    let mut client = database.host();
    let slots: Vec<_> = (0..4010)
        .map(|number| fact(Kind::Slot, number, &format!("slot {number}")))
        .collect();
    let mut stored = 0;
    for slots in slots.chunks(500) {
        stored += client.push(slots, &[], soon()).unwrap().stored;
    }
    assert_eq!(stored, 4000);
    // What it stored before is there as before, other kinds are, and a guest's key that comes with it.
    let with_key = [
        slots[0].clone(),
        slots[4009].clone(),
        crate::database::key(1, 1, 1),
        fact(Kind::Provider, 1, "a provider"),
    ];
    assert_eq!(client.push(&with_key, &[], soon()).unwrap().stored, 2);
    let mut other = database.role("host2");
    let new = [fact(Kind::Slot, 1, "a slot of another host")];
    assert_eq!(other.push(&new, &[], soon()).unwrap().stored, 1);
    assert_eq!(
        database.sql("SELECT count(*) FROM vtpm_guard.fact WHERE kind = 'slot'"),
        "4001"
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn trimming_keeps_keys_and_the_newest_of_each_guest_and_host() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts = [
        fact(Kind::Event, 1, "old"),
        fact(Kind::Placement, 1, "older"),
        fact(Kind::Placement, 2, "old"),
        fact(Kind::Report, 1, "older"),
        fact(Kind::Report, 2, "old"),
        crate::database::key(1, 1, 1),
        fact(Kind::Status, 1, "old"),
    ];
    client.push(&facts, &[], soon()).unwrap();
    assert_eq!(database.sql("SELECT vtpm_guard.trim('1 year')"), "3");
    let left = "SELECT string_agg(kind || at, ' ' ORDER BY kind) FROM vtpm_guard.fact";
    assert_eq!(database.sql(left), "key1 placement2 report2 status1");
    for view in ["facts", "states", "hosts"] {
        database.sql(&format!("SELECT * FROM vtpm_guard.{view}"));
    }
}
