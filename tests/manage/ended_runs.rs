//! What the end of a run saves of a guest's TPM state, and what it leaves alone because it is not, or no longer, the
//! guest's.

use super::run::Run;
use crate::config::StoreAddress;
use crate::guard::{Ending, Operation};
use crate::host::crash::armed;
use crate::manage::key_refs::unbind;
use crate::tpm_copies::RunRecord;
use crate::verdict::code::Code;
use crate::verdict::facts::CopyReason;
use CopyReason::{Release, Start};

/// What `stopped end` finds in the status file of a guest whose migration the destination has confirmed.
const MIGRATED: &str = "type='none' async='migration out' phase='confirm3' flags='0x0'";

/// Of a guest that has ended here.
pub(super) const ENDED: &str = "type='destroy' async='none'";

/// Of one whose start fails.
pub(super) const STARTING: &str = "type='none' async='start' phase='none'";

pub(super) fn outdated() -> RunRecord {
    RunRecord {
        outdated: true,
        ..RunRecord::default()
    }
}

fn migrated() -> RunRecord {
    RunRecord {
        migrated: true,
        ..RunRecord::default()
    }
}

#[test]
fn where_every_run_is_saved_one_that_has_ended_here_is() {
    let persistent = || Run::of_persistent().keeping_all();
    for ending in [Ending::Ended, Ending::Unknown] {
        // Since `started`, the copies of earlier runs are older than the TPM.
        let run = persistent().with_record(outdated()).released(ending);
        assert_eq!(run.saved(), [Release], "{ending:?}");
        assert_eq!(run.record(), RunRecord::default());
    }
    let not_started = persistent().started().released(Ending::Ended);
    assert_eq!(not_started.saved(), [Release], "`started` was missed");
    assert!(
        Run::of_persistent()
            .released(Ending::Ended)
            .saved()
            .is_empty()
    );
}

#[test]
fn a_transient_guest_whose_key_references_go_while_it_runs_keeps_its_tpm() {
    let unbound = |run: &Run| drop(unbind(&run.fixture.host, "vm1").unwrap());
    let gone = |run: &Run| run.fixture.sql("DELETE FROM key_ref");
    for take_away in [unbound, gone] {
        let run = Run::of_transient().follow_up(Operation::Started);
        take_away(&run);
        let run = run.released(Ending::Ended);
        assert_eq!(run.saved(), [Release]);
        // The next run is not under the guard.
        let run = run.follow_up(Operation::Started);
        let saved = run.saved().len();
        run.fixture.encrypt_state(&run.guest, &run.dek);
        assert_eq!(run.released(Ending::Ended).saved().len(), saved);
    }
}

#[test]
fn where_every_run_is_saved_one_that_failed_or_has_no_key_here_is_not() {
    let failed = Run::of_persistent().keeping_all().with_record(outdated());
    let failed = failed.released(Ending::Failed);
    assert!(failed.saved().is_empty());
    assert_eq!(failed.record(), outdated());
    // An older libvirt gives no reason; the note of the start does.
    let failed = Run::of_persistent().keeping_all().started();
    assert!(failed.released(Ending::Unknown).saved().is_empty());
    let unmanaged = Run::without_key().keeping_all();
    assert!(unmanaged.released(Ending::Unknown).saved().is_empty());
}

#[test]
fn where_every_run_is_saved_one_that_has_moved_away_makes_the_copies_outdated() {
    let persistent = || Run::of_persistent().keeping_all();
    for run in [
        persistent().with_earlier_copy().released(Ending::Migrated),
        persistent()
            .with_earlier_copy()
            .with_record(migrated())
            .released(Ending::Unknown),
        persistent()
            .with_earlier_copy()
            .with_unreadable_record()
            .released(Ending::Ended),
    ] {
        assert_eq!(run.saved().len(), 1);
        assert_eq!(run.record(), outdated());
    }
    assert!(!persistent().released(Ending::Migrated).copies.exists());
}

#[test]
fn the_state_that_libvirt_deletes_after_a_run_is_saved_and_the_record_says_how_it_ended() {
    let ended = |outdated| RunRecord {
        ended_normally: true,
        outdated,
        ..RunRecord::default()
    };
    for ending in [Ending::Ended, Ending::Unknown] {
        for before in [RunRecord::default(), outdated()] {
            let run = Run::of_transient().with_record(before).released(ending);
            assert_eq!(run.saved(), [Release], "{ending:?}");
            assert_eq!(run.record(), ended(false), "the copy is the latest");
        }
        // What cannot be saved leaves the copies as old as they were.
        for before in [RunRecord::default(), outdated()] {
            let was_outdated = before.outdated;
            let run = Run::of_transient().with_record(before).without_state();
            let run = run.released(ending);
            assert!(run.saved().is_empty());
            assert_eq!(run.record(), ended(was_outdated));
        }
        let unmanaged = Run::without_key().made_transient().released(ending);
        assert!(!unmanaged.copies.exists(), "{ending:?}");
    }
    let failed = Run::of_transient().released(Ending::Failed);
    assert_eq!(failed.saved(), [Start], "between `started` and its end");
}

#[test]
fn a_run_whose_beginning_was_missed_is_saved_as_a_run() {
    let run = Run::of_transient().started();
    assert_eq!(run.saved(), [Start]);
    let run = run.released(Ending::Ended);
    assert_eq!(run.saved(), [Release]);
    assert!(!run.is_linked());
}

