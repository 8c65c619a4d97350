//! Which copies are saved, and which stay.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{Guest, LATER, STATE, names};
use crate::clock::Timestamp;
use crate::host::crash::armed;
use crate::swtpm::StatePath;
use crate::tpm_copies::copy_store::{KEPT_RUNS, MAX_COPIES, MAX_SAVED_ASIDE, MAX_UNTRIED};
use crate::tpm_copies::{CopyError, RunRecord, SavedCopy, domains, set_aside, sort_latest_first};
use crate::verdict::facts::CopyReason;

/// A state of a newer format than this program knows.
fn newer(text: &str) -> Vec<u8> {
    let len = u32::try_from(10 + text.len()).unwrap();
    [
        &[3, 3, 0, 10, 0, 0],
        &len.to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

#[test]
fn the_same_bytes_are_saved_once_and_others_next_to_them() {
    let guest = Guest::new();
    let first = guest.save(CopyReason::Start);
    assert_eq!(guest.save(CopyReason::Start), first);
    assert_eq!(guest.copies().len(), 1);
    assert_eq!(guest.copies()[0].manifest.reason, CopyReason::Start);

    let order = || {
        let saved = guest.copies();
        let names = saved.iter().map(|copy| copy.manifest.sha256().to_owned());
        names.collect::<Vec<_>>()
    };
    guest.put(LATER);
    let second = guest.save(CopyReason::Release);
    assert_eq!(order(), [&*second, &first], "the latest first");

    // A run that has changed nothing is a run all the same.
    guest.put(STATE);
    let before = guest.copies()[1].manifest.kept_at();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(guest.save(CopyReason::Release), first);
    assert_eq!(order(), [&*first, &second]);
    let latest = &guest.copies()[0].manifest;
    assert!(latest.reason == CopyReason::Release && latest.kept_at() > before);

    guest.copy_store().drop_copy(&second).unwrap();
    guest.copy_store().drop_copy(&second).unwrap();
    assert_eq!(guest.copies().len(), 1);
}

#[test]
fn a_copy_that_was_set_aside_stays_and_becomes_available_when_the_same_bytes_are_saved() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    assert_eq!(guest.copy_store().set_aside(Timestamp(7)).unwrap(), 1);
    assert_eq!(guest.copy_store().set_aside(Timestamp(8)).unwrap(), 0);
    assert!(!guest.copies()[0].is_available());
    assert_eq!(
        guest.copies()[0].manifest.set_aside_at(),
        Some(Timestamp(7))
    );
    guest.save(CopyReason::Start);
    assert_eq!(guest.copies().len(), 1);
    assert!(guest.copies()[0].is_available());
}

#[test]
fn bytes_without_a_manifest_are_not_a_copy_and_the_next_copy_is_whole() {
    let guest = Guest::new();
    let sha256 = guest.save(CopyReason::Start);
    // As if the process had been killed between the two.
    fs::remove_file(guest.copies_dir().join(format!("{sha256}.json"))).unwrap();
    fs::write(guest.copies_dir().join(".half.1"), "half").unwrap();
    assert!(guest.copies().is_empty());
    guest.save(CopyReason::Start);
    assert_eq!(guest.copies()[0].bytes, STATE);

    guest.copy_store().drop_copy(&sha256).unwrap();
    guest.copy_store().write_run(RunRecord::default()).unwrap();
    guest.copy_store().remove_run().unwrap();
    guest.copy_store().remove_if_empty().unwrap();
    assert!(!guest.copies_dir().exists());
}

#[test]
fn a_damaged_copy_is_reported_and_replaced_by_the_next_one() {
    let guest = Guest::new();
    let sha256 = guest.save(CopyReason::Start);
    let file = |end: &str| guest.copies_dir().join(format!("{sha256}{end}"));
    let manifest = fs::read_to_string(file(".json")).unwrap();
    let damages: [(&str, Vec<u8>); 5] = [
        (".state", STATE[1..].to_vec()),
        (".state", Vec::new()),
        (".json", manifest.as_bytes()[..40].to_vec()),
        (
            ".json",
            manifest.replace("\"format\": 1", "\"format\": 2").into(),
        ),
        (
            ".json",
            manifest
                .replace("/swtpm", "../x")
                .replace("\"/", "\"")
                .into(),
        ),
    ];
    for (end, damaged) in damages {
        fs::write(file(end), damaged).unwrap();
        let (copies, unreadable) = guest.copy_store().copies().unwrap();
        assert_eq!((copies.len(), unreadable.len()), (0, 1), "{end}");
        guest.save(CopyReason::Start);
        assert_eq!(guest.copies()[0].bytes, STATE);
    }
}

#[test]
fn a_directory_that_others_may_write_is_not_trusted() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    fs::set_permissions(guest.copies_dir(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        guest.copy_store().copies(),
        Err(CopyError::NotTrusted { .. })
    ));
}

