//! What always holds of the answers of a fleet's store, whoever keeps it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::given::nothing_elsewhere;
use super::many;
use super::model::{Host, Tpm, World, host_secret, wrap};
use super::worlds::{kek, world};
use crate::clock::Timestamp;
use crate::domain::TravellingKey;
use crate::verdict::decide::decide;
use crate::verdict::facts::{
    CopyReason, CopyToRestore, Facts, FleetQuestion, KeySource, Permission, RunsOn, TpmState, Trial,
};
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Decision, Verdict};

/// What a fleet's store says of the guest.
#[derive(Debug, Clone)]
struct Said {
    answers: bool,
    keys: Vec<TravellingKey>,
    /// The DEK of the newest TPM state, and whether a later run is known.
    state: Option<(u8, bool)>,
    runs_on: bool,
}

/// A world in a fleet.
#[derive(Debug, Clone)]
struct InFleet {
    world: World,
    said: Said,
    asked: bool,
}

fn in_fleet() -> impl Strategy<Value = InFleet> {
    let key = (kek(), 0_u8..3, 1_u32..4, select(vec![true, true, false]));
    let key = key.prop_map(|(kek, dek, generation, authentic)| TravellingKey {
        wrapped_dek: wrap(kek, dek, generation, authentic),
        provider: "there".to_owned(),
    });
    let state = select(vec![None, Some(0), Some(1), Some(2), Some(77)]);
    let said = (
        select(vec![true, true, true, false]),
        vec(key, 0..3),
        (state, any::<bool>()),
        select(vec![false, false, true]),
    );
    (world(), said).prop_map(
        |(world, (answers, keys, (state, is_older), runs_on))| InFleet {
            world,
            said: Said {
                answers,
                keys,
                state: state.map(|dek| (dek, is_older)),
                runs_on,
            },
            asked: false,
        },
    )
}

impl InFleet {
    /// What the host finds out, as `guard::fleet` does.
    fn facts(&self) -> Facts {
        let Self { world, said, asked } = self;
        let mut facts = world.facts();
        facts.fleet.runs_on = said.runs_on.then(|| RunsOn {
            host: "there".to_owned(),
            since: Timestamp(3),
        });
        facts.fleet.question = match (asked, said.answers) {
            (false, _) => FleetQuestion::Open,
            (true, true) => FleetQuestion::Answered,
            (true, false) => FleetQuestion::Silent("no route".to_owned()),
        };
        let (true, true, Ok(domain), Ok(references)) = (
            *asked,
            said.answers,
            facts.domain.clone(),
            facts.references.clone(),
        ) else {
            return facts;
        };
        for key in &said.keys {
            let now = Timestamp(9);
            facts
                .travelling
                .add_of_fleet(key, &domain, &references, now);
        }
        self.try_all(&mut facts, world.tpm);
        if let Some((dek, is_older)) = said.state.filter(|(dek, _)| self.is_opened(&facts, *dek))
            && matches!(world.tpm, Tpm::Absent | Tpm::Damaged)
        {
            facts.saved.copy = Some(CopyToRestore {
                reason: CopyReason::Fleet,
                saved_at: Timestamp(6),
                is_encrypted: true,
                is_proven: true,
                is_outdated: is_older,
            });
            if facts.copy_to_restore().is_some() {
                self.try_all(&mut facts, Tpm::Encrypted(dek));
            }
        } else if let (Some(_), Some(dek)) = (facts.copy_to_restore(), world.copy) {
            self.try_all(&mut facts, Tpm::Encrypted(dek));
        }
        facts
    }

    fn try_all(&self, facts: &mut Facts, tpm: Tpm) {
        let world = &self.world;
        facts.trials = world.tried(&world.references.key_refs, tpm);
        facts
            .trials
            .extend(world.tried(&facts.travelling.keys, tpm));
        facts.retired = world.tried(&world.retired, tpm);
        facts.host_secret = world.host_secret.map(|host| host_secret(host, tpm));
    }

    /// Whether a key of the guest that it has not retired opens a state under this DEK.
    fn is_opened(&self, facts: &Facts, dek: u8) -> bool {
        let Ok(references) = &facts.references else {
            return false;
        };
        let tpm = Tpm::Encrypted(dek);
        let retired = self.world.tried(&self.world.retired, tpm);
        let rows = self.world.tried(&references.key_refs, tpm);
        let keys = self.world.tried(&facts.travelling.keys, tpm);
        let mut travelling = facts.travelling.keys.iter();
        rows.values().any(Trial::is_proven)
            || travelling.any(|key| match keys.get(&key.id) {
                Some(trial @ Trial::Opened { dek, .. }) => {
                    trial.is_proven() && !references.has_retired(key, *dek, &retired)
                }
                _ => false,
            })
    }

    /// The verdict, with the facts that it was made of.
    fn verdict(&self) -> (Verdict, Facts) {
        let facts = self.facts();
        let next = match decide(&facts) {
            Answer::Verdict(verdict) => return (verdict, facts),
            Answer::AskHostSecret => self.in_world(self.world.with_host(Host::HIDDEN)),
            Answer::AskElsewhere(_) => {
                self.in_world(self.world.with_elsewhere(nothing_elsewhere()))
            }
            Answer::AskFleet => {
                assert!(!self.asked, "asked twice");
                Self {
                    asked: true,
                    ..self.clone()
                }
            }
        };
        next.verdict()
    }

