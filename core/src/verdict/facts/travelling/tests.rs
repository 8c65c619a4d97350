//! Which keys of the fleet's store a start gets to know.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::key::wrap::WrappedDek;

fn guest() -> Domain {
    Domain {
        name: "vm1".to_owned(),
        uuid: DomainUuid::parse("d0000000-0000-4000-8000-000000000001").unwrap(),
        vtpm: None,
        travelling: None,
    }
}

fn key(number: usize) -> TravellingKey {
    TravellingKey {
        wrapped_dek: WrappedDek::from_stored(vec![u8::try_from(number).unwrap(); 4]),
        provider: "a".to_owned(),
    }
}

/// The row that holds this key.
fn holding(number: usize) -> KeyRef {
    row(number, &key(number), &guest(), &[], Timestamp(1))
}

fn add(found: &mut Travelling, number: usize, references: &References) -> bool {
    found.add_of_fleet(&key(number), &guest(), references, Timestamp(1))
}

#[test]
fn the_first_keys_of_the_fleet_are_added_each_under_a_number_of_its_own() {
    let mut found = Travelling {
        keys: vec![holding(0)],
        ..Travelling::default()
    };
    let references = References::default();
    let added: Vec<_> = (1..=MAX_KEYS + 1)
        .map(|number| add(&mut found, number, &references))
        .collect();
    assert_eq!(added, [&[true; MAX_KEYS][..], &[false]].concat());
    let numbers: Vec<_> = found.keys.iter().map(|key| key.id).collect();
    let of_fleet = (0..MAX_KEYS).map(KeyRefId::of_fleet);
    let in_xml = std::iter::once(KeyRefId::travelling(0));
    assert_eq!(numbers, in_xml.chain(of_fleet).collect::<Vec<_>>());
}

#[test]
fn a_key_that_is_known_is_not_added_again() {
    let mut found = Travelling {
        keys: vec![holding(1)],
        ..Travelling::default()
    };
    let references = References {
        key_refs: vec![holding(2)],
        retired: vec![holding(3)],
        ..References::default()
    };
    assert!(add(&mut found, 4, &references));
    for known in 1..=4 {
        assert!(!add(&mut found, known, &references), "{known}");
    }
    assert_eq!(found.keys.len(), 2);
}
