use super::*;
use crate::clock::Timestamp;
use crate::libvirt::Element;
use crate::verdict::facts::KeyRef;

fn guest() -> DomainUuid {
    DomainUuid::parse("d0000000-0000-4000-8000-000000000001").unwrap()
}

fn other() -> DomainUuid {
    DomainUuid::parse("d0000000-0000-4000-8000-000000000002").unwrap()
}

/// A wrapped key of this generation (core/src/key/wrap.rs has the format).
fn blob(generation: u32, mark: u8) -> WrappedDek {
    sized(generation, mark, 32)
}

fn sized(generation: u32, mark: u8, len: usize) -> WrappedDek {
    let header = [&b"VGWD\x02\x01"[..], &[mark; 16], &generation.to_be_bytes()].concat();
    WrappedDek::from_stored([&header[..], &[mark; 32], &vec![mark; len], &[mark; 16]].concat())
}

fn key(wrapped_dek: WrappedDek) -> TravellingKey {
    TravellingKey {
        wrapped_dek,
        provider: "nkp-a".to_owned(),
    }
}

fn row(id: i64, wrapped: Option<WrappedDek>, retired: bool) -> KeyRefRecord {
    KeyRefRecord {
        domain: guest(),
        key_ref: KeyRef {
            id: KeyRefId(id),
            secret_uuid: None,
            provider_uuid: None,
            provider_name: "nkp-a".to_owned(),
            key_version: None,
            kek_ref: None,
            wrapped_dek: wrapped,
            first_used_at: Some(Timestamp(1)),
            created_at: Timestamp(0),
        },
        retired_at: retired.then_some(Timestamp(1)),
        algorithm: None,
        updated_at: Timestamp(0),
    }
}

fn live(blobs: &[WrappedDek]) -> KnownKeys {
    let rows = (1..).zip(blobs);
    let rows: Vec<_> = rows
        .map(|(id, blob)| row(id, Some(blob.clone()), false))
        .collect();
    KnownKeys::of(&rows)
}

/// A stopped guest whose XML has these keys.
fn stopped(blobs: &[WrappedDek]) -> Metadata {
    with(&element(guest(), blobs.iter().cloned().map(key).collect()))
}

fn with(element: &TravellingKeys) -> Metadata {
    Metadata {
        live: Element::NoDefinition,
        persistent: Element::Present(element.for_libvirt()),
    }
}

fn bare() -> Metadata {
    Metadata {
        live: Element::NoDefinition,
        persistent: Element::Missing,
    }
}

fn set(blobs: &[WrappedDek]) -> Change {
    Change::Set(element(guest(), blobs.iter().cloned().map(key).collect()))
}

fn plan(known: &KnownKeys, found: &Metadata) -> Plan {
    known.plan(guest(), found, true, |_, _| false)
}

fn off(known: &KnownKeys, found: &Metadata) -> Plan {
    known.plan(guest(), found, false, |_, _| false)
}

#[test]
fn keys_in_use_are_written_highest_generation_first() {
    let known = live(&[blob(1, 1), blob(3, 2), blob(2, 3)]);
    let wanted = set(&[blob(3, 2), blob(2, 3), blob(1, 1)]);
    assert_eq!(plan(&known, &bare()).change, wanted);
    let Change::Set(keys) = &wanted else {
        panic!("{wanted:?}")
    };
    assert!(wanted.is_done(&with(keys)));
    assert_eq!(plan(&known, &with(keys)).change, Change::None);
}

#[test]
fn a_definition_that_differs_from_the_other_gets_the_element_again() {
    let known = live(&[blob(1, 1)]);
    let Metadata { persistent, .. } = stopped(&[blob(1, 1)]);
    for found in [
        Metadata {
            live: persistent.clone(),
            persistent: Element::Missing,
        },
        Metadata {
            live: Element::Missing,
            persistent,
        },
    ] {
        assert_eq!(plan(&known, &found).change, set(&[blob(1, 1)]));
    }
}

#[test]
fn the_providers_name_is_for_people_and_differs_from_host_to_host() {
    let known = live(&[blob(1, 1)]);
    let mut elsewhere = element(guest(), vec![key(blob(1, 1))]);
    "another".clone_into(&mut elsewhere.keys[0].provider);
    assert_eq!(plan(&known, &with(&elsewhere)).change, Change::None);
}

