//! What the store says of one guest.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::verdict::facts::{KmsSlots, kek_ref};

fn row() -> KeyRef {
    KeyRef {
        id: KeyRefId(1),
        secret_uuid: None,
        provider_uuid: None,
        provider_name: "a".to_owned(),
        key_version: None,
        kek_ref: None,
        wrapped_dek: None,
        first_used_at: None,
        created_at: Timestamp(1),
    }
}

#[test]
fn what_the_store_says_decides_alike_while_rows_providers_and_announcement_stay() {
    let seen = References {
        key_refs: vec![row()],
        ..References::default()
    };
    // Whether state arrives was decided by who judged the announcement.
    let judged = References {
        state_arrives: true,
        ..seen.clone()
    };
    assert!(judged.decides_as(&seen));
    let other_rows = References {
        key_refs: vec![row(), row()],
        ..seen.clone()
    };
    let announced = References {
        announced: Some(Announcement {
            domain_name: "vm1".to_owned(),
            arrival: Arrival::Restore,
            attempt: String::new(),
            at: Timestamp(1),
        }),
        ..seen.clone()
    };
    let other_providers = References {
        providers: vec![Provider {
            uuid: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            name: "a".to_owned(),
            key_id: KeyId::from_bytes([1; KeyId::LEN]),
            key_version: 1,
            is_default: false,
            exported_at: None,
            created_at: Timestamp(1),
            kms: KmsSlots::default(),
        }],
        ..seen.clone()
    };
    let used = KeyRef {
        first_used_at: Some(Timestamp(2)),
        ..row()
    };
    let retired = |row: KeyRef| References {
        retired: vec![row],
        ..References::default()
    };
    assert!(retired(row()).decides_as(&References::default()));
    assert!(!retired(used).decides_as(&References::default()));
    for other in [other_rows, announced, other_providers] {
        assert!(!other.decides_as(&seen), "{other:?}");
    }
}

#[test]
fn arrivals_and_provider_keys_are_spelled_as_json_and_the_store_have_them() {
    let words = [Arrival::Migration, Arrival::Restore, Arrival::Snapshot].map(Arrival::as_str);
    assert_eq!(words, ["migration", "restore", "snapshot"]);
    let key_id = KeyId::from_bytes([0xab; KeyId::LEN]);
    assert_eq!(kek_ref(key_id), format!("native:{}", "ab".repeat(16)));
}
