//! Commands of a fleet, and a start that asks it. The shared store's program is that of the contract of `--json`; its
//! facts are files of the host.

use super::*;
use crate::clock::Timestamp;
use crate::fleet::Fact;
use crate::manage::tests::fleet_program::Member;
use crate::store::Merge;

/// A shared store that has these facts.
fn shared_store(host: &Fixture, facts: &[Fact]) {
    let dir = host.root().join("fleet");
    fs::create_dir(&dir).unwrap();
    let lines = facts
        .iter()
        .map(|fact| serde_json::to_string(fact).unwrap() + "\n");
    fs::write(dir.join("facts"), lines.collect::<String>()).unwrap();
    let config = host.root().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("{text}[fleet]\nstore = \"test://there\"\n")).unwrap();
}

/// How many facts the shared store has.
fn told(host: &Fixture) -> usize {
    let facts = fs::read_to_string(host.root().join("fleet/facts"));
    facts.unwrap_or_default().lines().count()
}

fn join(host: &Fixture) {
    let now = Timestamp::now();
    host.store().join_fleet("host1", now).unwrap();
}

/// A guest in use, of a host that is in a fleet and has told it nothing.
fn member(host: &Fixture) {
    in_use(host);
    shared_store(host, &[]);
    join(host);
}

fn is_member(host: &Fixture) -> bool {
    host.store().membership().unwrap().is_some()
}

/// A guest of another host that has died: its TPM is here, its key is in the fleet.
fn of_another_host(host: &Fixture) {
    let other = Fixture::new();
    let known = other.guest_in_use("vm1");
    host.adopt_provider_of(&other, "a");
    let encryption = format!("<encryption secret='{}'/>", known.secret);
    let guest = host.define_with("vm1", known.uuid, known.secret, &encryption);
    host.write_state(&guest, &fs::read(other.state_file(&known)).unwrap());
    shared_store(host, &Member::new(&other, "host2").keys(&known));
}

/// This host has heard that its guest runs on another one.
fn runs_elsewhere(host: &Fixture) {
    member(host);
    let now = Timestamp::now();
    let says = Member::new(host, "host2").says(&guest(host), true, now.0 - 1000);
    let merge = Merge {
        placements: vec![says],
        ..Merge::default()
    };
    host.store().merge(&merge, now).unwrap();
}

fn runs_nowhere(host: &Fixture) {
    let known = host.store().all_placements().unwrap();
    let others = known.iter().filter(|row| !row.is_own);
    let runs: Vec<_> = others.map(|row| row.placement.running).collect();
    assert_eq!(runs, [false]);
    starts_with_one_key(host);
}

pub(super) fn fleet() -> Vec<Scenario> {
    vec![
        command!(
            "fleet join",
            ["fleet", "join", "--name", "host1"],
            |host| {
                of_another_host(host);
                host.guest_in_use("vm2");
            },
            |host| {
                assert!(is_member(host));
                assert!(told(host) > 1, "its own keys");
                starts_with_one_key(host);
            },
            may_leave_out: true
        ),
        command!(
            "fleet leave",
            ["fleet", "leave"],
            member,
            |host| {
                assert!(!is_member(host));
                assert!(told(host) > 0);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "fleet lost",
            ["fleet", "lost", "host2"],
            runs_elsewhere,
            runs_nowhere
        ),
        command!(
            "sync",
            ["sync"],
            member,
            |host| {
                assert_eq!(host.store().outbox_len().unwrap(), 0);
                assert!(told(host) > 0);
                starts_with_one_key(host);
            },
            of: "a fleet",
            may_leave_out: true
        ),
        hook::asks_the_fleet(|host| {
            of_another_host(host);
            join(host);
        }),
    ]
}
