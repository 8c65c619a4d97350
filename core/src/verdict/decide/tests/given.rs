//! Facts and verdicts in one line each, for the table of tests.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::domain::{Domain, Emulator, TpmVersion, Vtpm};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::decide::decide;
use crate::verdict::elsewhere::{Elsewhere, Search};
use crate::verdict::facts::{
    Arrival, CopyReason, CopyToRestore, DekNumber, Facts, Fleet, ForeignSecret, HostSecret,
    HostValue, KekState, KeyRef, KeySource, KmsSlots, NotOpened, Obstacle, Policy, Proof, Provider,
    References, SavedTpm, SeenState, StoreAccessError, TpmState, Travelling, Trial, kek_ref,
};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Decision, Finding, Over, Verdict};

pub(super) const SECRET: &str = "5ec2e700-0000-4000-8000-000000000001";

/// The KEK that wrapped a key, or that a provider has, by a letter.
pub(super) fn key(letter: char) -> KeyId {
    KeyId::from_bytes([u8::try_from(letter).unwrap(); KeyId::LEN])
}

/// A provider's UUID by a number.
pub(super) fn uuid(number: u8) -> ProviderUuid {
    ProviderUuid::parse(&format!("00000000-0000-4000-8000-0000000000{number:02}")).unwrap()
}

/// A row and what trying it gave.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) key_ref: KeyRef,
    pub(super) trial: Option<Trial>,
}

/// A placeholder bound to the provider `name` of UUID `number`.
pub(super) fn placeholder(id: i64, name: &str, number: u8) -> Row {
    Row {
        key_ref: KeyRef {
            id: KeyRefId(id),
            secret_uuid: Some(SecretUuid::parse(SECRET).unwrap()),
            provider_uuid: Some(uuid(number)),
            provider_name: name.to_owned(),
            key_version: None,
            kek_ref: None,
            wrapped_dek: None,
            first_used_at: None,
            created_at: Timestamp(id),
        },
        trial: None,
    }
}

/// A complete row whose key was wrapped with the KEK `letter`, with this trial.
fn tried(id: i64, name: &str, number: u8, letter: char, trial: Trial) -> Row {
    let mut row = placeholder(id, name, number);
    row.key_ref.key_version = Some(1);
    row.key_ref.kek_ref = Some(kek_ref(key(letter)));
    row.key_ref.wrapped_dek = Some(WrappedDek::from_stored(vec![1]));
    row.trial = Some(trial);
    row
}

/// A keyed row that opens to the DEK of this number.
pub(super) fn opens(id: i64, name: &str, number: u8, letter: char, dek: usize) -> Row {
    let trial = Trial::Opened {
        key_id: key(letter),
        dek: DekNumber(dek),
        proof: Proof::None,
    };
    tried(id, name, number, letter, trial)
}

/// A keyed row whose KEK no provider has.
pub(super) fn keyless(id: i64, name: &str, number: u8, letter: char) -> Row {
    let trial = NotOpened::NoProvider {
        key_id: key(letter),
    };
    tried(id, name, number, letter, Trial::NotOpened(trial))
}

/// A keyed row whose KEK is there and sealed.
pub(super) fn sealed(id: i64, name: &str, number: u8, letter: char) -> Row {
    let trial = NotOpened::Sealed {
        key_id: key(letter),
        reason: "no host key".to_owned(),
    };
    tried(id, name, number, letter, Trial::NotOpened(trial))
}

/// A keyed row that does not authenticate.
pub(super) fn corrupt(id: i64, name: &str, number: u8, letter: char) -> Row {
    let trial = NotOpened::Corrupt {
        reason: "not authentic".to_owned(),
        is_newer: false,
    };
    tried(id, name, number, letter, Trial::NotOpened(trial))
}

impl Row {
    fn proof(mut self, answer: Proof) -> Self {
        let Some(Trial::Opened { proof, .. }) = &mut self.trial else {
            panic!("it does not open")
        };
        *proof = answer;
        self
    }

    pub(super) fn proven(self) -> Self {
        self.proof(Proof::Proven)
    }

