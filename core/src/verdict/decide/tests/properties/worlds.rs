//! Random worlds: few names, few keys and few rows, so that they collide.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use proptest::array::uniform3;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::given::{SECRET, key, uuid};
use super::model::{Foreign, Host, Tpm, Value, World, Xml, garbage, wrap};
use crate::clock::Timestamp;
use crate::domain::TravellingKey;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::id::KeyId;
use crate::verdict::elsewhere::{
    Elsewhere, ElsewhereKind, OtherGuest, RelatedGuest, Relation, SearchCut, StateElsewhere,
};
use crate::verdict::facts::{
    KekState, KeyRef, KmsSlots, Obstacle, Permission, Policy, Provider, References,
    StoreAccessError, TransientState, kek_ref,
};

const OTHER_SECRET: &str = "5ec2e700-0000-4000-8000-000000000099";
/// The last name and the last UUID are never a provider's.
const NAMES: [&str; 4] = ["a", "b", "c", "gone"];
const UUIDS: RangeInclusive<u8> = 1..=4;

pub(super) fn world() -> impl Strategy<Value = World> {
    let closed = subsequence(vec!['A', 'B', 'C'], 0..=1);
    let keys = (providers(), (closed, closed_how()));
    // The generations of the DEKs 0 and 1.
    let rows = [[1, 1], [1, 2], [2, 1]].map(|generations| {
        (
            rows(4, same(generations)),
            rows(1, raised(generations)),
            travelling(generations),
        )
    });
    let rows = proptest::strategy::Union::new(rows);
    let surroundings = (xml(), store(), (tpms(), obstacle()), once_in(3));
    let permissions = (maybe(host_secret()), maybe(elsewhere()), policy());
    (keys, rows, surroundings, permissions).prop_map(
        |(
            (providers, (closed, closed_how)),
            (rows, retired, travelling),
            (xml, store, (tpms, obstacle), arrives),
            (host, elsewhere, policy),
        )| {
            World {
                xml,
                store,
                references: References {
                    key_refs: numbered(rows, 1),
                    providers,
                    retired: Vec::new(),
                    state_arrives: arrives,
                    ..References::default()
                },
                retired: numbered(retired, 50),
                travelling,
                closed: closed.into_iter().map(key).collect(),
                closed_how,
                tpm: tpms.0,
                obstacle,
                copy: tpms.1,
                copy_is_outdated: tpms.3,
                ended_normally: tpms.2,
                host_secret: host,
                elsewhere,
                policy,
            }
        },
    )
}

pub(super) fn host_secret() -> impl Strategy<Value = Host> {
    let value = weighted([
        (2, Value::None),
        (2, Value::Hidden),
        (2, Value::Known(0)),
        (1, Value::Known(1)),
        (2, Value::Known(2)),
    ]);
    let kinds = (any::<bool>(), any::<bool>(), once_in(4), once_in(3));
    let host = weighted([
        (2, Some(Host::Absent)),
        (1, Some(Host::Guards)),
        (1, Some(Host::GuardsOfAnother)),
        (1, Some(Host::Conflict)),
        (1, Some(Host::Unreachable)),
        (6, None),
    ]);
    (host, value, kinds).prop_map(|(host, value, kinds)| {
        let (is_ephemeral, is_private, serves_anything, is_named_by_another) = kinds;
        host.unwrap_or(Host::Foreign(Foreign {
            is_ephemeral,
            is_private,
            value,
            serves_anything,
            is_named_by_another,
        }))
    })
}

pub(super) fn elsewhere() -> impl Strategy<Value = Elsewhere> {
    let other = OtherGuest {
        uuid: DomainUuid::parse("d0000000-0000-4000-8000-000000000099").unwrap(),
        name: Some("other".to_owned()),
        is_defined: true,
    };
    let relative = RelatedGuest {
        domain: other.clone(),
        by: Relation::Secret,
        has_state: true,
    };
    let state = StateElsewhere {
        path: "/there".into(),
        wanted: "/here".into(),
        kind: ElsewhereKind::LastSeen,
    };
    let found = (once_in(4), once_in(4), once_in(4), once_in(4), once_in(8));
    (any::<bool>(), found).prop_map(
        move |(is_defined, (seen, was_undefined, held, related, cut))| Elsewhere {
            is_defined,
            state: seen.then(|| state.clone()),
            was_undefined,
            key_holder: held.then(|| other.clone()),
            relative: related.then(|| relative.clone()),
            unanswered: cut.then(|| SearchCut::Definitions("too slow".to_owned())),
        },
    )
}

