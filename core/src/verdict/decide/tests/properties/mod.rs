//! What always holds (docs/invariants.md), over random worlds.

mod beyond;
mod fleet;
mod journeys;
mod model;
mod worlds;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use model::{Foreign, Host, Tpm, Value, World, Xml};
use worlds::world;

use super::super::decide;
use super::given::nothing_elsewhere;
use crate::ids::ProviderUuid;
use crate::key::id::KeyId;
use crate::verdict::code::Code;
use crate::verdict::elsewhere::Elsewhere;
use crate::verdict::facts::{
    KekState, KeyRef, KeySource, Permission, Proof, Provider, TpmState, Trial,
};
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Answer, Decision, Over, Reason, Verdict};

const CASES: u32 = 10_000;

/// Every run draws new worlds; one that fails is shrunk and printed, not kept in a file.
fn many() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

impl World {
    /// The verdict. Where it needs a host secret that is not told, libvirt has one with a
    /// value; one that is told is never asked for.
    fn verdict(&self) -> Verdict {
        match decide(&self.facts()) {
            Answer::Verdict(verdict) => verdict,
            Answer::AskHostSecret => {
                assert_eq!(self.host_secret, None, "asked for what it was told");
                self.with_host(Host::HIDDEN).verdict()
            }
            Answer::AskFleet => panic!("asked a fleet that there is not"),
            Answer::AskElsewhere(_) => {
                assert_eq!(self.elsewhere, None, "looked for what it was told");
                self.with_elsewhere(nothing_elsewhere()).verdict()
            }
        }
    }

    fn with_host(&self, host_secret: Host) -> Self {
        Self {
            host_secret: Some(host_secret),
            ..self.clone()
        }
    }

    fn with_elsewhere(&self, elsewhere: Elsewhere) -> Self {
        Self {
            elsewhere: Some(elsewhere),
            ..self.clone()
        }
    }

    fn would_make_a_new_tpm(&self) -> bool {
        *self.facts().effective_state() == TpmState::Absent && !self.references.state_arrives
    }

    /// The rows that open, with the KEK that opens them and what the state says of their DEK.
    fn opened(&self) -> Vec<(KeyRef, KeyId, Proof)> {
        let trials = self.facts().trials;
        let rows = self.references.key_refs.iter();
        rows.filter_map(|row| match trials.get(&row.id)? {
            Trial::Opened { key_id, proof, .. } => Some((row.clone(), *key_id, *proof)),
            Trial::NotOpened(_) => None,
        })
        .collect()
    }

    /// The keys of the XML that are this guest's, and that it has not retired.
    fn keys_of_its_own(&self) -> Vec<KeyRef> {
        let facts = self.facts();
        let number = |trial: Option<&Trial>| match trial {
            Some(Trial::Opened { dek, .. }) => Some(*dek),
            _ => None,
        };
        let is_retired = |dek, key: &KeyRef| {
            let mut retired = self.retired.iter();
            retired.any(|row| {
                number(facts.retired.get(&row.id)) == dek && row.generation() >= key.generation()
            })
        };
        let mut keys = facts.travelling.keys.clone();
        keys.retain(|key| {
            let dek = number(facts.trials.get(&key.id));
            dek.is_none() || !is_retired(dek, key)
        });
        keys
    }

    fn provider(&self, uuid: ProviderUuid) -> &Provider {
        let mut providers = self.references.providers.iter();
        providers.find(|provider| provider.uuid == uuid).unwrap()
    }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn no_repair_removes_the_last_copy_of_a_wrapped_dek(world in world()) {
        let after = world.after(&world.verdict().repairs);
        let (before, after) = (world.wrapped_deks(), after.wrapped_deks());
        prop_assert!(before.is_subset(&after), "{before:?} became {after:?}");
    }

    #[test]
    fn planning_twice_plans_nothing_the_second_time(world in world()) {
        let first = world.verdict();
        let second = world.after(&first.repairs).verdict();
        prop_assert_eq!(&second.repairs, &[]);
        let expected = match first.decision {
            // The key that was made is now there.
            Decision::Allow(Reason::NewKey) => Decision::Allow(Reason::Unproven),
            decision => decision,
        };
        prop_assert_eq!(second.decision, expected);
        let learns = first.repairs.iter().any(|repair| matches!(repair, Repair::LearnKey { .. }));
        if first.secret.is_some_and(|secret| secret.key != KeySource::Created) && !learns {
            prop_assert_eq!(second.secret, first.secret);
        }
    }

    #[test]
    fn no_value_of_libvirts_is_lost_and_none_of_another_guests_is_touched(world in world()) {
        let verdict = world.verdict();
        let Some(Host::Foreign(foreign)) = world.host_secret else {
            return Ok(());
        };
        let over = verdict.secret.map(|secret| secret.over);
        if matches!(over, Some(Over::ForeignDefinition | Over::ForeignValue)) {
            if let Value::Known(dek) = foreign.value {
                let kept = world.after(&verdict.repairs).wrapped_deks();
                prop_assert!(kept.contains(&vec![dek]), "{dek} is not in {kept:?}");
                prop_assert!(!foreign.serves_anything);
            }
            prop_assert!(foreign.value == Value::None || !foreign.is_named_by_another);
        }
        // A hidden value is replaced only where the state proves that it can be of no use.
        if foreign.value == Value::Hidden && over.is_some() {
            prop_assert_eq!(verdict.decision, Decision::Allow(Reason::Proven));
            prop_assert!(!world.references.state_arrives);
        }
    }

