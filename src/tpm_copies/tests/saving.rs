//! Which copies are saved, and which stay.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{Guest, LATER, STATE};
use crate::clock::Timestamp;
use crate::tpm_copies::copy_store::MAX_COPIES;
use crate::tpm_copies::{CopyError, RunRecord, SavedCopy, domains};
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
    assert_eq!(guest.save(CopyReason::Release), first);
    assert_eq!(guest.copies().len(), 1);
    assert_eq!(guest.copies()[0].manifest.reason, CopyReason::Start);

    guest.put(LATER);
    let second = guest.save(CopyReason::Release);
    let saved = guest.copies();
    let order: Vec<_> = saved.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(order, [&second, &first], "the latest first");

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
        ended_normally: false,
        migrated: false,
        refused: None,
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
        let is_proven = |copy: &SavedCopy| Some(copy.manifest.sha256()) == proven.as_deref();
        guest.copy_store().drop_surplus(&latest, is_proven).unwrap();
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
        .drop_surplus(&names[1], |_| false)
        .unwrap();
    let left = guest.copies();
    let left: Vec<_> = left.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(left, [&names[1], &names[0]]);
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
            .drop_surplus(&current, |_| false)
            .unwrap();
    }
    assert_eq!(guest.copies().len(), 10);
    assert!(guest.copy_store().available_copies().unwrap().0.is_empty());
}
