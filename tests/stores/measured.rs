//! What an exchange costs: printed, and compared with what else this machine does at the time.

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
    let alone = (0..100).map(|at| {
        let fact = [key(at, 2, i64::from(at))];
        let start = Instant::now();
        client.push(&fact, &[], soon()).unwrap();
        start.elapsed()
    });
    let each = median(&alone.collect::<Vec<_>>());
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
    // In turn: each meets the same machine.
    let (mut asks, mut statuses, mut polls) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..100 {
        asks.push(with_own_connection(&database, |client| {
            client.about(crate::database::domain(1), soon()).unwrap();
        }));
        statuses.push(with_own_connection(&database, |client| {
            client.status(soon()).unwrap();
        }));
        polls.push(with_own_connection(&database, |client| {
            client.pull(&cursor, &scope, 1000, soon()).unwrap();
        }));
    }
    let longest = |times: &[Duration]| *times.iter().max().unwrap();
    let (ask, status, poll) = (median(&asks), median(&statuses), median(&polls));
    eprintln!(
        "{FACTS} facts: pushed in {pushed:?}, one alone in {each:?}, pulled in {pulled:?}, digests in {digests:?}; \
         a question on a miss, with a connection of its own: median {ask:?}, longest {:?}; an idle poll: median \
         {poll:?}, longest {:?}; a status: median {status:?}",
        longest(&asks),
        longest(&polls)
    );
    // What is pushed or pulled one by one takes so long.
    let one_by_one = each * u32::try_from(FACTS).unwrap();
    assert!(pushed < one_by_one / 2, "{pushed:?} of {one_by_one:?}");
    assert!(pulled < one_by_one / 2, "{pulled:?} of {one_by_one:?}");
    // Nearly all of it is the connection, however many facts there are.
    assert!(ask < 3 * status, "{ask:?}, {status:?}");
    assert!(poll < 3 * status, "{poll:?}, {status:?}");
}

/// How long this takes with a connection that is made for it.
fn with_own_connection(database: &Database, asks: impl FnOnce(&mut Client)) -> Duration {
    let start = Instant::now();
    asks(&mut database.host());
    start.elapsed()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
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