    #[test]
    fn a_value_that_nobody_can_read_is_replaced_only_where_libvirt_has_it_in_memory_alone(
        world in world(),
    ) {
        let over = world.verdict().secret.map(|secret| secret.over);
        if let (Some(Over::ForeignValue), Some(Host::Foreign(foreign))) = (over, world.host_secret) {
            prop_assert!(foreign.is_ephemeral && foreign.is_private);
        }
    }

    #[test]
    fn a_start_that_a_known_value_of_libvirts_would_fail_is_never_let_pass_with_it(
        world in world(),
    ) {
        let verdict = world.verdict();
        if verdict.decision == Decision::Allow(Reason::HostSecret)
            && let Some(Host::Foreign(Foreign { value: Value::Known(dek), .. })) = world.host_secret
            && let Tpm::Encrypted(with) = world.tpm_in_force()
        {
            prop_assert!(dek == with || world.references.state_arrives);
        }
    }

    #[test]
    fn no_guest_starts_with_the_value_of_another(world in world()) {
        let of_another = World { host_secret: Some(Host::GuardsOfAnother), ..world };
        let verdict = of_another.verdict();
        let carried = [Reason::HostSecret, Reason::ClientsKey].map(Decision::Allow);
        prop_assert!(!carried.contains(&verdict.decision));
    }

    #[test]
    fn a_row_is_rebound_only_to_a_provider_whose_kek_opened_it(world in world()) {
        for repair in world.verdict().repairs {
            if let Repair::RebindProvider { key_ref, provider, provider_name } = repair {
                let provider = world.provider(provider);
                let opened = world.opened();
                let opened_by = opened.iter().find(|(row, ..)| row.id == key_ref);
                prop_assert_eq!(opened_by.map(|(_, kek, _)| *kek), Some(provider.key_id));
                prop_assert_eq!(&provider_name, &provider.name);
            }
        }
    }

    #[test]
    fn a_key_is_made_only_where_there_is_neither_state_nor_key(world in world()) {
        let verdict = world.verdict();
        let mut made = Vec::new();
        for repair in &verdict.repairs {
            if let Repair::CreateKey { provider, origin, .. } = repair {
                made.push(world.provider(*provider).key_id);
                // Never another one beside a value that a client gave.
                let has_value = matches!(
                    &world.host_secret,
                    Some(Host::Foreign(foreign)) if foreign.value != Value::None
                );
                prop_assert_eq!(*origin == KeyOrigin::HostSecret, has_value);
            }
        }
        let provided = verdict.secret.is_some_and(|secret| secret.key == KeySource::Created);
        prop_assert_eq!(made.len(), usize::from(provided));
        let bound = verdict.repairs.iter().any(|repair| matches!(
            repair,
            Repair::BindProvider { key_ref: None, .. }
        ));
        let transient_state = world.policy.transient_state;
        let forbids = |found: &Elsewhere| found.forbids_a_new_tpm(transient_state);
        let forbids = world.elsewhere.as_ref().is_some_and(forbids);
        prop_assert!(!(bound && forbids), "a guest that may be another one was bound by itself");
        let unanswered = world.elsewhere.as_ref().is_some_and(|found| found.unanswered.is_some());
        prop_assert!(!(bound && unanswered), "nobody knows whether it is another one");
        let may_be_new = world.policy.missing_state == Permission::Allow
            || world.facts().starts_with_new_tpm();
        let had_one = world.retired.iter().any(|row| {
            row.first_used_at.is_some() && row.wrapped_dek.is_some()
        });
        prop_assert!(!bound || may_be_new || !had_one, "a TPM was given up unasked");
        for kek in made {
            prop_assert!(world.would_make_a_new_tpm());
            prop_assert!(world.keys_of_its_own().is_empty(), "the XML says that it has a TPM");
            prop_assert!(world.references.key_refs.iter().all(|row| row.wrapped_dek.is_none()));
            prop_assert_eq!(&world.facts().keks[&kek], &KekState::Opens);
        }
    }

    #[test]
    fn a_domain_without_an_emulated_vtpm_is_never_refused(world in world()) {
        for xml in [Xml::NoTpm, Xml::Passthrough, Xml::External] {
            let verdict = World { xml, ..world.clone() }.verdict();
            prop_assert_eq!(verdict.decision, Decision::Allow(Reason::NoEmulatedTpm));
            prop_assert_eq!(verdict.repairs, []);
            prop_assert_eq!(verdict.secret, None);
        }
    }
}

#[test]
fn the_worlds_reach_every_code_and_every_repair() {
    let mut runner = TestRunner::deterministic();
    let worlds = world();
    let mut codes = BTreeSet::new();
    let mut repairs = BTreeSet::new();
    for _ in 0..CASES {
        let verdict = worlds.new_tree(&mut runner).unwrap().current().verdict();
        repairs.extend(verdict.repairs.iter().map(Repair::kind));
        if let Decision::Deny(refusal) = verdict.decision {
            codes.insert(refusal.code());
        }
    }
    // Found out by asking libvirt to take the secret; a fault of the program is none of a world; and a
    // fleet has worlds of its own.
    let elsewhere = [Code::SecretRefused, Code::Internal, Code::RunsElsewhere];
    let here = Code::ALL
        .iter()
        .copied()
        .filter(|code| !elsewhere.contains(code));
    assert_eq!(codes, here.collect());
    assert_eq!(
        repairs,
        BTreeSet::from([
            "bind-provider",
            "create-key",
            "delete-duplicate",
            "delete-placeholder",
            "fill-kek-ref",
            "fill-key-version",
            "learn-key",
            "rebind-provider",
            "restore-tpm-state",
            "retire-key",
            "set-secret-uuid",
        ])
    );
}