#[test]
fn a_retired_key_goes_and_a_key_that_is_wrapped_otherwise_here_goes() {
    let rows = [
        row(1, Some(blob(1, 1)), true),
        row(2, Some(blob(2, 2)), false),
        row(3, None, false),
    ];
    let known = KnownKeys::of(&rows);
    let wanted = set(&[blob(2, 2)]);
    assert_eq!(plan(&known, &stopped(&[blob(1, 1)])).change, wanted);
    let rewrapped = known.plan(guest(), &stopped(&[blob(2, 9)]), true, |of, key| {
        (of, key) == (guest(), &blob(2, 9))
    });
    assert_eq!(rewrapped.change, wanted);
    assert_eq!(rewrapped.findings, []);
}

#[test]
fn a_key_that_this_host_does_not_have_stays() {
    let known = live(&[blob(2, 1)]);
    let Plan { change, findings } = plan(&known, &stopped(&[blob(1, 7)]));
    assert_eq!(change, set(&[blob(2, 1), blob(1, 7)]));
    assert!(matches!(
        &findings[..],
        [TravelFinding::UnknownKey {
            generation: Generation(1),
            ..
        }]
    ));
    // Nothing is written a second time.
    let again = plan(&known, &stopped(&[blob(2, 1), blob(1, 7)]));
    assert_eq!(again.change, Change::None);
    assert_eq!(again.findings, findings);
}

#[test]
fn keys_that_this_host_does_not_have_stay_each_once() {
    let known = live(&[blob(2, 1)]);
    let Metadata { persistent, .. } = stopped(&[blob(1, 7), blob(1, 8)]);
    let twice = Metadata {
        live: persistent.clone(),
        persistent,
    };
    let wanted = set(&[blob(2, 1), blob(1, 7), blob(1, 8)]);
    assert_eq!(plan(&known, &twice).change, wanted);
}

#[test]
fn a_key_of_the_same_generation_as_the_newest_is_no_newer_one() {
    let known = live(&[blob(2, 1)]);
    let Plan { change, findings } = plan(&known, &stopped(&[blob(2, 7)]));
    assert_ne!(change, Change::None);
    assert!(
        matches!(&findings[..], [TravelFinding::UnknownKey { .. }]),
        "{findings:?}"
    );
}

#[test]
fn what_is_written_is_noted_once() {
    let mut known = live(&[blob(2, 1), blob(1, 2)]);
    known.written = [blob(1, 2)].into();
    let own = known.note_own_as_written();
    assert_eq!(own, [blob(2, 1), blob(1, 2)]);
    assert_eq!(known.written.len(), 2);
    assert!(own.iter().all(|key| known.written.contains(key)));
}

#[test]
fn the_same_keys_of_another_guest_are_not_the_same() {
    let of = |guest| element(guest, vec![key(blob(1, 1))]);
    assert!(same_keys(&of(guest()), &of(guest())));
    assert!(!same_keys(&of(guest()), &of(other())));
}

#[test]
fn a_newer_key_is_never_written_over() {
    let known = live(&[blob(2, 1)]);
    let Plan { change, findings } = plan(&known, &stopped(&[blob(3, 7)]));
    assert_eq!(change, Change::None);
    assert!(matches!(
        &findings[..],
        [TravelFinding::NewerKey {
            generation: Generation(3),
            ..
        }]
    ));
}

#[test]
fn keys_of_another_guest_stay_unless_the_store_has_them() {
    let known = live(&[blob(2, 1)]);
    let cloned = with(&element(other(), vec![key(blob(1, 7))]));
    let Plan { change, findings } = plan(&known, &cloned);
    assert_eq!(change, Change::None);
    assert_eq!(
        findings,
        [TravelFinding::OtherGuest {
            domain: Some(other())
        }]
    );
    let copied = known.plan(guest(), &cloned, true, |of, _| of == other());
    assert_eq!(copied.change, set(&[blob(2, 1)]));
    assert_eq!(copied.findings, []);
}

#[test]
fn an_element_that_cannot_be_read_stays() {
    let known = live(&[blob(2, 1)]);
    for text in [
        "<other/>",
        "<vtpm/>",
        "<vtpm domain='x'><key>?</key></vtpm>",
    ] {
        let found = Metadata {
            live: Element::NoDefinition,
            persistent: Element::Present(text.to_owned()),
        };
        let Plan { change, findings } = plan(&known, &found);
        assert_eq!(change, Change::None, "{text}");
        assert_eq!(findings, [TravelFinding::Unreadable], "{text}");
    }
}