    fn in_world(&self, world: World) -> Self {
        Self {
            world,
            ..self.clone()
        }
    }
}

fn is_allowed(verdict: &Verdict) -> bool {
    matches!(verdict.decision, Decision::Allow(_))
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn what_is_forged_changes_no_start(mut fleet in in_fleet()) {
        fleet.said.runs_on = false;
        // Nobody without the provider key makes one that authenticates, nor a state under a key that is none.
        let forge = |key: &TravellingKey| {
            let (kek, dek, _) = super::model::unwrapped(&key.wrapped_dek).unwrap();
            wrap(kek, dek, 3, false)
        };
        for key in &mut fleet.said.keys {
            key.wrapped_dek = forge(key);
        }
        fleet.said.state = fleet.said.state.map(|(_, is_older)| (77, is_older));
        let without = fleet.world.verdict();
        let (with, _) = fleet.verdict();
        prop_assert_eq!(is_allowed(&without), is_allowed(&with));
        prop_assert_eq!(&without.secret, &with.secret);
        prop_assert_eq!(&without.repairs, &with.repairs);
        if let Decision::Allow(_) = without.decision {
            prop_assert_eq!(without.decision, with.decision);
        }
    }

    #[test]
    fn a_store_that_is_silent_changes_nothing(mut fleet in in_fleet()) {
        fleet.said.answers = false;
        fleet.said.runs_on = false;
        let without = fleet.world.verdict();
        let (with, _) = fleet.verdict();
        prop_assert_eq!(without.decision, with.decision);
        prop_assert_eq!(without.repairs, with.repairs);
        prop_assert_eq!(without.secret, with.secret);
    }

    #[test]
    fn a_start_that_would_go_on_is_stopped_by_a_key_of_the_guest_or_by_policy_alone(
        fleet in in_fleet(),
    ) {
        let without = fleet.world.verdict();
        let (with, facts) = fleet.verdict();
        if is_allowed(&without) && !is_allowed(&with) {
            let policy = facts.policy.elsewhere == Permission::Deny && fleet.said.runs_on;
            // It has a TPM somewhere: a new one would take its place.
            let opens = facts.travelling.keys.iter().any(|key| {
                key.id.is_of_fleet() && facts.trials.get(&key.id).and_then(Trial::dek).is_some()
            });
            prop_assert!(policy || opens, "{:?}", with.decision);
        }
    }

    #[test]
    fn no_answer_makes_a_start_go_by_a_key_that_the_state_refutes(fleet in in_fleet()) {
        let (verdict, facts) = fleet.verdict();
        let Some(KeySource::Row(id)) = verdict.secret.map(|secret| secret.key) else {
            return Ok(());
        };
        let trial = facts.trials.get(&id);
        prop_assert!(trial.and_then(Trial::dek).is_some(), "it does not open");
        if *facts.effective_state() == TpmState::Encrypted && !facts.state_arrives() {
            prop_assert!(trial.is_some_and(Trial::is_proven));
        }
    }

    #[test]
    fn a_state_that_is_older_than_a_run_is_never_restored_unasked(fleet in in_fleet()) {
        let (verdict, facts) = fleet.verdict();
        let is_older = fleet.said.state.is_some_and(|(_, is_older)| is_older);
        let restored = verdict.repairs.iter().any(|repair| {
            let fleet = CopyReason::Fleet;
            matches!(repair, Repair::RestoreTpmState { reason, .. } if *reason == fleet)
        });
        prop_assert!(!restored || !is_older);
        prop_assert!(!restored || !facts.state_arrives());
    }

    #[test]
    fn no_answer_removes_the_last_copy_of_a_wrapped_dek(fleet in in_fleet()) {
        let (verdict, _) = fleet.verdict();
        let of_rows = |repair: &&Repair| !matches!(repair, Repair::RestoreTpmState { .. });
        let repairs: Vec<_> = verdict.repairs.iter().filter(of_rows).cloned().collect();
        let before = fleet.world.wrapped_deks();
        let after = fleet.world.after(&repairs).wrapped_deks();
        prop_assert!(before.is_subset(&after), "{before:?} became {after:?}");
    }
}

/// Some of these worlds are refused by policy, some start with what the fleet has.
#[test]
fn the_worlds_reach_what_the_fleet_can_do() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let worlds = in_fleet();
    let (mut learnt, mut restored, mut refused, mut silent) = (0, 0, 0, 0);
    for _ in 0..super::CASES {
        let (verdict, _) = worlds.new_tree(&mut runner).unwrap().current().verdict();
        for repair in &verdict.repairs {
            match repair {
                Repair::LearnKey { key } if key.id.is_of_fleet() => learnt += 1,
                Repair::RestoreTpmState {
                    reason: CopyReason::Fleet,
                    ..
                } => restored += 1,
                _ => {}
            }
        }
        if let Decision::Deny(refusal) = &verdict.decision
            && refusal.code() == crate::verdict::code::Code::RunsElsewhere
        {
            refused += 1;
        }
        silent += usize::from(
            verdict
                .findings
                .iter()
                .any(|found| matches!(found, crate::verdict::Finding::FleetSilent(_))),
        );
    }
    for (what, number) in [
        ("learnt", learnt),
        ("restored", restored),
        ("refused", refused),
        ("silent", silent),
    ] {
        assert!(number > 20, "{what}: {number}");
    }
}
