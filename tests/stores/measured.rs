//! What an exchange costs: printed, and held to the aims with a wide margin.

use std::time::{Duration, Instant};

use vtpm_guard::internals::fleet::{Client, Cursor, Fact, Kind, Scope};

use crate::database::{Database, key, key_id, soon};

/// As many as a fleet of some thousand guests has.
const FACTS: i64 = 10_000;

#[test]
#[ignore = "needs root: a network of its own"]
fn ten_thousand_facts_travel_in_seconds() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts: Vec<_> = (0..FACTS)
        .map(|at| key(u8::try_from(at % 200).unwrap(), 1, at))
        .collect();
    let start = Instant::now();
    let mut rest = &facts[..];
    while !rest.is_empty() {
        rest = &rest[client.push(rest, &[], soon()).unwrap().facts..];
    }
    let pushed = start.elapsed();
    let scope = Scope {
        always: vec![Kind::Host],
        scoped: vec![Kind::Key],
        key_ids: vec![key_id(1)],
        ..Scope::default()
    };
    let start = Instant::now();
    let (found, cursor) = pull_all(&mut client, &scope);
    let pulled = start.elapsed();
    assert_eq!(found.len(), facts.len());
    let start = Instant::now();
    client.digests(&scope, soon()).unwrap();
    let digests = start.elapsed();
    let mut asks: Vec<_> = (0..100)
        .map(|_| {
            let start = Instant::now();
            let mut client = database.host();
            client.about(crate::database::domain(1), soon()).unwrap();
            start.elapsed()
        })
        .collect();
    asks.sort();
    let mut polls: Vec<_> = (0..100)
        .map(|_| {
            let start = Instant::now();
            let mut client = database.host();
            client.pull(&cursor, &scope, 1000, soon()).unwrap();
            start.elapsed()
        })
        .collect();
    polls.sort();
    eprintln!(
        "{FACTS} facts: pushed in {pushed:?}, pulled in {pulled:?}, digests in {digests:?}; \
         a question on a miss, with a connection of its own: median {:?}, longest {:?}; an idle poll: median {:?}, \
         longest {:?}",
        asks[50], asks[99], polls[50], polls[99]
    );
    // Wide: other work may go on beside the tests.
    assert!(pushed < Duration::from_secs(10), "{pushed:?}");
    assert!(pulled < Duration::from_secs(5), "{pulled:?}");
    assert!(asks[50] < Duration::from_millis(200), "{:?}", asks[50]);
}

fn pull_all(client: &mut Client, scope: &Scope) -> (Vec<Fact>, Cursor) {
    let (mut found, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let page = client.pull(&cursor, scope, 5000, soon()).unwrap();
        cursor = page.next;
        found.extend(page.facts);
        if !page.more {
            return (found, cursor);
        }
    }
}