    pub(super) fn refuted(self) -> Self {
        self.proof(Proof::Refuted)
    }

    pub(super) fn used(mut self) -> Self {
        self.key_ref.first_used_at = Some(Timestamp(7));
        self
    }

    /// As `ON DELETE SET NULL` leaves it.
    pub(super) fn uuid_lost(mut self) -> Self {
        self.key_ref.provider_uuid = None;
        self
    }

    /// Its wrapped DEK says that it is of this generation.
    pub(super) fn of_generation(mut self, generation: u32) -> Self {
        let header = [b"VGWD\x02\x01", &[0; 16][..], &generation.to_be_bytes()].concat();
        let blob = [&header[..], &[0; 32 + 1 + 16]].concat();
        self.key_ref.wrapped_dek = Some(WrappedDek::from_stored(blob));
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut KeyRef)) -> Self {
        change(&mut self.key_ref);
        self
    }
}

/// A secret that somebody else defined: where libvirt keeps it, who gets to read it, its value.
pub(super) fn foreign(ephemeral: bool, private: bool, value: HostValue) -> HostSecret {
    HostSecret::Foreign(ForeignSecret {
        is_ephemeral: ephemeral,
        is_private: private,
        serves_anything: false,
        value,
        named_by: Vec::new(),
    })
}

/// A persistent secret of somebody else's with a value that nobody can read.
pub(super) fn hidden() -> HostSecret {
    foreign(false, true, HostValue::Hidden)
}

/// An ephemeral and private one, as a client defines it for one start.
pub(super) fn clients() -> HostSecret {
    foreign(true, true, HostValue::Hidden)
}

/// A persistent one without a value.
pub(super) fn valueless() -> HostSecret {
    foreign(false, false, HostValue::None)
}

/// A persistent one whose value is the DEK of this number.
pub(super) fn known(dek: usize, proof: Proof) -> HostSecret {
    let dek = DekNumber(dek);
    foreign(false, false, HostValue::Known { dek, proof })
}

impl HostSecret {
    /// Other guests' definitions name it, too.
    pub(super) fn named_by(mut self, guests: &[&str]) -> Self {
        let Self::Foreign(foreign) = &mut self else {
            panic!("not a foreign one")
        };
        foreign.named_by = guests.iter().map(|&name| name.to_owned()).collect();
        self
    }
}

/// A guest with an encrypted vTPM: no state, no rows, no providers, no host secret.
pub(super) fn guest() -> Facts {
    Facts {
        domain: Ok(Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::parse("d0000000-0000-4000-8000-000000000001").unwrap(),
            vtpm: Some(emulator(Some(SECRET))),
            travelling: None,
        }),
        references: Ok(References::default()),
        trials: BTreeMap::new(),
        keks: BTreeMap::new(),
        state: TpmState::Absent,
        obstacle: None,
        saved: SavedTpm::default(),
        arrival: None,
        snapshots: Vec::new(),
        host_secret: Some(HostSecret::Absent),
        elsewhere: Some(nothing_elsewhere()),
        retired: BTreeMap::new(),
        travelling: Travelling::default(),
        fleet: Fleet::default(),
        policy: Policy::default(),
    }
}

/// This host has nothing of the guest under another name; libvirt defines it.
pub(super) fn nothing_elsewhere() -> Elsewhere {
    Elsewhere {
        is_defined: true,
        ..Elsewhere::default()
    }
}

pub(super) fn emulator(secret: Option<&str>) -> Vtpm {
    Vtpm::Emulator(Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: secret.map(|uuid| SecretUuid::parse(uuid).unwrap()),
        persistent_state: false,
        source: None,
    })
}

impl Facts {
    pub(super) fn vtpm(mut self, vtpm: Option<Vtpm>) -> Self {
        self.domain.as_mut().unwrap().vtpm = vtpm;
        self
    }

    pub(super) fn row(mut self, row: Row) -> Self {
        self.trials
            .extend(row.trial.map(|trial| (row.key_ref.id, trial)));
        self.references.as_mut().unwrap().key_refs.push(row.key_ref);
        self
    }

