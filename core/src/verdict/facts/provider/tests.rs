//! Which provider a row names.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::key::wrap::{Generation, WrappedDek};

const UUID: &str = "00000000-0000-4000-8000-000000000001";

fn uuid() -> ProviderUuid {
    UUID.parse().unwrap()
}

fn provider(name: &str, key_id: KeyId) -> Provider {
    Provider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id,
        key_version: 1,
        is_default: false,
        exported_at: None,
        created_at: Timestamp(1),
        kms: KmsSlots::default(),
    }
}

fn key(byte: u8) -> KeyId {
    KeyId::from_bytes([byte; KeyId::LEN])
}

/// A placeholder that names the provider of [`UUID`] and of this name.
fn row(name: &str) -> KeyRef {
    KeyRef {
        id: KeyRefId(1),
        secret_uuid: None,
        provider_uuid: Some(uuid()),
        provider_name: name.to_owned(),
        key_version: None,
        kek_ref: None,
        wrapped_dek: None,
        first_used_at: None,
        created_at: Timestamp(1),
    }
}

fn name(provider: Option<&Provider>) -> Option<&str> {
    provider.map(|provider| provider.name.as_str())
}

#[test]
fn a_row_names_its_provider_by_uuid_else_by_name() {
    let by_name = provider("a", key(1));
    let mut by_uuid = provider("renamed", key(2));
    by_uuid.uuid = uuid();
    let other = provider("other", key(3));
    let all = [by_name.clone(), by_uuid.clone(), other.clone()];
    assert_eq!(name(provider_of(&row("a"), &all)), Some("renamed"));
    let without_uuid = [by_name.clone(), other.clone()];
    assert_eq!(name(provider_of(&row("a"), &without_uuid)), Some("a"));
    assert_eq!(provider_of(&row("a"), std::slice::from_ref(&other)), None);

    assert_eq!(by_uuid.named_by(&row("renamed")), Some(Binding::Uuid));
    assert_eq!(by_name.named_by(&row("a")), Some(Binding::Name));
    assert_eq!(other.named_by(&row("a")), None);
}

#[test]
fn a_row_is_bound_where_uuid_and_name_agree() {
    let mut bound = provider("a", key(1));
    assert!(!row("a").is_bound_to(&bound));
    bound.uuid = uuid();
    assert!(row("a").is_bound_to(&bound));
    assert!(!row("b").is_bound_to(&bound));
}

#[test]
fn the_provider_of_a_key_has_the_key_that_wrapped_it() {
    let kek = Kek::generate().unwrap();
    let dek = Dek::generate().unwrap();
    let wrapped = WrappedDek::wrap(&kek, &dek, DomainUuid::random(), Generation(1)).unwrap();
    let keyed = KeyRef {
        wrapped_dek: Some(wrapped),
        ..row("a")
    };
    assert_eq!(keyed.key_id(), Some(kek.key_id()));
    assert_eq!(row("a").key_id(), None);

    let another_key = provider("a", key(1));
    let first = provider("first", kek.key_id());
    let named = provider("a", kek.key_id());
    let all = [another_key.clone(), first.clone()];
    assert_eq!(name(provider_of_key(&keyed, &all)), Some("first"));
    assert_eq!(name(provider_of_key(&keyed, &[first, named])), Some("a"));
    assert_eq!(
        provider_of_key(&keyed, std::slice::from_ref(&another_key)),
        None
    );
    // Without a key that can be told, the name is all there is.
    assert_eq!(name(provider_of_key(&row("a"), &[another_key])), Some("a"));
}

#[test]
fn a_previous_key_gives_way_to_its_provider_s_present_one() {
    let present = provider("a", key(2));
    let previous = provider("a/01010101", key(1));
    let all = [previous.clone(), present.clone()];
    assert_eq!(previous.previous_key_of(), Some("a"));
    assert_eq!(for_new_keys(&previous, &all).name, "a");
    assert_eq!(for_new_keys(&present, &all).name, "a");
    // Without that provider, it is one of its own; so is one whose name only looks like it.
    assert_eq!(for_new_keys(&previous, &[]).name, "a/01010101");
    for name in ["a/02020202", "a01010101", "a/0101"] {
        assert_eq!(provider(name, key(1)).previous_key_of(), None, "{name}");
    }
}

#[test]
fn a_key_that_other_hosts_announced_wraps_nothing_for_the_provider_of_that_name() {
    let present = provider("a", key(1));
    let announced = provider("fleet/a/02020202", key(2));
    assert_eq!(announced.announced_as(), Some("a"));
    let all = [announced.clone(), present.clone()];
    assert_eq!(for_new_keys(&announced, &all), &announced);
    for name in ["a", "a/02020202", "fleet/a", "fleet/a/01010101"] {
        assert_eq!(provider(name, key(2)).announced_as(), None, "{name}");
    }
}

#[test]
fn a_key_expires_only_where_a_key_manager_has_it_and_by_a_clock_that_can_be_right() {
    let hour = 60 * 60 * 1000;
    let now = Timestamp(100 * hour);
    let opened = |at: Option<i64>| KmsSlots {
        names: vec!["vault".to_owned()],
        opened_at: at.map(Timestamp),
    };
    assert!(!KmsSlots::default().is_older_than(hour, now));
    assert!(opened(None).is_older_than(hour, now));
    assert!(!opened(Some(99 * hour)).is_older_than(hour, now));
    assert!(opened(Some(99 * hour - 1)).is_older_than(hour, now));
    // The clock was set back a little since, or was wrong when the key was opened.
    assert!(!opened(Some(100 * hour + 1000)).is_older_than(hour, now));
    assert!(opened(Some(200 * hour)).is_older_than(hour, now));
    let tolerated = 100 * hour + 5 * 60 * 1000;
    assert!(!opened(Some(tolerated)).is_older_than(hour, now));
    assert!(opened(Some(tolerated + 1)).is_older_than(hour, now));
}
