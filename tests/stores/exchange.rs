//! Facts are stored once, pulled once, and found by digests.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use vtpm_guard::internals::fleet::{Client, Cursor, Fact, FactId, Kind, MAX_BODY, Pushed, Scope};

use crate::database::{Database, domain, fact, key, key_id, soon, state};

fn everything() -> Scope {
    Scope {
        always: Kind::ALL.to_vec(),
        ..Scope::default()
    }
}

#[track_caller]
fn push(client: &mut Client, facts: &[Fact]) -> u64 {
    let pushed = client.push(facts, &[], soon()).unwrap();
    assert_eq!(pushed.facts, facts.len());
    pushed.stored
}

fn pull_all(client: &mut Client, scope: &Scope, cursor: &mut Cursor) -> Vec<Fact> {
    let mut found = Vec::new();
    loop {
        let page = client.pull(cursor, scope, 7, soon()).unwrap();
        *cursor = page.next;
        found.extend(page.facts);
        if !page.more {
            return found;
        }
    }
}

fn ids(facts: &[Fact]) -> BTreeSet<FactId> {
    facts.iter().map(|fact| fact.id).collect()
}

#[test]
#[ignore = "needs root: a network of its own"]
fn what_is_stored_twice_is_there_once_and_comes_back_as_it_was() {
    let database = Database::prepared();
    let mut client = database.host();
    let mut facts: Vec<_> = (0..30)
        .map(|at| fact(Kind::Event, at, &format!("{at} ä \\u0001 \u{1} \\")))
        .collect();
    facts.extend((0..10).map(|at| key(1, 2, at)));
    let states = [state(1, 5)];
    let pushed = client.push(&facts, &states, soon()).unwrap();
    let all = Pushed {
        facts: 40,
        states: 1,
        stored: 41,
    };
    assert_eq!(pushed, all);
    let again = client.push(&facts, &states, soon()).unwrap();
    assert_eq!(again, Pushed { stored: 0, ..all });
    let mut found = pull_all(&mut client, &everything(), &mut Cursor::default());
    found.sort_by_key(|fact| fact.id);
    facts.sort_by_key(|fact| fact.id);
    assert_eq!(found, facts);
    assert_eq!(client.fetch(&[facts[3].id], soon()).unwrap(), facts[3..4]);
    assert_eq!(
        client.state(states[0].info.id, soon()).unwrap().as_ref(),
        Some(&states[0])
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_key_comes_before_its_status() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts: Vec<_> = (0..20)
        .flat_map(|at| [fact(Kind::Status, at, &at.to_string()), key(1, 2, at)])
        .collect();
    push(&mut client, &facts);
    let found = pull_all(&mut client, &everything(), &mut Cursor::default());
    let kinds: Vec<_> = found.iter().map(|fact| fact.kind).collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    assert_eq!(kinds.len(), 40);
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_host_pulls_what_concerns_it_and_finds_differences_in_it_alone() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts: Vec<_> = (1..=4)
        .flat_map(|guest| (1..=4).map(move |kek| key(guest, kek, 0)))
        .chain([
            fact(Kind::Event, 1, "an event"),
            fact(Kind::Host, 1, "a host"),
        ])
        .collect();
    push(&mut client, &facts);
    let scope = Scope {
        always: vec![Kind::Host],
        scoped: vec![Kind::Key],
        key_ids: vec![key_id(1), key_id(2)],
        domains: vec![domain(4)],
    };
    let is_in = |fact: &&Fact| {
        fact.kind == Kind::Host
            || fact.kind == Kind::Key
                && (fact.domain == Some(domain(4))
                    || [Some(key_id(1)), Some(key_id(2))].contains(&fact.key_id))
    };
    let expected: BTreeSet<_> = facts.iter().filter(is_in).map(|fact| fact.id).collect();
    assert_eq!(expected.len(), 8 + 2 + 1);
    let mut cursor = Cursor::default();
    let found = pull_all(&mut client, &scope, &mut cursor);
    assert_eq!(ids(&found), expected);
    assert_eq!(found.len(), expected.len());
    assert_eq!(pull_all(&mut client, &scope, &mut cursor), []);

    let digests = client.digests(&scope, soon()).unwrap();
    for bucket in 0..=255 {
        let mut hash = Sha256::new();
        let within: Vec<_> = expected.iter().filter(|id| id.0[0] == bucket).collect();
        within.iter().for_each(|id| hash.update(id.0));
        assert_eq!(
            digests[usize::from(bucket)].0,
            <[u8; 32]>::from(hash.finalize())
        );
    }
    let all: Vec<u8> = (0..=255).collect();
    let found = client.ids(&scope, &all, soon()).unwrap();
    assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected);
    let bucket = facts[0].id.0[0];
    let found = client.ids(&everything(), &[bucket], soon()).unwrap();
    let expected: BTreeSet<_> = ids(&facts)
        .into_iter()
        .filter(|id| id.0[0] == bucket)
        .collect();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_cursor_of_another_database_begins_anew() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts = [fact(Kind::Event, 1, "before")];
    push(&mut client, &facts);
    let mut cursor = Cursor::default();
    assert_eq!(pull_all(&mut client, &everything(), &mut cursor), facts);
    let before = client.status(soon()).unwrap();
    database.service.run_verb("remake-database");
    database.owner().init(soon()).unwrap();
    let mut client = database.host();
    let status = client.status(soon()).unwrap();
    assert_ne!(status.epoch, before.epoch);
    assert_eq!(status.system, before.system);
    push(&mut client, &facts);
    assert_eq!(pull_all(&mut client, &everything(), &mut cursor), facts);
    for nonsense in ["x", "0/0/0/0", "////"] {
        let mut cursor = Cursor::parse(nonsense).unwrap();
        assert_eq!(pull_all(&mut client, &everything(), &mut cursor), facts);
    }
}

#[test]
#[ignore = "needs root: a network of its own"]
fn long_facts_go_in_several_documents() {
    let database = Database::prepared();
    let mut client = database.host();
    // Each needs six bytes for one when it travels.
    let long = |number: u32| {
        let text = format!("{number:04}{}", "\u{1}".repeat(MAX_BODY - 4));
        Fact {
            id: FactId::of_body(Kind::Report, &text),
            body: text,
            ..fact(Kind::Report, i64::from(number), "")
        }
    };
    let facts: Vec<_> = (0..7).map(long).collect();
    let mut rest = &facts[..];
    while !rest.is_empty() {
        let pushed = client.push(rest, &[], soon()).unwrap();
        assert!((1..=2).contains(&pushed.facts), "{pushed:?}");
        rest = &rest[pushed.facts..];
    }
    let all: Vec<_> = facts.iter().map(|fact| fact.id).collect();
    assert_eq!(ids(&client.fetch(&all, soon()).unwrap()), ids(&facts));
    let found = pull_all(&mut client, &everything(), &mut Cursor::default());
    assert_eq!(ids(&found), ids(&facts));
    let newest = client.newest(Kind::Report, soon()).unwrap();
    assert_eq!(ids(&newest.facts), BTreeSet::from([facts[6].id]));
}