    /// A key of the guest's own XML, and what trying it gave.
    pub(super) fn in_xml(mut self, row: Row) -> Self {
        let id = KeyRefId::travelling(self.travelling.keys.len());
        self.trials.extend(row.trial.map(|trial| (id, trial)));
        self.travelling.keys.push(KeyRef {
            id,
            first_used_at: Some(Timestamp(9)),
            ..row.key_ref
        });
        self
    }

    /// A retired row, and what trying it gave.
    pub(super) fn retired(mut self, row: Row) -> Self {
        self.retired
            .extend(row.trial.map(|trial| (row.key_ref.id, trial)));
        self.references.as_mut().unwrap().retired.push(row.key_ref);
        self
    }

    /// A provider whose KEK is `letter` and opens.
    pub(super) fn provider(mut self, name: &str, number: u8, letter: char) -> Self {
        self.references.as_mut().unwrap().providers.push(Provider {
            uuid: uuid(number),
            name: name.to_owned(),
            key_id: key(letter),
            key_version: 1,
            is_default: false,
            exported_at: None,
            created_at: Timestamp(1),
            kms: KmsSlots::default(),
        });
        self.keks.insert(key(letter), KekState::Opens);
        self
    }

    /// A key manager opens the provider key of this letter.
    pub(super) fn opened_by_kms(mut self, letter: char, name: &str) -> Self {
        if let Ok(references) = &mut self.references {
            for provider in &mut references.providers {
                if provider.key_id == key(letter) {
                    provider.kms.names.push(name.to_owned());
                }
            }
        }
        self
    }

    pub(super) fn kek_sealed(mut self, letter: char) -> Self {
        self.keks
            .insert(key(letter), KekState::Sealed("no host key".to_owned()));
        self
    }

    pub(super) fn state(mut self, state: TpmState) -> Self {
        self.state = state;
        self
    }

    pub(super) fn obstructed(mut self, obstacle: Obstacle) -> Self {
        self.obstacle = Some(obstacle);
        self
    }

    /// The guard has a copy of an encrypted state.
    pub(super) fn with_saved(mut self, reason: CopyReason) -> Self {
        self.saved.copy = Some(CopyToRestore {
            reason,
            saved_at: Timestamp(5),
            is_encrypted: true,
            is_proven: self.trials.values().any(Trial::is_proven),
            is_outdated: false,
        });
        self
    }

    /// The guard cannot see whether there is one.
    pub(super) fn with_unreadable_copy(mut self) -> Self {
        self.saved.unreadable = Some("I/O error".to_owned());
        self
    }

    /// The same of before a run that is known.
    pub(super) fn with_outdated_copy(mut self) -> Self {
        self = self.with_saved(CopyReason::Release);
        self.saved.copy.as_mut().unwrap().is_outdated = true;
        // The keys are tried against no state then.
        for trial in self.trials.values_mut() {
            if let Trial::Opened { proof, .. } = trial {
                *proof = Proof::None;
            }
        }
        self
    }

    /// The guest is transient, and its last run ended normally.
    pub(super) fn ended_normally(mut self) -> Self {
        self.saved.ended_normally = true;
        self
    }

    pub(super) fn arriving(mut self) -> Self {
        self.references.as_mut().unwrap().state_arrives = true;
        self.arrival = Some(Arrival::Migration);
        self
    }

    /// The guest has run here with a TPM, whoever has its key.
    pub(super) fn seen(mut self) -> Self {
        self.references.as_mut().unwrap().seen_state = Some(SeenState {
            domain_name: "vm1".to_owned(),
            secret_uuid: Some(SecretUuid::parse(SECRET).unwrap()),
            path: "/there".into(),
            at: Timestamp(7),
        });
        self
    }

    /// What this host has under another name.
    pub(super) fn elsewhere(mut self, change: impl FnOnce(&mut Elsewhere)) -> Self {
        change(self.elsewhere.as_mut().unwrap());
        self
    }

