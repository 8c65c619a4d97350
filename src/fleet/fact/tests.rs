//! What is written is read again, and nothing else is believed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::fleet::status::{KeyStatus, Stated};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::key::wrap::Generation;

const HOST: &str = "11111111-2222-4333-8444-555555555555";
const GUEST: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

fn host() -> HostUuid {
    HostUuid::parse(HOST).unwrap()
}

fn guest() -> DomainUuid {
    DomainUuid::parse(GUEST).unwrap()
}

fn kek(byte: u8) -> Kek {
    Kek::from_slice(&[byte; Kek::LEN]).unwrap()
}

fn key(kek: &Kek) -> KeyFact {
    let dek = Dek::generate().unwrap();
    let wrapped = WrappedDek::wrap(kek, &dek, guest(), Generation(2)).unwrap();
    KeyFact::new(guest(), wrapped, "nkp-a", Some(1)).unwrap()
}

fn status(kek: &Kek, revision: u32, status: KeyStatus) -> Signed<StatusFact> {
    let fact = StatusFact {
        key: FactId::of_body("key", ""),
        domain: guest(),
        revision,
        status,
        host: host(),
    };
    Signed::new(fact, kek)
}

fn one_of_each() -> Vec<Fact> {
    let kek = kek(1);
    let key_id = kek.key_id();
    vec![
        Fact::Key(key(&kek)),
        Fact::Status(status(&kek, 1, KeyStatus::Retired)),
        Fact::Provider(ProviderFact {
            name: "nkp-\"a\"".to_owned(),
            key_id,
            key_version: 3,
        }),
        Fact::Slot(SlotFact {
            key_id,
            kind: "transit".to_owned(),
            label: None,
            kms: "vault".to_owned(),
            remote_key: "vtpm".to_owned(),
            remote_version: Some("1".to_owned()),
            blob: vec![0, 1, 255],
        }),
        Fact::Successor(Signed::new(
            SuccessorFact {
                name: "nkp-a".to_owned(),
                old: key_id,
                new: KeyId::from_bytes([7; KeyId::LEN]),
                key_version: 4,
            },
            &kek,
        )),
        Fact::Placement(Signed::new(
            PlacementFact {
                domain: guest(),
                name: "vm1".to_owned(),
                host: host(),
                host_name: "host1".to_owned(),
                at: 12,
                running: true,
            },
            &kek,
        )),
        Fact::Event(EventFact {
            host: host(),
            host_name: "host1".to_owned(),
            seq: 9,
            at: 13,
            domain: guest(),
            name: "vm1".to_owned(),
            operation: "start".to_owned(),
            allowed: false,
            code: Some("VG201".to_owned()),
            message: "no".to_owned(),
        }),
        Fact::Host(HostFact {
            host: host(),
            name: "host1".to_owned(),
            at: 14,
            left: false,
        }),
        Fact::Report(ReportFact {
            host: host(),
            name: "host1".to_owned(),
            at: 15,
            version: "0.1.0".to_owned(),
            keks: vec![key_id.to_string()],
            guests: Some(1),
            refused: Vec::new(),
            outbox: 0,
        }),
    ]
}

#[test]
fn what_is_written_is_read_again() {
    for fact in one_of_each() {
        let wire = fact.write(host(), Timestamp(99));
        assert_eq!(Fact::read(&wire), Ok(fact), "{wire:?}");
        let text = serde_json::to_string(&wire).unwrap();
        assert_eq!(serde_json::from_str::<WireFact>(&text).unwrap(), wire);
    }
}

#[test]
fn one_changed_byte_of_a_body_makes_another_fact_or_none() {
    for fact in one_of_each() {
        let wire = fact.write(host(), Timestamp(99));
        for at in 0..wire.body.len() {
            let mut body = wire.body.clone().into_bytes();
            body[at] ^= 1;
            let Ok(body) = String::from_utf8(body) else {
                continue;
            };
            let changed = WireFact {
                body,
                ..wire.clone()
            };
            if let Ok(read) = Fact::read(&changed) {
                // What is no part of a key's identity: the name of its provider, a version.
                assert!(matches!(read, Fact::Key(_)), "{changed:?}");
            }
        }
    }
}

#[test]
fn a_statement_counts_only_with_the_key_that_it_names() {
    let wire = Fact::Status(status(&kek(1), 1, KeyStatus::Retired)).write(host(), Timestamp(0));
    let Ok(Fact::Status(read)) = Fact::read(&wire) else {
        panic!("{wire:?}");
    };
    assert_eq!(read.check(&kek(1)).unwrap().status, KeyStatus::Retired);
    let not_signed = |key: &Kek| Err(BadFact::NotSigned(key.key_id()));
    assert_eq!(read.check(&kek(2)), not_signed(&kek(1)));
    // The same words, said to be signed with another key that the forger has.
    let forged = WireFact {
        key_id: Some(kek(2).key_id().to_string()),
        ..wire.clone()
    };
    let Ok(Fact::Status(forged)) = Fact::read(&forged) else {
        panic!("{forged:?}");
    };
    assert_eq!(forged.check(&kek(2)), not_signed(&kek(2)));
    assert_eq!(forged.check(&kek(1)), not_signed(&kek(2)));
}

#[test]
fn what_cannot_be_read_says_why() {
    let good = Fact::Key(key(&kek(1))).write(host(), Timestamp(0));
    let unknown = WireFact {
        kind: "future".to_owned(),
        ..good.clone()
    };
    assert_eq!(
        Fact::read(&unknown),
        Err(BadFact::UnknownKind("future".to_owned()))
    );
    let other = WireFact {
        id: FactId::of_body("key", &good.body),
        ..good.clone()
    };
    assert_eq!(Fact::read(&other), Err(BadFact::OtherId));
    let long = WireFact {
        body: " ".repeat(MAX_BODY + 1),
        ..good.clone()
    };
    for body in ["", "{}", "[]", &long.body] {
        let bad = WireFact {
            body: body.to_owned(),
            ..good.clone()
        };
        assert!(matches!(Fact::read(&bad), Err(BadFact::Unreadable(_))));
    }
}

#[test]
fn the_higher_revision_counts_and_of_equals_the_status_that_stops_no_start() {
    let stated = |revision, status| Stated { revision, status };
    let order = [
        Stated::NEW,
        stated(1, KeyStatus::Pruned),
        stated(1, KeyStatus::Retired),
        stated(1, KeyStatus::Live),
        stated(2, KeyStatus::Pruned),
    ];
    assert!(order.is_sorted());
}
