#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::config::duration;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::wrap::WrappedDek;
use crate::libvirt::secret::SecretError;
use crate::store::KeyRefRecord;
use crate::verdict::facts::KeyRef;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A guest that has run here with a key, of which nothing is left.
fn last_heard_of(days: i64) -> UnknownGuest {
    UnknownGuest {
        uuid: DomainUuid::random(),
        name: None,
        rows: vec![row(true, true)],
        last_change: Timestamp(NOW.0 - days * DAY_MS),
        state: None,
        copies: 0,
        was_here: true,
    }
}

fn row(keyed: bool, used: bool) -> KeyRefRecord {
    KeyRefRecord {
        domain: DomainUuid::random(),
        key_ref: KeyRef {
            id: KeyRefId(1),
            secret_uuid: None,
            provider_uuid: None,
            provider_name: "a".to_owned(),
            key_version: None,
            kek_ref: None,
            wrapped_dek: keyed.then(|| WrappedDek::from_stored(vec![1])),
            first_used_at: used.then_some(Timestamp(1)),
            created_at: Timestamp(1),
        },
        retired_at: None,
        algorithm: None,
        updated_at: Timestamp(1),
    }
}

fn older_than(text: &str) -> Rule {
    Rule {
        older_than: Some(duration::parse(text).unwrap()),
        standby: false,
    }
}

#[test]
fn a_guest_is_removed_when_it_is_old_enough_and_has_no_state() {
    let month = Rule::default();
    assert_eq!(
        decide(&last_heard_of(31), month, NOW),
        PruneDecision::Remove
    );
    assert_eq!(
        decide(&last_heard_of(30), month, NOW),
        PruneDecision::Remove
    );
    assert_eq!(
        decide(&last_heard_of(29), month, NOW),
        PruneDecision::TooYoung
    );
    assert_eq!(
        decide(&last_heard_of(-1), older_than("0s"), NOW),
        PruneDecision::TooYoung,
        "the clock was set back"
    );
    // The guard's own copies age out with the key.
    let with_copies = |days| UnknownGuest {
        copies: 2,
        ..last_heard_of(days)
    };
    assert_eq!(decide(&with_copies(31), month, NOW), PruneDecision::Remove);
    assert_eq!(
        decide(&with_copies(29), month, NOW),
        PruneDecision::TooYoung
    );
}

#[test]
fn an_attempt_that_never_had_a_tpm_is_forgotten_after_a_day() {
    let attempt = |days, copies| UnknownGuest {
        rows: vec![row(false, false)],
        was_here: false,
        copies,
        ..last_heard_of(days)
    };
    assert_eq!(
        decide(&attempt(1, 0), Rule::default(), NOW),
        PruneDecision::Remove
    );
    assert_eq!(
        decide(&attempt(0, 0), Rule::default(), NOW),
        PruneDecision::TooYoung
    );
    assert_eq!(
        decide(&attempt(2, 1), Rule::default(), NOW),
        PruneDecision::TooYoung
    );
    assert_eq!(
        decide(&attempt(1, 0), older_than("2d"), NOW),
        PruneDecision::TooYoung
    );
}

#[test]
fn a_key_that_is_used_elsewhere_goes_only_when_it_is_asked_for() {
    let standby = UnknownGuest {
        was_here: false,
        ..last_heard_of(1000)
    };
    assert_eq!(
        decide(&standby, older_than("0d"), NOW),
        PruneDecision::RunsElsewhere
    );
    let asked = Rule {
        standby: true,
        ..Rule::default()
    };
    assert_eq!(decide(&standby, asked, NOW), PruneDecision::Remove);
    // One that was made and never used is none.
    let unused = UnknownGuest {
        rows: vec![row(true, false)],
        ..standby
    };
    assert_eq!(decide(&unused, Rule::default(), NOW), PruneDecision::Remove);
}

#[test]
fn a_guest_with_state_is_never_removed() {
    let left = LeftState {
        path: "/var/lib/libvirt/swtpm/x".into(),
        trouble: None,
    };
    let guest = UnknownGuest {
        state: Some(left.clone()),
        ..last_heard_of(10_000)
    };
    let asked = Rule {
        standby: true,
        ..older_than("0d")
    };
    assert_eq!(decide(&guest, asked, NOW), PruneDecision::HasState(left));
}

#[test]
fn the_copy_of_the_store_goes_only_if_nothing_can_have_been_removed() {
    let libvirt = SecretError::Unreachable("no route".to_owned());
    for error in [
        StoreError::Locked.into(),
        StoreError::Changed.into(),
        HostError::Libvirt(libvirt),
    ] {
        assert!(!may_have_removed(0, &error), "{error}");
        assert!(may_have_removed(1, &error), "{error}");
    }
    assert!(may_have_removed(0, &StoreError::Missing.into()));
}