/// True once in `n` times.
fn once_in(n: u8) -> impl Strategy<Value = bool> {
    (0..n).prop_map(|drawn| drawn == 1)
}

/// Why a provider key does not open.
fn closed_how() -> impl Strategy<Value = KekState> {
    weighted([
        (3, KekState::Sealed("no host key".to_owned())),
        (2, KekState::TimedOut),
        (1, KekState::NotHere),
        (1, KekState::Expired),
    ])
}

/// A value, every other time. (`proptest::option::of` is several times slower.)
fn maybe<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    (any::<bool>(), value).prop_map(|(there, value)| there.then_some(value))
}

/// One of these values, each as often as it is weighted.
fn weighted<T: Clone + Debug + 'static>(
    values: impl IntoIterator<Item = (usize, T)>,
) -> impl Strategy<Value = T> {
    let repeated = |(weight, value)| std::iter::repeat_n(value, weight);
    select(values.into_iter().flat_map(repeated).collect::<Vec<_>>())
}

pub(super) fn kek() -> impl Strategy<Value = KeyId> {
    weighted([(3, key('A')), (2, key('B')), (1, key('C'))])
}

fn dek() -> impl Strategy<Value = u8> {
    weighted([(3, 0), (1, 1)])
}

fn xml() -> impl Strategy<Value = Xml> {
    weighted([
        (36, Xml::Encrypted),
        (3, Xml::Unencrypted),
        (1, Xml::NoTpm),
        (1, Xml::Passthrough),
        (1, Xml::External),
        (1, Xml::Unreadable),
    ])
}

fn store() -> impl Strategy<Value = Result<(), StoreAccessError>> {
    weighted([
        (45, Ok(())),
        (1, Err(StoreAccessError::Unavailable("locked".to_owned()))),
        (1, Err(StoreAccessError::Corrupt("damaged".to_owned()))),
        (1, Err(StoreAccessError::TooNew { found: 9, known: 1 })),
    ])
}

/// The DEK 2 is in no row.
fn tpm() -> impl Strategy<Value = Tpm> {
    weighted([
        (4, Tpm::Absent),
        (2, Tpm::Encrypted(0)),
        (1, Tpm::Encrypted(1)),
        (1, Tpm::Encrypted(2)),
        (1, Tpm::Plain),
        (1, Tpm::Unreadable),
        (1, Tpm::Damaged),
    ])
}

/// The TPM; the DEK of its kept copy, where there is one; whether the last run ended normally;
/// whether a later run than the copy is known.
fn tpms() -> impl Strategy<Value = (Tpm, Option<u8>, bool, bool)> {
    let copy = weighted([(4, None), (2, Some(0)), (1, Some(1)), (1, Some(2))]);
    (tpm(), copy, once_in(4), once_in(4))
}

fn obstacle() -> impl Strategy<Value = Option<Obstacle>> {
    let held = Obstacle::InUse {
        holder: "swtpm (process 7)".to_owned(),
        pid: Some(7),
    };
    let closed = Obstacle::ClosedDirectory {
        path: "/states".to_owned(),
        mode: 0o700,
        needed: 0o711,
        user: "tss".to_owned(),
    };
    weighted([(18, None), (1, Some(held)), (1, Some(closed))])
}

fn policy() -> impl Strategy<Value = Policy> {
    let permission = || select(vec![Permission::Allow, Permission::Deny]);
    let permissions = (
        permission(),
        permission(),
        permission(),
        permission(),
        permission(),
    );
    let transient = weighted([(2, TransientState::Keep), (1, TransientState::Fresh)]);
    let auto_bind = maybe(select(NAMES.to_vec()));
    (permissions, transient, auto_bind).prop_map(|(permissions, transient_state, auto_bind)| {
        Policy {
            degraded: permissions.0,
            unmanaged: permissions.1,
            unencrypted: permissions.2,
            missing_state: permissions.3,
            transient_state,
            auto_bind: auto_bind.map(str::to_owned),
            elsewhere: permissions.4,
        }
    })
}

