//! A small world of keys, providers, rows and one TPM. Facts follow from it as the host gives
//! them, and repairs change it as the store does.

use std::collections::{BTreeMap, BTreeSet};

use super::super::given::{SECRET, emulator, guest};
use crate::clock::Timestamp;
use crate::domain::{TravellingKey, TravellingKeys, UnreadableDomain, Vtpm};
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::elsewhere::Elsewhere;
use crate::verdict::facts::{
    CopyReason, CopyToRestore, DekNumber, Facts, ForeignSecret, HostSecret, HostValue, KekState,
    KeyRef, NotOpened, Obstacle, Policy, Proof, References, StoreAccessError, TpmState, Travelling,
    Trial, kek_ref,
};
use crate::verdict::repair::{KeyOrigin, Repair};

/// Another guest.
const ANOTHER: &str = "d0000000-0000-4000-8000-000000000099";

/// The row that `learn-key` makes.
pub(super) const LEARNT: KeyRefId = KeyRefId(101);

/// The DEK that `create-key` makes.
pub(super) const NEW_DEK: u8 = 99;
/// Its generation.
pub(super) const NEW_GENERATION: u32 = 9;

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) xml: Xml,
    pub(super) store: Result<(), StoreAccessError>,
    pub(super) references: References,
    pub(super) retired: Vec<KeyRef>,
    /// The keys of the XML; `None` if they are another guest's.
    pub(super) travelling: Option<Vec<TravellingKey>>,
    /// The KEKs that do not open on this host.
    pub(super) closed: BTreeSet<KeyId>,
    /// Why they don't.
    pub(super) closed_how: KekState,
    pub(super) tpm: Tpm,
    pub(super) obstacle: Option<Obstacle>,
    /// The kept copy of a TPM state: its DEK.
    pub(super) copy: Option<u8>,
    /// Whether it is older than a run that is known.
    pub(super) copy_is_outdated: bool,
    /// Whether the last run, of a transient guest, ended normally.
    pub(super) ended_normally: bool,
    pub(super) host_secret: Option<Host>,
    pub(super) elsewhere: Option<Elsewhere>,
    pub(super) policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Xml {
    Unreadable,
    NoTpm,
    Passthrough,
    External,
    Unencrypted,
    Encrypted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tpm {
    Absent,
    Plain,
    Unreadable,
    Damaged,
    /// With this DEK.
    Encrypted(u8),
}

/// libvirt's secret of the UUID that the XML names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Absent,
    Guards,
    GuardsOfAnother,
    Foreign(Foreign),
    Conflict,
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each combination is a world")]
pub(super) struct Foreign {
    pub(super) is_ephemeral: bool,
    pub(super) is_private: bool,
    pub(super) value: Value,
    /// It has no usage; another guest's definition names it.
    pub(super) serves_anything: bool,
    pub(super) is_named_by_another: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Hidden,
    /// This DEK.
    Known(u8),
}

impl Host {
    /// A persistent secret of somebody else's with a value that nobody can read.
    pub(super) const HIDDEN: Self = Self::Foreign(Foreign {
        is_ephemeral: false,
        is_private: true,
        serves_anything: false,
        value: Value::Hidden,
        is_named_by_another: false,
    });
}

/// A toy wrapping in the real format, whose salt says which DEK it is, and whether the bytes
/// authenticate.
pub(super) fn wrap(kek: KeyId, dek: u8, generation: u32, authentic: bool) -> WrappedDek {
    let salt_and_rest = [&[dek, u8::from(authentic)][..], &[0; 30 + 1 + 16]].concat();
    let generation = generation.to_be_bytes();
    let header = [b"VGWD\x02\x01", &kek.as_bytes()[..], &generation];
    WrappedDek::from_stored([&header.concat()[..], &salt_and_rest].concat())
}

/// What [`wrap`] has wrapped: which KEK, which DEK, and whether it authenticates.
pub(super) fn unwrapped(wrapped: &WrappedDek) -> Option<(KeyId, u8, bool)> {
    let salt = wrapped.as_bytes().get(26..)?;
    Some((wrapped.key_id().ok()?, salt[0], salt[1] == 1))
}

/// Bytes of no known format.
pub(super) fn garbage() -> WrappedDek {
    WrappedDek::from_stored(vec![0])
}

impl World {
    pub(super) fn facts(&self) -> Facts {
        let mut facts = guest().vtpm(match self.xml {
            Xml::Unreadable | Xml::NoTpm => None,
            Xml::Passthrough => Some(Vtpm::Passthrough),
            Xml::External => Some(Vtpm::External),
            Xml::Unencrypted => Some(emulator(None)),
            Xml::Encrypted => Some(emulator(Some(SECRET))),
        });
        if self.xml == Xml::Unreadable {
            facts.domain = Err(UnreadableDomain {
                reason: "not XML".to_owned(),
                has_emulated_tpm: true,
            });
        }
        facts.state = match self.tpm {
            Tpm::Absent => TpmState::Absent,
            Tpm::Plain => TpmState::Plain,
            Tpm::Unreadable => TpmState::Unreadable("a newer format".to_owned()),
            Tpm::Damaged => TpmState::Damaged("cut short".into()),
            Tpm::Encrypted(_) => TpmState::Encrypted,
        };
        facts.obstacle = self.obstacle.clone();
        facts.saved.copy = self.copy.map(|dek| CopyToRestore {
            reason: CopyReason::Start,
            saved_at: Timestamp(5),
            is_encrypted: true,
            is_proven: self.store.is_ok() && self.a_key_opens(dek, &facts),
            is_outdated: self.copy_is_outdated,
        });
        facts.saved.ended_normally = self.ended_normally;
        let tpm = self.stands_in(&facts);
        facts.host_secret = self.host_secret.map(|host| host_secret(host, tpm));
        facts.elsewhere = self.elsewhere.clone();
        facts.policy = self.policy.clone();
        if let Err(trouble) = &self.store {
            facts.references = Err(trouble.clone());
            return facts;
        }
        facts.keks = (self.references.providers.iter())
            .map(|provider| (provider.key_id, self.kek(provider.key_id)))
            .collect();
        facts.references = Ok(self.references.clone());
        facts.references.as_mut().unwrap().retired = self.retired.clone();
        let tpm = self.stands_in(&facts);
        facts.host_secret = self.host_secret.map(|host| host_secret(host, tpm));
        facts.trials = self.tried(&self.references.key_refs, tpm);
        facts.retired = self.tried(&self.retired, tpm);
        facts.travelling = match &facts.references {
            Ok(references) => self.keys_of_the_xml(&facts, references),
            Err(_) => Travelling::default(),
        };
        if self.references.state_arrives || facts.needs_the_xml() {
            facts.trials.extend(self.tried(&facts.travelling.keys, tpm));
        }
        facts
    }

    /// Whether a row in use, or a key of the XML that the guest has not retired, opens a copy under
    /// this DEK.
    fn a_key_opens(&self, dek: u8, facts: &Facts) -> bool {
        let copy = Tpm::Encrypted(dek);
        let rows = self.tried(&self.references.key_refs, copy);
        let references = References {
            retired: self.retired.clone(),
            ..self.references.clone()
        };
        let in_xml = self.keys_of_the_xml(facts, &references).keys;
        let (trials, retired) = (self.tried(&in_xml, copy), self.tried(&self.retired, copy));
        let mut in_xml = in_xml.iter().filter(|key| match trials.get(&key.id) {
            Some(Trial::Opened { dek, .. }) => !references.has_retired(key, *dek, &retired),
            _ => false,
        });
        rows.values().any(Trial::is_proven) || in_xml.any(|key| trials[&key.id].is_proven())
    }

    fn keys_of_the_xml(&self, facts: &Facts, references: &References) -> Travelling {
        let Ok(domain) = &facts.domain else {
            return Travelling::default();
        };
        let mut domain = domain.clone();
        let another = DomainUuid::parse(ANOTHER).unwrap();
        domain.travelling = Some(TravellingKeys {
            domain: Some(self.travelling.as_ref().map_or(another, |_| domain.uuid)),
            keys: self.travelling.clone().unwrap_or_default(),
            fault: None,
        });
        Travelling::of(&domain, references, Timestamp(9))
    }

    pub(super) fn tried(&self, rows: &[KeyRef], tpm: Tpm) -> BTreeMap<KeyRefId, Trial> {
        rows.iter()
            .filter_map(|row| Some((row.id, self.trial(row.wrapped_dek.as_ref()?, tpm))))
            .collect()
    }

    /// The TPM that the start is judged by.
    pub(super) fn tpm_in_force(&self) -> Tpm {
        self.stands_in(&self.facts())
    }

    fn stands_in(&self, facts: &Facts) -> Tpm {
        match (facts.copy_to_restore(), self.copy) {
            (Some(_), Some(dek)) => Tpm::Encrypted(dek),
            _ => self.tpm,
        }
    }

    fn kek(&self, key_id: KeyId) -> KekState {
        if self.closed.contains(&key_id) {
            self.closed_how.clone()
        } else {
            KekState::Opens
        }
    }

    fn trial(&self, wrapped: &WrappedDek, tpm: Tpm) -> Trial {
        let corrupt = |reason: &str| {
            let reason = reason.to_owned();
            let is_newer = false;
            Trial::NotOpened(NotOpened::Corrupt { reason, is_newer })
        };
        let Some((key_id, dek, authentic)) = unwrapped(wrapped) else {
            return corrupt("no known format");
        };
        let mut providers = self.references.providers.iter();
        if !providers.any(|provider| provider.key_id == key_id) {
            return Trial::NotOpened(NotOpened::NoProvider { key_id });
        }
        match self.kek(key_id) {
            KekState::Opens => {}
            KekState::Sealed(reason) => {
                return Trial::NotOpened(NotOpened::Sealed { key_id, reason });
            }
            KekState::TimedOut => return Trial::NotOpened(NotOpened::TimedOut { key_id }),
            KekState::NotHere => return Trial::NotOpened(NotOpened::NotHere { key_id }),
            KekState::Expired => return Trial::NotOpened(NotOpened::Expired { key_id }),
        }
        if !authentic {
            return corrupt("not authentic");
        }
        let proof = proof(tpm, dek);
        Trial::Opened {
            key_id,
            dek: DekNumber(dek.into()),
            proof,
        }
    }

    /// What is wrapped in any row, in use or retired: a DEK by its number, and by its very
    /// bytes what nobody can open.
    pub(super) fn wrapped_deks(&self) -> BTreeSet<Vec<u8>> {
        (self.references.key_refs.iter().chain(&self.retired))
            .filter_map(|row| row.wrapped_dek.as_ref())
            .map(|wrapped| match unwrapped(wrapped) {
                Some((_, dek, true)) => vec![dek],
                _ => wrapped.as_bytes().to_vec(),
            })
            .collect()
    }

    /// The world after these repairs. A repair that does not fit its row fails the test.
    pub(super) fn after(&self, repairs: &[Repair]) -> Self {
        let mut world = self.clone();
        for repair in repairs {
            world.apply(repair);
        }
        world
    }

    fn apply(&mut self, repair: &Repair) {
        match repair.clone() {
            Repair::DeletePlaceholder { key_ref } => {
                assert_eq!(self.take(key_ref).wrapped_dek, None);
            }
            Repair::DeleteDuplicate { key_ref, kept } => {
                let used = self.take(key_ref).first_used_at;
                let kept = self.row(kept.unwrap_or(LEARNT));
                kept.first_used_at = kept.first_used_at.into_iter().chain(used).min();
            }
            Repair::RetireKey { key_ref } => {
                let row = self.take(key_ref);
                self.retired.push(row);
            }
            Repair::RebindProvider {
                key_ref,
                provider,
                provider_name,
            } => {
                let row = self.row(key_ref);
                assert!(row.wrapped_dek.is_some());
                row.provider_uuid = Some(provider);
                row.provider_name = provider_name;
            }
            Repair::BindProvider {
                key_ref,
                provider,
                provider_name,
            } => {
                let row = match key_ref {
                    Some(id) => self.row(id),
                    None => self.new_row(),
                };
                assert_eq!(row.wrapped_dek, None);
                row.provider_uuid = Some(provider);
                row.provider_name = provider_name;
            }
            Repair::CreateKey {
                key_ref,
                provider,
                origin,
            } => {
                let dek = match origin {
                    KeyOrigin::Random => NEW_DEK,
                    KeyOrigin::HostSecret => self.host_value(),
                };
                let mut providers = self.references.providers.iter();
                let owner = providers.find(|found| found.uuid == provider).unwrap();
                let (key_id, key_version) = (owner.key_id, owner.key_version);
                let row = match key_ref {
                    Some(id) => self.row(id),
                    None => self.references.key_refs.last_mut().unwrap(),
                };
                assert_eq!(row.wrapped_dek, None);
                row.wrapped_dek = Some(wrap(key_id, dek, NEW_GENERATION, true));
                row.kek_ref = Some(kek_ref(key_id));
                row.key_version = Some(key_version);
                row.secret_uuid = Some(SecretUuid::parse(SECRET).unwrap());
                row.first_used_at = None;
            }
            Repair::KeepHostValue { provider } => {
                let mut providers = self.references.providers.iter();
                let owner = providers.find(|found| found.uuid == provider).unwrap();
                let kek = owner.key_id;
                let dek = self.host_value();
                self.retired.push(KeyRef {
                    id: KeyRefId(200),
                    wrapped_dek: Some(wrap(kek, dek, NEW_GENERATION, true)),
                    ..blank()
                });
            }
            Repair::FillKeyVersion {
                key_ref,
                key_version,
            } => self.row(key_ref).key_version = Some(key_version),
            Repair::FillKekRef { key_ref, kek_ref } => self.row(key_ref).kek_ref = Some(kek_ref),
            Repair::SetSecretUuid {
                key_ref,
                secret_uuid,
            } => self.row(key_ref).secret_uuid = Some(secret_uuid),
            Repair::LearnKey { key } => {
                let id = LEARNT;
                self.references.key_refs.push(KeyRef { id, ..*key });
            }
            Repair::RestoreTpmState { .. } => {
                assert!(matches!(self.tpm, Tpm::Absent | Tpm::Damaged));
                self.tpm = Tpm::Encrypted(self.copy.unwrap());
            }
        }
    }

    fn row(&mut self, id: KeyRefId) -> &mut KeyRef {
        let mut rows = self.references.key_refs.iter_mut();
        rows.find(|row| row.id == id).unwrap()
    }

    fn take(&mut self, id: KeyRefId) -> KeyRef {
        let rows = &mut self.references.key_refs;
        let at = rows.iter().position(|row| row.id == id).unwrap();
        rows.remove(at)
    }

    fn new_row(&mut self) -> &mut KeyRef {
        let rows = &mut self.references.key_refs;
        rows.push(blank());
        rows.last_mut().unwrap()
    }

    fn host_value(&self) -> u8 {
        match self.host_secret {
            Some(Host::Foreign(Foreign {
                value: Value::Known(dek),
                ..
            })) => dek,
            other => panic!("no value to wrap: {other:?}"),
        }
    }
}

pub(super) fn host_secret(host: Host, tpm: Tpm) -> HostSecret {
    let this = guest().domain.unwrap().uuid;
    match host {
        Host::Absent => HostSecret::Absent,
        Host::Guards => HostSecret::Guards(this),
        Host::GuardsOfAnother => HostSecret::Guards(DomainUuid::parse(ANOTHER).unwrap()),
        Host::Conflict => HostSecret::Conflict("a volume's".to_owned()),
        Host::Unreachable => HostSecret::Unreachable("no answer".to_owned()),
        Host::Foreign(foreign) => HostSecret::Foreign(ForeignSecret {
            is_ephemeral: foreign.is_ephemeral,
            is_private: foreign.is_private,
            serves_anything: foreign.serves_anything,
            value: match foreign.value {
                Value::None => HostValue::None,
                Value::Hidden => HostValue::Hidden,
                Value::Known(dek) => HostValue::Known {
                    dek: DekNumber(dek.into()),
                    proof: proof(tpm, dek),
                },
            },
            named_by: (foreign.is_named_by_another.then(|| "vm2".to_owned()))
                .into_iter()
                .collect(),
        }),
    }
}

/// What the TPM says of a DEK.
fn proof(tpm: Tpm, dek: u8) -> Proof {
    match tpm {
        Tpm::Encrypted(with) if with == dek => Proof::Proven,
        Tpm::Encrypted(_) => Proof::Refuted,
        Tpm::Absent | Tpm::Plain | Tpm::Unreadable | Tpm::Damaged => Proof::None,
    }
}

/// A new row.
pub(super) fn blank() -> KeyRef {
    KeyRef {
        id: KeyRefId(100),
        secret_uuid: Some(SecretUuid::parse(SECRET).unwrap()),
        provider_uuid: None,
        provider_name: String::new(),
        key_version: None,
        kek_ref: None,
        wrapped_dek: None,
        first_used_at: None,
        created_at: Timestamp(100),
    }
}