#[test]
fn the_record_of_a_run_is_written_and_removed() {
    let guest = Guest::new();
    let copy_store = guest.copy_store();
    assert_eq!(copy_store.run().unwrap(), RunRecord::default());
    let run = RunRecord {
        starting: true,
        state: Some(guest.save(CopyReason::Start)),
        had_state: true,
        ..RunRecord::default()
    };
    copy_store.write_run(run.clone()).unwrap();
    assert_eq!(copy_store.run().unwrap(), run);
    assert_eq!(guest.copies().len(), 1, "the record is not a copy");
    copy_store.remove_run().unwrap();
    copy_store.remove_if_empty().unwrap();
    assert_eq!(copy_store.run().unwrap(), RunRecord::default());
    assert_eq!(guest.copies().len(), 1);
    assert_eq!(domains(&guest.guard()).unwrap(), [guest.domain]);
}

/// An orchestrator retries, and swtpm's user writes other bytes each time.
#[test]
fn a_few_copies_stay_available_among_them_the_proven_and_the_latest() {
    let guest = Guest::new();
    let save = |bytes: String| {
        guest.put(&newer(&bytes));
        guest.save(CopyReason::Start)
    };
    let first = save("the first".to_owned());
    let mut proven = None;
    for number in 0..100 {
        let latest = save(format!("state {number}"));
        if number == 50 {
            proven = Some(latest.clone());
        }
        let is_proven = |copy: &SavedCopy| Some(Some(copy.manifest.sha256()) == proven.as_deref());
        guest
            .copy_store()
            .drop_surplus(&latest, (0, MAX_COPIES), is_proven)
            .unwrap();
        let copies = guest.copies();
        assert!(copies.len() <= MAX_COPIES, "{} copies", copies.len());
        let has = |sha256: &str| copies.iter().any(|copy| copy.manifest.sha256() == sha256);
        assert!(has(&latest), "the latest");
        match &proven {
            Some(proven) => assert!(has(proven), "the proven one"),
            None => assert!(has(&first), "none is proven: the earliest"),
        }
    }
}

/// swtpm's user damages the state before each start.
#[test]
fn of_the_damaged_states_the_first_and_the_latest_stay() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    let copy = guest.copies()[0].manifest.clone();
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let dir = guest.guard().damaged_states();
    let dir = dir.join(guest.domain.to_string());
    let set_aside = |text: &str, time: i64| {
        guest.put(text.as_bytes());
        set_aside(&guest.guard(), guest.domain, &of, &copy, Timestamp(time)).unwrap()
    };
    let first = set_aside("the first", 99);
    fs::write(dir.join("notes of an administrator"), "").unwrap();
    for number in 1..=100 {
        let latest = set_aside("again", 100 + number);
        assert!(first.exists() && latest.exists());
        let left = names(&dir).len();
        assert!(left <= MAX_COPIES + 1, "{left}");
    }
    // The clock was set back.
    assert!(set_aside("again", 150).exists());
    let mut left = names(&dir);
    assert_eq!(left.pop().unwrap(), "tpm2-00.permall.damaged-99");
    let expected = [
        "notes of an administrator",
        "tpm2-00.permall.damaged-150",
        "tpm2-00.permall.damaged-199",
        "tpm2-00.permall.damaged-200",
    ];
    assert_eq!(left, expected);
}

