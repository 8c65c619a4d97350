//! What a start and people look for.

use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::fleet::{Fact, FactId, Kind, Search, State, StateInfo};
use vtpm_guard::internals::ids::HostUuid;

use crate::database::{Database, domain, fact, host, key, key_id, soon, state};

fn about(guest: u8, by: u8, fact: Fact) -> Fact {
    Fact {
        domain: Some(domain(guest)),
        host: host(by),
        ..fact
    }
}

fn of_key(kek: u8, fact: Fact) -> Fact {
    Fact {
        key_id: Some(key_id(kek)),
        ..fact
    }
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_start_learns_all_about_its_guest_and_nothing_else() {
    let database = Database::prepared();
    let mut client = database.host();
    let wanted = [
        key(1, 1, 10),
        key(1, 2, 20),
        about(1, 1, fact(Kind::Status, 11, "live")),
        about(1, 2, fact(Kind::Status, 12, "retired")),
        about(1, 1, fact(Kind::Placement, 30, "on one")),
        about(1, 2, fact(Kind::Placement, 25, "on two")),
        of_key(1, fact(Kind::Provider, 1, "one")),
        of_key(2, fact(Kind::Slot, 1, "two")),
    ];
    let others = [
        key(2, 1, 10),
        about(2, 1, fact(Kind::Status, 11, "of another")),
        about(1, 1, fact(Kind::Placement, 29, "on one before")),
        about(1, 1, fact(Kind::Event, 29, "an event")),
        of_key(3, fact(Kind::Provider, 1, "three")),
        of_key(1, fact(Kind::Successor, 1, "a successor")),
    ];
    let states = [state(1, 1), state(1, 2), state(2, 9)];
    client.push(&wanted, &states, soon()).unwrap();
    client.push(&others, &[], soon()).unwrap();
    let found = client.about(domain(1), soon()).unwrap();
    let sorted = |facts: &[Fact]| {
        let mut ids: Vec<_> = facts.iter().map(|fact| fact.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(sorted(&found.facts), sorted(&wanted));
    assert_eq!(found.states, [states[1].clone(), states[0].clone()]);
    let nothing = client.about(domain(77), soon()).unwrap();
    assert_eq!((nothing.facts.len(), nothing.states.len()), (0, 0));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_role_that_speaks_for_many_hosts_hides_nothing_that_others_have_stored() {
    let database = Database::prepared();
    let (mut one, mut two) = (database.host(), database.role("host2"));
    let said = [
        key(1, 1, 10),
        key(1, 2, 20),
        about(1, 1, fact(Kind::Status, 11, "live")),
        about(1, 1, fact(Kind::Placement, 30, "on one")),
        of_key(1, fact(Kind::Provider, 1, "one")),
        of_key(2, fact(Kind::Slot, 1, "two")),
    ];
    one.push(&said, &[], soon()).unwrap();
    let lies: Vec<_> = (0..1000)
        .map(|number: i64| {
            let lie = fact(Kind::Placement, i64::MAX - number, &format!("lie {number}"));
            Fact {
                domain: Some(domain(1)),
                host: HostUuid::random(),
                ..lie
            }
        })
        .collect();
    two.push(&lies, &[], soon()).unwrap();
    let found = one.about(domain(1), soon()).unwrap().facts;
    let missing: Vec<_> = said
        .iter()
        .filter(|fact| found.iter().all(|it| it.id != fact.id))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(found.len(), 1000, "as many as an answer takes");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn of_each_guest_a_role_keeps_its_newest_three_states() {
    let database = Database::prepared();
    let (mut one, mut two) = (database.host(), database.role("host2"));
    two.push(&[], &[state(1, 3)], soon()).unwrap();
    // In any order, and one by one or together.
    for states in [
        vec![state(1, 10), state(1, 14), state(1, 11)],
        vec![state(1, 12)],
        vec![state(1, 13), state(1, 5)],
        vec![state(2, 1)],
    ] {
        one.push(&[], &states, soon()).unwrap();
    }
    let times = |states: &[vtpm_guard::internals::fleet::StateInfo]| -> Vec<i64> {
        states.iter().map(|state| state.at.0).collect()
    };
    assert_eq!(
        times(&one.states(Some(domain(1)), 10, soon()).unwrap().states),
        [14, 13, 12, 3]
    );
    assert_eq!(
        times(&one.states(None, 2, soon()).unwrap().states),
        [14, 13]
    );
    // A role that stores many newer ones hides nothing that others have stored.
    let found = two.about(domain(1), soon()).unwrap().states;
    let found: Vec<_> = found.iter().map(|state| state.info.at.0).collect();
    assert_eq!(found, [14, 3, 13, 12]);
    // The same bytes, after a run that has changed nothing: they are of that time, and no further state.
    one.push(
        &[],
        &[State {
            info: StateInfo {
                at: Timestamp(15),
                ..state(1, 12).info
            },
            ..state(1, 12)
        }],
        soon(),
    )
    .unwrap();
    one.push(&[], &[state(1, 12)], soon()).unwrap();
    assert_eq!(
        times(&one.states(Some(domain(1)), 10, soon()).unwrap().states),
        [15, 14, 13, 3]
    );
    // One that came too late goes at once.
    one.push(&[], &[state(1, 1)], soon()).unwrap();
    assert_eq!(
        one.state(state(1, 1).info.id, soon()).unwrap(),
        None::<State>
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn facts_are_found_by_what_they_are_about_newest_first() {
    let database = Database::prepared();
    let mut client = database.host();
    let facts = [
        about(1, 1, fact(Kind::Event, 10, "a")),
        about(1, 2, fact(Kind::Event, 20, "b")),
        about(2, 1, fact(Kind::Event, 30, "c")),
        about(1, 1, fact(Kind::Placement, 40, "d")),
    ];
    client.push(&facts, &[], soon()).unwrap();
    let all = Search {
        kinds: vec![Kind::Event],
        domain: None,
        host: None,
        since: None,
        until: None,
        limit: 10,
    };
    let mut times = |search: Search| -> (Vec<i64>, bool) {
        let found = client.search(&search, soon()).unwrap();
        (
            found.facts.iter().map(|fact| fact.at.0).collect(),
            found.more,
        )
    };
    assert_eq!(times(all.clone()), (vec![30, 20, 10], false));
    assert_eq!(
        times(Search {
            limit: 2,
            ..all.clone()
        }),
        (vec![30, 20], true)
    );
    assert_eq!(
        times(Search {
            domain: Some(domain(1)),
            ..all.clone()
        }),
        (vec![20, 10], false)
    );
    assert_eq!(
        times(Search {
            host: Some(host(1)),
            ..all.clone()
        }),
        (vec![30, 10], false)
    );
    let (since, until) = (Some(Timestamp(20)), Some(Timestamp(30)));
    assert_eq!(
        times(Search {
            since,
            until,
            ..all.clone()
        }),
        (vec![20], false)
    );
    let kinds = vec![Kind::Event, Kind::Placement];
    assert_eq!(
        times(Search { kinds, ..all }),
        (vec![40, 30, 20, 10], false)
    );
    let newest = client.newest(Kind::Event, soon()).unwrap().facts;
    let mut times: Vec<_> = newest.iter().map(|fact| fact.at.0).collect();
    times.sort_unstable();
    assert_eq!(times, [20, 30]);
    assert_eq!(client.state(FactId([0; 32]), soon()).unwrap(), None);
}
