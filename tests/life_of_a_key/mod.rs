//! The life of keys as one long story: random sequences of what happens to a host, with a real
//! store, real sealed keys and real state files. The administrator's part is played by the
//! procedures of `manage`; after each step the statements of docs/invariants.md
//! are held against what this test knows better than the guard: every key that was ever made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod clone;
mod events;
mod host;
mod statements;
mod tpm;

use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::clock::{Deadline, Timestamp};
use crate::guard::{Mode, Operation, prepare};
use crate::manage::tests::fixture::Fixture;
use crate::store::Origin;

use events::{Event, events};
use host::Host;

/// Random stories, unless `VTPM_GUARD_STORIES` says otherwise. Each is some ten events long, each event some
/// milliseconds.
const STORIES: u32 = 80;

fn stories() -> u32 {
    let number = std::env::var("VTPM_GUARD_STORIES").ok();
    number.map_or(STORIES, |number| number.parse().unwrap())
}

fn play(story: &[Event]) -> Host {
    let mut host = play_on(Host::new(), story);
    statements::hold_at_the_end(&mut host);
    host
}

fn play_on(mut host: Host, story: &[Event]) -> Host {
    for (step, event) in story.iter().enumerate() {
        host.say(format!("{step}: {event:?}"));
        event.happen(&mut host);
        statements::hold(&mut host);
    }
    host
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: stories(),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_no_key_is_lost_and_what_can_start_starts(story in events()) {
        play(&story);
    }
}

/// A story that is known to go through every stage: a test of the stories themselves.
#[test]
fn a_key_is_made_used_locked_out_brought_back_and_rotated() {
    use events::Event::*;
    use events::StartEnds::*;
    let told = [
        (Bind(0, 0), "bound"),
        (Start(0, FailsBeforeState), "failed"),
        (Start(0, Runs), "runs"),
        (Stop(0), "stopped"),
        (DeleteProvider(0), "deleted"),
        (Start(0, Runs), "refused VG101"),
        (ImportProvider(0), "imported"),
        (Start(0, Runs), "runs"),
        (Stop(0), "stopped"),
        (InsertPlaceholder(0, 0), "inserted"),
        (InsertDuplicate(0), "inserted"),
        (Start(0, Runs), "runs"),
        (Rotate(0), "rotated"),
        (SaveAndRestore(0), "runs"),
        (Stop(0), "stopped"),
        (LoseState(0), "lost"),
        (Start(0, Runs), "refused VG205"),
        (Reset(0), "reset"),
        (Start(0, Runs), "runs"),
    ];
    let story: Vec<_> = told.iter().map(|(event, _)| *event).collect();
    let host = play(&story);
    let heard: Vec<_> = host
        .told
        .iter()
        .filter(|line| line.starts_with("  "))
        .collect();
    let expected: Vec<_> = told.iter().map(|(_, what)| format!("  {what}")).collect();
    assert_eq!(
        heard,
        expected.iter().collect::<Vec<_>>(),
        "{:#?}",
        host.told
    );
}

/// What was announced and did not come lets no start pass that it was not announced for.
#[test]
fn a_restore_that_fails_makes_no_refusal_go_away() {
    use events::Event::*;
    use events::StartEnds::*;
    let told = [
        (Bind(0, 0), "bound"),
        (Start(0, Runs), "runs"),
        (RestoreRefused(0), "refused"),
        (Stop(0), "stopped"),
        (LoseState(0), "lost"),
        (Start(0, Runs), "refused VG205"),
        (RestoreRefused(0), "refused"),
        (Start(0, Runs), "refused VG205"),
        (RestoreFails(0), "failed"),
        (Start(0, Runs), "refused VG205"),
        (RestoreFails(0), "failed"),
        (Start(0, Runs), "refused VG205"),
    ];
    let story: Vec<_> = told.iter().map(|(event, _)| *event).collect();
    let host = play(&story);
    let heard: Vec<_> = host
        .told
        .iter()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    assert_eq!(heard, told.map(|(_, what)| what), "{:#?}", host.told);
}