/// An orchestrator goes on with a migration that fails.
#[test]
fn of_the_copies_that_were_saved_aside_the_first_and_the_latest_stay() {
    let guest = Guest::new();
    let save_aside = |number: usize| {
        guest.put(&newer(&format!("state {number}")));
        let live = guest.live_state().unwrap();
        let now = Timestamp::now();
        guest
            .copy_store()
            .save_set_aside(&live, "vm1", now)
            .unwrap()
    };
    let first = save_aside(0);
    guest.put(&newer("what `reset` has set aside"));
    let reset = guest.save(CopyReason::Start);
    let later = Timestamp(Timestamp::now().0 + 1);
    guest.copy_store().set_aside(later).unwrap();
    for number in 1..100 {
        let latest = save_aside(number);
        let copies = guest.copies();
        for name in [&first, &reset, &latest] {
            let is_it = |copy: &SavedCopy| copy.manifest.sha256() == name;
            assert!(copies.iter().any(is_it), "{number}");
        }
        assert!(copies.len() <= MAX_SAVED_ASIDE + 1, "{}", copies.len());
    }
}

/// The copy is there, and what follows depends on it: the state of a failed start is removed only then.
#[test]
fn a_copy_is_saved_aside_also_where_earlier_ones_cannot_be_looked_at() {
    let guest = Guest::new();
    let mut saved_although = 0;
    for moment in 1.. {
        guest.put(&newer(&format!("state {moment}")));
        let live = guest.live_state().unwrap();
        let (store, dir) = (guest.copy_store(), guest.copies_dir());
        store
            .save_set_aside(&live, "vm1", Timestamp::now())
            .unwrap();
        guest.put(&newer(&format!("later state {moment}")));
        let live = guest.live_state().unwrap();
        let open = |mode| fs::set_permissions(guest.copies_dir(), Permissions::from_mode(mode));
        // From some moment on anybody could have put files there.
        let changed = dir.clone();
        armed::meanwhile(moment, move || {
            fs::set_permissions(changed, Permissions::from_mode(0o777)).unwrap();
        });
        let before = guest.copies().len();
        let result = store.save_set_aside(&live, "vm1", Timestamp::now());
        let is_over = armed::forget();
        open(0o700).unwrap();
        if is_over {
            break;
        }
        let is_saved = guest.copies().len() > before;
        assert!(result.is_ok() || !is_saved, "{moment}: {result:?}");
        saved_although += usize::from(is_saved);
        fs::remove_dir_all(dir).unwrap();
    }
    assert!(saved_although > 0);
}

/// A provider is gone for a while, and an orchestrator goes on.
#[test]
fn copies_that_cannot_be_tried_stay_the_earliest_of_many() {
    let guest = Guest::new();
    let mut names = Vec::new();
    for number in 0..MAX_UNTRIED + 10 {
        guest.put(&newer(&format!("state {number}")));
        names.push(guest.save(CopyReason::Start));
        guest
            .copy_store()
            .drop_surplus(&names[number], (0, MAX_COPIES), |_| None)
            .unwrap();
    }
    let left = |copies: &[SavedCopy]| -> Vec<_> {
        let names = copies.iter().map(|copy| copy.manifest.sha256().to_owned());
        names.collect()
    };
    let mut expected = names[..MAX_UNTRIED].to_vec();
    expected.push(names.last().unwrap().clone());
    expected.reverse();
    assert_eq!(left(&guest.copies()), expected);
    // One is proven, also where others were not tried.
    let is_proven = |copy: &SavedCopy| (copy.manifest.sha256() == names[3]).then_some(true);
    let current = expected[0].clone();
    let store = guest.copy_store();
    store
        .drop_surplus(&current, (0, MAX_COPIES), is_proven)
        .unwrap();
    assert_eq!(left(&guest.copies()), [current, names[3].clone()]);
}