#[test]
fn a_failed_start_leaves_its_own_state_and_none_that_libvirt_has_made_for_it() {
    for ending in [Ending::Failed, Ending::Unknown, Ending::Migrated] {
        let run = Run::of_transient().started().released(ending);
        assert!(run.is_linked(), "{ending:?}");
        assert_eq!(run.saved(), [Start]);

        let run = Run::of_transient().without_state();
        // Otherwise the start is refused: the key was used.
        run.fixture.sql("UPDATE key_ref SET first_used_at = NULL");
        let run = run.started();
        run.fixture.encrypt_state(&run.guest, &run.dek);
        let run = run.released(ending);
        assert!(run.saved().is_empty() && !run.is_linked(), "{ending:?}");
    }
    // What was refused because of its state keeps that, whatever else is known of the start.
    let refused = RunRecord {
        starting: true,
        refused: Some(Code::TpmInUse.as_str().to_owned()),
        ..RunRecord::default()
    };
    let run = Run::of_transient().with_record(refused);
    assert!(run.released(Ending::Failed).is_linked());
}

#[test]
fn the_state_of_a_guest_that_has_moved_away_is_never_saved() {
    for ending in [Ending::Ended, Ending::Unknown, Ending::Failed] {
        let run = Run::of_transient()
            .with_earlier_copy()
            .with_record(migrated())
            .released(ending);
        assert_eq!(run.saved().len(), 1, "{ending:?}");
        assert_eq!(run.record(), outdated());
    }
    let reported = Run::of_transient().released(Ending::Migrated);
    assert!(reported.saved().is_empty());
}

#[test]
fn after_a_run_of_which_nothing_is_known_a_state_is_saved_for_an_administrator() {
    let run = Run::of_transient().with_unreadable_record();
    let run = run.released(Ending::Unknown);
    assert_eq!(run.saved(), [Release]);
    assert_eq!(run.record(), outdated(), "no start restores it");

    let moved = Run::of_transient()
        .with_earlier_copy()
        .with_unreadable_record()
        .released(Ending::Migrated);
    assert_eq!(moved.saved().len(), 1);
    assert_eq!(moved.record(), outdated());

    let unmanaged = Run::without_key().made_transient().with_unreadable_record();
    assert!(!unmanaged.released(Ending::Unknown).copies.exists());
}

/// A libvirt that does not tell it at `release`.
#[test]
fn a_migration_is_noted_where_something_is_saved_of_the_guest_or_told_to_a_fleet() {
    let transient = Run::of_transient().stopped(MIGRATED);
    assert_eq!(transient.record(), migrated());
    assert!(transient.released(Ending::Unknown).saved().is_empty());
    let with_copies = Run::of_persistent().with_earlier_copy().stopped(MIGRATED);
    assert_eq!(with_copies.record(), migrated());
    let mut in_a_fleet = Run::of_persistent();
    in_a_fleet.guard.config.fleet.store = StoreAddress::parse("test://nobody");
    assert_eq!(in_a_fleet.stopped(MIGRATED).record(), migrated());

    assert!(!Run::of_persistent().stopped(MIGRATED).copies.exists());
    assert!(!Run::of_transient().stopped(ENDED).copies.exists());
}

/// libvirt deletes it all the same, and what that host writes would be saved half done.
#[test]
fn a_state_that_another_host_uses_is_kept_for_it_and_not_saved() {
    let locked_elsewhere = |run: Run, ending| {
        armed::lock_elsewhere(usize::MAX);
        let run = run.released(ending);
        armed::lock_elsewhere(0);
        run
    };
    for ending in [Ending::Ended, Ending::Unknown, Ending::Failed] {
        let run = locked_elsewhere(Run::of_transient(), ending);
        assert!(run.is_linked() && run.saved().is_empty(), "{ending:?}");
        let unknown = Run::of_transient().with_unreadable_record();
        let run = locked_elsewhere(unknown, ending);
        assert!(run.is_linked() && run.saved().is_empty(), "{ending:?}");
        let run = locked_elsewhere(Run::of_persistent().keeping_all(), ending);
        assert!(!run.is_linked() && !run.copies.exists(), "{ending:?}");
        // Of a guest that has just migrated here in vain libvirt deletes also a state that is to persist.
        for run in [Run::of_transient(), Run::of_transient().keeping_all()] {
            let run = locked_elsewhere(run.with_persistent_state(), ending);
            assert!(run.is_linked() && run.saved().is_empty(), "{ending:?}");
        }
        let run = Run::of_transient().with_persistent_state().released(ending);
        assert!(!run.is_linked() && !run.copies.exists(), "{ending:?}");
    }
}

#[test]
fn a_restore_that_fails_is_no_run_and_the_copy_stays_the_latest() {
    for (ending, job) in [(Ending::Failed, None), (Ending::Unknown, Some(STARTING))] {
        let ended = RunRecord {
            ended_normally: true,
            ..RunRecord::default()
        };
        let run = Run::of_transient().with_earlier_copy().without_state();
        let run = run.with_record(ended).not_running();
        let run = run.follow_up(Operation::Restore).started();
        let run = match job {
            Some(job) => run.stopped(job),
            None => run.follow_up(Operation::Ended),
        };
        let run = run.released(ending);
        assert_eq!(run.saved().len(), 1, "{ending:?}");
        assert!(
            !run.record().outdated && run.record().ended_normally,
            "{ending:?}"
        );
    }
}
