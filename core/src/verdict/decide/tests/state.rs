//! TPM states that decide by themselves: damaged, locked, out of reach, plain, unreadable, on their way.

use super::given::{
    damaged, emulator, findings, guest, hidden, opens, placeholder, refusal, unreadable, verdict,
};
use crate::verdict::Finding;
use crate::verdict::decide::unusable_state;
use crate::verdict::facts::{
    Arrival, CopyReason, Damage, Obstacle, Permission, StoreAccessError, TpmState,
};
use crate::verdict::refusal::Refusal;
use TpmState::{Encrypted, Plain};

/// Rows 7, 9 and 88.
#[test]
fn a_damaged_state_is_refused_whatever_the_key_and_whoever_has_it() {
    let keyed = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let bound = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    let unmanaged = guest().host(hidden());
    let no_store = guest().store(StoreAccessError::Unavailable("locked".to_owned()));
    for facts in [keyed, bound, unmanaged, no_store.host(hidden()), guest()] {
        assert_eq!(verdict(&facts.state(damaged())), "deny VG207");
    }
    let plain = guest().vtpm(Some(emulator(None))).state(damaged());
    assert_eq!(verdict(&plain), "allow Unencrypted");
    assert!(unusable_state(&plain).is_some(), "but it would not start");
    let with_rows = plain.row(opens(1, "a", 1, 'A', 0));
    assert_eq!(verdict(&with_rows), "deny VG207");
}

/// Rows 9 and 10.
#[test]
fn only_a_saved_copy_that_the_key_opens_replaces_a_damaged_state() {
    let row = || opens(1, "a", 1, 'A', 0).used();
    let with = |row| {
        let facts = guest().provider("a", 1, 'A').row(row);
        facts.with_saved(CopyReason::Release).state(damaged())
    };
    let proven = with(row().proven());
    assert_eq!(
        verdict(&proven),
        "allow Proven; restore-tpm-state of release; provide 1"
    );
    assert_eq!(
        findings(&proven),
        [Finding::StateDamaged {
            how: "it is empty".to_owned(),
            reason: CopyReason::Release
        }]
    );
    assert_eq!(verdict(&with(row())), "deny VG207");
    assert_eq!(verdict(&with(row().refuted())), "deny VG207");
    // What a link leads to may be a later state than the copy.
    let behind_a_link = Damage {
        link: Some("/var/lib/libvirt/swtpm/U/tpm2".into()),
        ..Damage::from("it is a link")
    };
    let linked = proven.state(TpmState::Damaged(behind_a_link));
    assert_eq!(verdict(&linked), "deny VG207");
    // "A new TPM may be made" is said of a state that is gone, not of one that is damaged.
    let may_be_missing = with(row()).policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&may_be_missing), "deny VG207");
}

/// Rows 11 and 15.
#[test]
fn a_state_that_another_process_has_locked_is_refused_unless_state_is_on_its_way() {
    let held = || Obstacle::InUse {
        holder: "swtpm (process 7)".to_owned(),
        pid: Some(7),
    };
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).proven())
        .state(Encrypted)
        .obstructed(held());
    assert_eq!(verdict(&facts), "deny VG208");
    assert_eq!(
        verdict(&guest().obstructed(held()).host(hidden())),
        "deny VG208"
    );
    assert!(verdict(&facts.arriving()).starts_with("allow"));
    let plain = guest().vtpm(Some(emulator(None))).obstructed(held());
    assert_eq!(verdict(&plain), "allow Unencrypted");
}

/// Rows 12, 15 and 88.
#[test]
fn a_closed_directory_is_refused_whatever_arrives_and_whatever_the_store_says() {
    let closed = Obstacle::ClosedDirectory {
        path: "/var/lib/libvirt/swtpm".to_owned(),
        mode: 0o700,
        needed: 0o711,
        user: "tss".to_owned(),
    };
    let bad_lock = Obstacle::BadLock {
        path: "/states/.lock".to_owned(),
        what: "it is a FIFO".to_owned(),
    };
    for obstacle in [closed.clone(), bad_lock] {
        let facts = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
        assert_eq!(verdict(&facts.obstructed(obstacle)), "deny VG209");
    }
    assert_eq!(
        verdict(&guest().arriving().obstructed(closed.clone())),
        "deny VG209"
    );
    let no_store = guest().store(StoreAccessError::Unavailable("locked".to_owned()));
    assert_eq!(
        verdict(&no_store.host(hidden()).obstructed(closed)),
        "deny VG209"
    );
}

/// Rows 13 and 15.
#[test]
fn a_plain_state_under_an_encrypted_xml_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0))
        .state(Plain);
    assert_eq!(
        refusal(&facts),
        Refusal::EncryptionMismatch {
            is_defined: true,
            state_encrypted: false
        }
    );
    assert_eq!(verdict(&guest().state(Plain).host(hidden())), "deny VG503");
    assert_eq!(verdict(&facts.arriving()), "allow Unproven; provide 1");
}

/// Row 14.
#[test]
fn an_unreadable_state_is_not_refused_for_that() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let facts = facts.state(unreadable());
    assert_eq!(verdict(&facts), "allow Unproven; provide 1");
    assert_eq!(
        findings(&facts),
        [Finding::StateUnreadable("cut short".to_owned())]
    );
}

/// Row 15.
#[test]
fn a_state_on_its_way_replaces_a_damaged_one() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .arriving();
    assert_eq!(
        verdict(&facts.state(damaged())),
        "allow Unproven; provide 1"
    );
}

/// Row 15.
#[test]
fn a_start_that_depends_on_a_state_on_its_way_says_so() {
    let used = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let arrives = |found: &[Finding]| {
        found.iter().any(|it| {
            matches!(
                it,
                Finding::StateArrives {
                    arrival: Arrival::Migration,
                    first_used_at: Some(_)
                }
            )
        })
    };
    assert!(arrives(&findings(&used.clone().arriving())));
    let refuted = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().refuted())
        .state(Encrypted)
        .arriving();
    assert!(arrives(&findings(&refuted)));
    // A key that nobody has used waits for nothing, and one that is proven by what is here.
    let new = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    assert!(!arrives(&findings(&new.arriving())));
    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven())
        .state(Encrypted)
        .arriving();
    assert!(!arrives(&findings(&proven)));
}
