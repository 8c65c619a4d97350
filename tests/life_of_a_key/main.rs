//! The life of keys as one long story: random sequences of what happens to a host, with a real
//! store, real sealed keys and real state files; after each step the statements of design.md
//! are held against what this test knows better than the guard: every key that was ever made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod clone;
mod events;
mod host;
mod libvirt;
mod statements;
mod tpm;

use proptest::prelude::*;

use vtpm_guard::guard::Mode;

use events::{Event, events};
use host::Host;

/// Random stories. Each is some ten events long, each event some milliseconds.
const STORIES: u32 = 80;

fn play(story: &[Event]) -> Host {
    let mut host = Host::new();
    for (step, event) in story.iter().enumerate() {
        host.say(format!("{step}: {event:?}"));
        event.happen(&mut host);
        statements::hold(&mut host);
    }
    statements::hold_at_the_end(&mut host);
    host
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: STORIES,
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
        let mut rotation = events::rotation(&host, "a").spawn().unwrap();
        while rotation.try_wait().unwrap().is_none() {
            let outcome = host.prepare(0, Mode::CarryOut);
            assert!(outcome.is_allowed(), "{outcome:#?}");
            host.ends(0);
            starts += 1;
        }
        assert!(rotation.wait().unwrap().success());
    }
    assert_eq!(host.store().provider("a").unwrap().key_version, 6);
    assert!(starts > 5, "{starts} starts met a rotation");
}