    pub(super) fn host(mut self, secret: HostSecret) -> Self {
        self.host_secret = Some(secret);
        self
    }

    pub(super) fn store(mut self, trouble: StoreAccessError) -> Self {
        self.references = Err(trouble);
        self
    }

    pub(super) fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }
}

/// The verdict in one line: decision; repairs; the key provided.
pub(super) fn verdict(facts: &Facts) -> String {
    match decide(facts) {
        Answer::AskHostSecret => "ask".to_owned(),
        Answer::AskElsewhere(Search::Everything) => "look elsewhere".to_owned(),
        Answer::AskElsewhere(Search::Definition) => "look for the definition".to_owned(),
        Answer::AskFleet => "ask the fleet".to_owned(),
        Answer::Verdict(verdict) => in_words(&verdict),
    }
}

/// The findings of the verdict, by their names.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Answer::Verdict(verdict) = decide(facts) else {
        panic!("no verdict yet")
    };
    verdict.findings
}

fn in_words(verdict: &Verdict) -> String {
    let mut words = vec![match &verdict.decision {
        Decision::Allow(reason) => format!("allow {reason:?}"),
        Decision::Deny(refusal) => format!("deny {}", refusal.code().as_str()),
    }];
    words.extend(verdict.repairs.iter().map(repair_in_words));
    if let Some(secret) = verdict.secret {
        let key = match secret.key {
            KeySource::Row(id) if id.is_of_fleet() => "provide the fleet's".to_owned(),
            KeySource::Row(id) if id.is_travelling() => "provide the XML's".to_owned(),
            KeySource::Row(id) => format!("provide {id}"),
            KeySource::Created => "provide the new key".to_owned(),
        };
        let over = match secret.over {
            Over::GuardsOwn => "",
            Over::TheSame => ", which libvirt has",
            Over::ForeignDefinition => " in place of a foreign secret",
            Over::ForeignValue => " in place of a foreign secret that nobody can read",
        };
        words.push(key + over);
    }
    words.join("; ")
}

fn repair_in_words(repair: &Repair) -> String {
    let row = repair
        .key_ref()
        .map_or("new".to_owned(), |id| id.to_string());
    let detail = match repair {
        Repair::RebindProvider { provider_name, .. }
        | Repair::BindProvider { provider_name, .. } => {
            format!(" to {provider_name}")
        }
        Repair::DeleteDuplicate { kept: None, .. } => " of the XML's".to_owned(),
        Repair::DeleteDuplicate {
            kept: Some(kept), ..
        } => format!(" of {kept}"),
        Repair::LearnKey { key } => {
            return format!("learn-key of {}", key.provider_name);
        }
        Repair::RestoreTpmState { reason, .. } => {
            return format!("{} of {}", repair.kind(), reason.as_str());
        }
        _ => String::new(),
    };
    format!("{} {row}{detail}", repair.kind())
}

/// The refusal of the verdict.
pub(super) fn refusal(facts: &Facts) -> Refusal {
    match decide(facts) {
        Answer::Verdict(verdict) => match verdict.decision {
            Decision::Deny(refusal) => refusal,
            Decision::Allow(reason) => panic!("allowed: {reason:?}"),
        },
        Answer::AskHostSecret | Answer::AskElsewhere(_) | Answer::AskFleet => {
            panic!("no verdict yet")
        }
    }
}

pub(super) fn unreadable() -> TpmState {
    TpmState::Unreadable("cut short".to_owned())
}

pub(super) fn damaged() -> TpmState {
    TpmState::Damaged("it is empty".into())
}

pub(super) fn unreachable() -> HostSecret {
    HostSecret::Unreachable("no answer".to_owned())
}

pub(super) fn for_another_use() -> HostSecret {
    HostSecret::Conflict("a volume's".to_owned())
}

/// A guest whose key 0 is in row 1, proven, used or not.
pub(super) fn keyed(row: impl FnOnce(Row) -> Row) -> Facts {
    let row = row(opens(1, "a", 1, 'A', 0));
    guest().provider("a", 1, 'A').row(row)
}
