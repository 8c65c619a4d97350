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

fn key(kek: &Kek) -> KeyClaim {
    let dek = Dek::generate().unwrap();
    let wrapped = WrappedDek::wrap(kek, &dek, guest(), Generation(2)).unwrap();
    KeyClaim::new(guest(), wrapped, "nkp-a", Some(1)).unwrap()
}

fn status(kek: &Kek, revision: u32, status: KeyStatus) -> Signed<StatusClaim> {
    let fact = StatusClaim {
        key: FactId::of_body(Kind::Key, ""),
        domain: guest(),
        revision,
        status,
        host: host(),
    };
    Signed::new(fact, kek)
}

fn one_of_each() -> Vec<Claim> {
    let kek = kek(1);
    let key_id = kek.key_id();
    vec![
        Claim::Key(key(&kek)),
        Claim::Status(status(&kek, 1, KeyStatus::Retired)),
        Claim::Provider(Signed::new(
            ProviderClaim {
                name: "nkp-\"a\"".to_owned(),
                key_id,
                key_version: 3,
            },
            &kek,
        )),
        Claim::Slot(SlotClaim {
            key_id,
            kind: "transit".to_owned(),
            label: None,
            kms: "vault".to_owned(),
            remote_key: "vtpm".to_owned(),
            remote_version: Some("1".to_owned()),
            blob: vec![0, 1, 255],
        }),
        Claim::Successor(Signed::new(
            SuccessorClaim {
                name: "nkp-a".to_owned(),
                old: key_id,
                new: KeyId::from_bytes([7; KeyId::LEN]),
                key_version: 4,
                finished: true,
            },
            &kek,
        )),
        Claim::Placement(Signed::new(
            PlacementClaim {
                domain: guest(),
                name: "vm1".to_owned(),
                host: host(),
                host_name: "host1".to_owned(),
                at: 12,
                running: true,
            },
            &kek,
        )),
        Claim::Event(EventClaim {
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
        Claim::Host(HostClaim {
            host: host(),
            name: "host1".to_owned(),
            at: 14,
            left: false,
        }),
        Claim::Report(ReportClaim {
            proofs: [("0".repeat(32), "00".to_owned())].into(),
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
        assert_eq!(Claim::read(&wire), Ok(fact), "{wire:?}");
        let text = serde_json::to_string(&wire).unwrap();
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), wire);
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
            let changed = Fact {
                body,
                ..wire.clone()
            };
            if let Ok(read) = Claim::read(&changed) {
                // What is no part of a key's identity: the name of its provider, a version.
                assert!(matches!(read, Claim::Key(_)), "{changed:?}");
            }
        }
    }
}

#[test]
fn a_statement_counts_only_with_the_key_that_it_names() {
    let wire = Claim::Status(status(&kek(1), 1, KeyStatus::Retired)).write(host(), Timestamp(0));
    let Ok(Claim::Status(read)) = Claim::read(&wire) else {
        panic!("{wire:?}");
    };
    assert_eq!(read.check(&kek(1)).unwrap().status, KeyStatus::Retired);
    let not_signed = |key: &Kek| Err(BadClaim::NotSigned(key.key_id()));
    assert_eq!(read.check(&kek(2)), not_signed(&kek(1)));
    // The same words, said to be signed with another key that the forger has.
    let forged = Fact {
        key_id: Some(kek(2).key_id()),
        ..wire.clone()
    };
    let Ok(Claim::Status(forged)) = Claim::read(&forged) else {
        panic!("{forged:?}");
    };
    assert_eq!(forged.check(&kek(2)), not_signed(&kek(2)));
    assert_eq!(forged.check(&kek(1)), not_signed(&kek(2)));
}

#[test]
fn what_cannot_be_read_says_why() {
    let good = Claim::Key(key(&kek(1))).write(host(), Timestamp(0));
    let other = Fact {
        id: FactId::of_body(Kind::Key, &good.body),
        ..good.clone()
    };
    assert_eq!(Claim::read(&other), Err(BadClaim::OtherId));
    for body in ["", "{}", "[]"] {
        let bad = Fact {
            body: body.to_owned(),
            ..good.clone()
        };
        assert!(matches!(Claim::read(&bad), Err(BadClaim::Unreadable(_))));
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