fn providers() -> impl Strategy<Value = Vec<Provider>> {
    let names = subsequence(NAMES[..3].to_vec(), 0..=3);
    // In the order of the names, or against it.
    let uuids = select(vec![[1, 2, 3], [3, 2, 1]]);
    let keks = uniform3((kek(), 1_i64..3));
    (names, uuids, keks).prop_map(|(names, uuids, keks)| {
        let numbered = names.into_iter().zip(uuids).zip(keks);
        numbered
            .map(|((name, number), (key_id, key_version))| Provider {
                uuid: uuid(number),
                name: name.to_owned(),
                key_id,
                key_version,
                is_default: false,
                exported_at: None,
                created_at: Timestamp(1),
                kms: KmsSlots {
                    names: vec!["vault".to_owned()],
                    opened_at: None,
                },
            })
            .collect()
    })
}

fn rows(most: usize, dek: impl Strategy<Value = (u8, u32)>) -> impl Strategy<Value = Vec<KeyRef>> {
    vec(row(dek), 0..=most)
}

/// A DEK and its generation.
fn same(generations: [u32; 2]) -> impl Strategy<Value = (u8, u32)> {
    dek().prop_map(move |dek| (dek, generations[usize::from(dek)]))
}

/// Likewise, or a higher one: it was chosen again.
fn raised(generations: [u32; 2]) -> impl Strategy<Value = (u8, u32)> {
    let raised = weighted([(3, 0), (1, 2)]);
    (same(generations), raised).prop_map(|((dek, generation), raised)| (dek, generation + raised))
}

/// The keys of the XML, most often none, or as one of the rows.
fn travelling(generations: [u32; 2]) -> impl Strategy<Value = Option<Vec<TravellingKey>>> {
    let authentic = weighted([(8, true), (1, false)]);
    let key =
        (kek(), raised(generations), authentic).prop_map(|(kek, (dek, generation), authentic)| {
            TravellingKey {
                wrapped_dek: wrap(kek, dek, generation, authentic),
                provider: "a".to_owned(),
            }
        });
    let keys = weighted([(4, Some(0)), (4, Some(1)), (1, Some(2)), (1, None)]);
    (keys, vec(key, 2)).prop_map(|(number, mut keys)| {
        keys.truncate(number?);
        Some(keys)
    })
}

fn numbered(rows: Vec<KeyRef>, first: i64) -> Vec<KeyRef> {
    let numbered = rows.into_iter().zip(first..);
    numbered
        .map(|(row, id)| KeyRef {
            id: KeyRefId(id),
            ..row
        })
        .collect()
}

fn row(dek: impl Strategy<Value = (u8, u32)>) -> impl Strategy<Value = KeyRef> {
    let blob = weighted([(8, Some(true)), (1, Some(false)), (1, None)]);
    let wrapped = (once_in(3), blob, kek(), dek);
    let wrapped = wrapped.prop_map(|(placeholder, blob, kek, (dek, generation))| {
        let blob = blob.map_or_else(garbage, |authentic| wrap(kek, dek, generation, authentic));
        (!placeholder).then_some(blob)
    });
    let binding = (maybe(UUIDS), select(NAMES.to_vec()));
    let secret = weighted([(4, Some(SECRET)), (1, Some(OTHER_SECRET)), (1, None)]);
    let columns = (maybe(1_i64..3), maybe(kek()), secret);
    let times = (once_in(4), 0_i64..3);
    (wrapped, binding, columns, times).prop_map(
        |(wrapped_dek, (provider, name), (key_version, kek, secret), (used, created))| KeyRef {
            id: KeyRefId(0),
            secret_uuid: secret.map(|secret| SecretUuid::parse(secret).unwrap()),
            provider_uuid: provider.map(uuid),
            provider_name: name.to_owned(),
            key_version,
            kek_ref: kek.map(kek_ref),
            wrapped_dek,
            first_used_at: used.then_some(Timestamp(7)),
            created_at: Timestamp(created),
        },
    )
}