#[test]
fn off_removes_what_was_written_and_nothing_else() {
    let written = |mut known: KnownKeys, blobs: &[WrappedDek]| {
        known.written = blobs.to_vec();
        known
    };
    let own = live(&[blob(2, 1)]);
    // A hand's, or another host's.
    assert_eq!(off(&own, &stopped(&[blob(2, 1)])).change, Change::None);
    let ours = written(own, &[blob(2, 1)]);
    assert_eq!(off(&ours, &stopped(&[blob(2, 1)])).change, Change::Remove);
    assert_eq!(off(&ours, &bare()).change, Change::None);
    let with_others = off(&ours, &stopped(&[blob(2, 1), blob(1, 7)]));
    assert_eq!(with_others.change, set(&[blob(1, 7)]));
    assert_eq!(with_others.findings, []);
    // The last copy: another tool has deleted the row.
    let lost = written(KnownKeys::default(), &[blob(2, 1)]);
    assert_eq!(off(&lost, &stopped(&[blob(2, 1)])).change, Change::None);
    // Unbound: its row is retired.
    let retired = KnownKeys::of(&[row(1, Some(blob(2, 1)), true)]);
    let unbound = written(retired, &[blob(2, 1)]);
    assert_eq!(
        plan(&unbound, &stopped(&[blob(2, 1)])).change,
        Change::Remove
    );
}

#[test]
fn what_is_too_long_too_much_or_of_another_format_does_not_travel() {
    let mut blobs: Vec<_> = (1..=10).map(|n| blob(n, 1)).collect();
    blobs.push(sized(20, 1, 40_000));
    blobs.push(WrappedDek::from_stored(b"another tool's".to_vec()));
    let known = live(&blobs);
    let reasons: Vec<_> = known
        .stay
        .iter()
        .map(|one| (one.key_ref.0, one.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            (11, StayReason::TooLong),
            (12, StayReason::UnknownFormat),
            (2, StayReason::TooMany),
            (1, StayReason::TooMany),
        ]
    );
    assert_eq!(known.own.len(), MAX_KEYS);
    // A key of the XML alone comes before one that the store has, too.
    let Change::Set(keys) = plan(&known, &stopped(&[blob(0, 7)])).change else {
        panic!("nothing is written")
    };
    assert_eq!(keys.keys.len(), MAX_KEYS);
    assert_eq!(keys.keys.last().unwrap().wrapped_dek, blob(0, 7));
    // What is written can be read again, whatever there is.
    let long: Vec<_> = (1..=8).map(|n| sized(n, 1, 30_000)).collect();
    let known = live(&long);
    let text = known.element(guest()).for_libvirt();
    let read = TravellingKeys::from_libvirt(&text).unwrap();
    assert!(
        same_keys(&read, &known.element(guest())),
        "{:?}",
        read.fault
    );
    assert!(!known.stay.is_empty());
}

#[test]
fn a_key_that_nobody_has_run_with_does_not_travel() {
    let mut unused = row(1, Some(blob(1, 1)), false);
    unused.key_ref.first_used_at = None;
    let used = row(2, Some(blob(2, 1)), false);
    let known = KnownKeys::of([&unused, &used]);
    let own: Vec<_> = known.own.iter().map(|own| own.key_ref).collect();
    assert_eq!(own, [KeyRefId(2)]);
    assert_eq!(known.stay, []);
}

#[test]
fn a_host_that_writes_nothing_reports_what_it_cannot_read_of_its_own_alone() {
    let unreadable = Metadata {
        live: Element::NoDefinition,
        persistent: Element::Present("no element of ours".to_owned()),
    };
    let of_other = with(&element(other(), vec![key(blob(1, 9))]));
    let mut ours = live(&[]);
    ours.written = [blob(1, 1)].into();
    assert_eq!(
        off(&ours, &unreadable).findings,
        [TravelFinding::Unreadable]
    );
    assert_eq!(off(&ours, &of_other).findings, []);
    for found in [&unreadable, &of_other] {
        let plan = off(&live(&[]), found);
        assert_eq!(plan.findings, [], "it is not this host's");
        assert_eq!(plan.change, Change::None);
    }
}