/// The guest has an earlier state again.
#[test]
fn the_copy_of_the_current_state_is_not_surplus() {
    let guest = Guest::new();
    let mut names = Vec::new();
    for number in 0..=MAX_COPIES {
        guest.put(&newer(&format!("state {number}")));
        names.push(guest.save(CopyReason::Start));
    }
    guest.put(&newer("state 1"));
    assert_eq!(guest.save(CopyReason::Start), names[1]);
    guest
        .copy_store()
        .drop_surplus(&names[1], (0, MAX_COPIES), |_| Some(false))
        .unwrap();
    let left = guest.copies();
    let left: Vec<_> = left.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(left, [&names[1], &names[0]]);
}

/// Of a guest whose every run is saved.
#[test]
fn the_copies_of_the_last_runs_stay_and_the_latest_that_is_proven() {
    let guest = Guest::new();
    let mut names = Vec::new();
    for number in 0..10 {
        guest.put(&newer(&format!("state {number}")));
        names.push(guest.save(CopyReason::Release));
        let is_proven =
            |copy: &SavedCopy| Some(copy.manifest.sha256() == names[names.len().min(4) - 1]);
        let current = &names[number];
        let kept = (KEPT_RUNS, KEPT_RUNS);
        guest
            .copy_store()
            .drop_surplus(current, kept, is_proven)
            .unwrap();
    }
    let left = guest.copies();
    let left: Vec<_> = left.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(left, [&names[9], &names[8], &names[7], &names[3]]);
}

/// A copy that an earlier run has made is older than a run that is known.
#[test]
fn a_copy_is_outdated_by_a_later_run_and_not_by_its_own_start() {
    let guest = Guest::new();
    let name = guest.save(CopyReason::Release);
    let copies = guest.copies();
    let outdated = |run: &RunRecord, started: bool| run.is_later_than(&copies[0], |_| started);
    let quiet = RunRecord::default();
    assert!(!outdated(&quiet, false) && outdated(&quiet, true));
    for change in [
        |run: &mut RunRecord| run.outdated = true,
        |run: &mut RunRecord| run.migrated = true,
    ] {
        let mut run = quiet.clone();
        change(&mut run);
        assert!(outdated(&run, false));
        // What this very start began with is the state of the next.
        run.state = Some(name.clone());
        assert!(!outdated(&run, true));
    }
    let starting = RunRecord {
        starting: true,
        ..quiet
    };
    assert!(!outdated(&starting, true));
}

#[test]
fn copies_that_were_set_aside_are_not_surplus() {
    let guest = Guest::new();
    for number in 0..10 {
        guest.put(&newer(&format!("state {number}")));
        let current = guest.save(CopyReason::Start);
        guest.copy_store().set_aside(Timestamp(number)).unwrap();
        guest
            .copy_store()
            .drop_surplus(&current, (0, MAX_COPIES), |_| Some(false))
            .unwrap();
    }
    assert_eq!(guest.copies().len(), 10);
    assert!(guest.copy_store().available_copies().unwrap().0.is_empty());
}

#[test]
fn a_copy_is_the_later_one_even_if_the_clock_was_set_back_since_the_earlier_one() {
    let guest = Guest::new();
    for number in 1..=3 {
        guest.put(&newer(&format!("state {number}")));
        guest.save(CopyReason::Release);
    }
    let mut copies = guest.copies();
    for (copy, clock) in copies.iter_mut().rev().zip([2_000, 9_000, 3_000]) {
        copy.manifest.kept_at = clock;
    }
    for (copy, clock) in guest.copies().into_iter().zip([2_500, 8_000, 9_500]) {
        copies.push(copy);
        let of_fleet = copies.last_mut().unwrap();
        of_fleet.manifest.reason = CopyReason::Fleet;
        of_fleet.manifest.kept_at = clock;
    }
    sort_latest_first(&mut copies, |copy| copy);
    let order: Vec<_> = copies
        .iter()
        .map(|copy| (copy.is_of_fleet(), copy.manifest.kept_at))
        .collect();
    let (own, of_fleet) = (|at| (false, at), |at| (true, at));
    assert_eq!(
        order,
        [
            of_fleet(9_500),
            own(3_000),
            own(9_000),
            of_fleet(8_000),
            of_fleet(2_500),
            own(2_000)
        ]
    );
}