/// The same of a guest whose TPM state libvirt takes away: it comes back each time.
#[test]
fn a_transient_guest_has_its_tpm_again_after_a_failed_start_and_after_a_run() {
    use events::Event::*;
    use events::StartEnds::*;
    let story = [
        Bind(1, 0),
        Start(1, Runs),
        Stop(1),
        DeleteProvider(0),
        Start(1, Runs),
        ImportProvider(0),
        Start(1, FailsAfterState),
        Start(1, FailsBeforeState),
        Start(1, HostDiesBeforeState),
        Start(1, Runs),
        Rotate(0),
        Stop(1),
        Start(1, Runs),
    ];
    let host = play(&story);
    let runs = host.told.iter().filter(|line| *line == "  runs").count();
    assert_eq!(runs, 3, "{:#?}", host.told);
    assert_eq!(host.guests[1].made_with.len(), 1, "one TPM, all the time");
}

/// A clone and its original start with one key, each wrapped for itself.
#[test]
fn a_clone_has_the_tpm_of_its_original() {
    use events::Event::*;
    use events::StartEnds::*;
    let story = [
        Bind(0, 0),
        Start(0, Runs),
        Stop(0),
        Clone(0),
        Start(0, Runs),
        Start(1, Runs),
        Stop(1),
        Rotate(0),
        Start(1, Runs),
    ];
    let host = play(&story);
    let runs = host.told.iter().filter(|line| *line == "  runs").count();
    assert_eq!(runs, 4, "{:#?}", host.told);
    assert_eq!(host.guests[0].made_with, host.guests[1].made_with);
}

/// The same for what the administrator does to a key and to a state: each step is really done.
#[test]
fn a_key_is_renewed_and_given_up_and_a_state_that_is_gone_is_restored() {
    use events::Event::*;
    use events::StartEnds::*;
    let told = [
        (Bind(0, 0), "bound"),
        (Start(0, Runs), "runs"),
        (Stop(0), "stopped"),
        (Renew(0), "renewed"),
        (Start(0, Runs), "runs"),
        (Stop(0), "stopped"),
        (Unbind(0), "unbound"),
        (Start(0, Runs), "refused VG202"),
        (Bind(1, 1), "bound"),
        (Start(1, Runs), "runs"),
        (RestoreState(1), "-"),
        (Stop(1), "stopped"),
        (RestoreState(1), "restored"),
        (Start(1, Runs), "runs"),
    ];
    let story: Vec<_> = told.iter().map(|(event, _)| *event).collect();
    let host = play(&story);
    let heard = host.told.iter().filter_map(|line| line.strip_prefix("  "));
    assert_eq!(heard.collect::<Vec<_>>(), told.map(|(_, what)| what));
    assert_eq!(
        host.guests[0].made_with.len(),
        2,
        "its key before and after"
    );
}

/// M1 of the audit: the store is locked when the first run is to be noted, and the states are out
/// of sight when it ends.
#[test]
fn a_key_that_nobody_could_note_as_used_outlives_states_that_are_out_of_sight() {
    use events::Event::*;
    use events::StartEnds::*;
    let story = [Bind(0, 0), Start(0, RunsUnnoted), StopWithoutStates(0)];
    let mut host = play_on(Host::new(), &story);
    let refused = host.prepare(0, Mode::DryRun);
    assert!(!refused.is_allowed(), "no key is made over the state");
    let rows = host.rows(0);
    let proven = rows.iter().find(|row| {
        let dek = host.unwrapped(row);
        dek.is_some_and(|dek| host.opens_state(0, &dek) == Some(true))
    });
    let proven = proven.unwrap().key_ref.id;
    host.store().use_key(proven, Timestamp::now()).unwrap();
    Start(0, Runs).happen(&mut host);
    assert_eq!(host.told.last().unwrap(), "  runs", "{:#?}", host.told);
}

/// The guest comes with its TPM from a host where another of its keys is in use: the arrival fails,
/// and the state that came is set aside with its directory.
#[test]
fn an_arrival_that_its_key_does_not_open_costs_no_state() {
    use events::Event::*;
    use events::StartEnds::*;
    let host = play_on(
        Host::new(),
        &[Bind(0, 0), Start(0, Runs), Stop(0), InsertOtherKey(0, 0)],
    );
    let other = host.rows(0).pop().unwrap().key_ref.id;
    host.store().use_key(other, Timestamp::now()).unwrap();
    let host = play_on(host, &[MigrateIn(0), Start(0, Runs)]);
    let heard = host.told.iter().filter_map(|line| line.strip_prefix("  "));
    let heard: Vec<_> = heard.collect();
    assert_eq!(
        heard[4..],
        ["CMD_INIT", "refused VG204"],
        "{:#?}",
        host.told
    );
}

#[test]
fn a_guest_whose_first_start_fails_again_and_again_has_one_key() {
    use events::Event::*;
    use events::StartEnds::*;
    let story: Vec<_> = [Bind(0, 0)]
        .into_iter()
        .chain([Start(0, FailsBeforeState); 20])
        .chain([Start(0, Runs)])
        .collect();
    let mut host = play_on(Host::new(), &story[..21]);
    assert_eq!(host.rows(0).len(), 2, "a placeholder and a retired key");
    host = play_on(host, &story[21..]);
    assert_eq!(host.rows(0).len(), 1);
}

/// L8 of the audit: somebody holds the store's write lock.
#[test]
fn only_what_must_be_written_waits_for_a_locked_store() {
    use events::Event::*;
    use events::StartEnds::*;
    let mut host = play_on(
        Host::new(),
        &[Bind(0, 0), Start(0, Runs), Stop(0), Bind(1, 0)],
    );
    let lock = host.lock_store();
    let waited = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    let start = waited(&mut || assert!(host.prepare(0, Mode::CarryOut).is_allowed()));
    assert!(
        start < Duration::from_secs(5),
        "a start that only records its event waits for a second: {start:?}"
    );
    let took = waited(&mut || {
        host.follow_up(0, Operation::Started);
        host.ends(0);
    });
    assert!(
        took < start,
        "what follows it waits for nothing: {took:?}, {start:?}"
    );

    // A new key must be written: without it there is no start.
    let patient = Deadline::after(Duration::from_secs(3));
    let took = waited(&mut || {
        let domain = Ok(host.guests[1].domain.clone());
        let outcome = prepare(
            &host.guard,
            &domain,
            Origin::Prepare,
            Mode::CarryOut,
            patient,
        );
        assert!(!outcome.is_allowed());
    });
    assert!(
        took > Duration::from_secs(1),
        "the first start of a guest: {took:?}"
    );
    drop(lock);
    Start(1, Runs).happen(&mut host);
    assert_eq!(host.told.last().unwrap(), "  runs");
}

#[test]
fn a_guest_starts_at_every_moment_of_a_rotation() {
    let mut host = Host::new();
    for event in [
        Event::Bind(0, 0),
        Event::Start(0, events::StartEnds::Runs),
        Event::Stop(0),
    ] {
        event.happen(&mut host);
    }
    let mut starts = 0;
    for _ in 0..5 {
        let root = host.site.root().to_owned();
        let rotation = thread::spawn(move || {
            let rotated = events::rotation(&Fixture::at(&root).host, "a");
            rotated.unwrap().rotated
        });
        while !rotation.is_finished() {
            let outcome = host.prepare(0, Mode::CarryOut);
            assert!(outcome.is_allowed(), "{outcome:#?}");
            host.ends(0);
            starts += 1;
        }
        assert!(rotation.join().unwrap());
    }
    assert_eq!(host.store().provider("a").unwrap().key_version, 6);
    assert!(starts > 5, "{starts} starts met a rotation");
}
