//! What holds beyond those of docs/invariants.md.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::many;
use super::model::{Host, LEARNT, Tpm, Value, World, Xml};
use super::worlds::{elsewhere, host_secret, world};
use crate::key::id::KeyId;
use crate::verdict::code::Code;
use crate::verdict::decide::decide;
use crate::verdict::decide::tests::given::SECRET;
use crate::verdict::facts::{KeyRef, KeySource, Obstacle, Permission, Proof, Trial, kek_ref};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Decision, Finding, ProvideSecret, Reason, Verdict};

/// An encrypted vTPM whose store can be read.
fn is_guarded(world: &World) -> bool {
    world.xml == Xml::Encrypted && world.store.is_ok()
}

fn is_allowed(verdict: &Verdict) -> bool {
    matches!(verdict.decision, Decision::Allow(_))
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn the_host_secret_matters_only_where_it_is_asked_for(
        world in world(),
        host in host_secret(),
    ) {
        let unasked = World { host_secret: None, ..world.clone() };
        if let Answer::Verdict(verdict) = decide(&unasked.facts()) {
            prop_assert_eq!(world.with_host(host).verdict(), verdict);
        }
    }

    #[test]
    fn what_is_elsewhere_matters_only_where_it_is_looked_for(
        world in world(),
        found in elsewhere(),
    ) {
        let unasked = World { elsewhere: None, ..world.clone() };
        match decide(&unasked.facts()) {
            Answer::Verdict(verdict) => {
                prop_assert_eq!(world.with_elsewhere(found).verdict(), verdict);
            }
            // A start that goes on looks only before it binds a guest by itself.
            Answer::AskElsewhere(_) => {
                let verdict = world.with_elsewhere(found).verdict();
                prop_assert!(!is_allowed(&verdict)
                    || verdict.decision == Decision::Allow(Reason::NewKey));
            }
            Answer::AskHostSecret | Answer::AskFleet => {}
        }
    }

    #[test]
    fn a_copy_from_before_a_later_run_is_never_restored_unasked(world in world()) {
        let restores = |repair: &Repair| repair.kind() == "restore-tpm-state";
        let is_restored = world.verdict().repairs.iter().any(restores);
        prop_assert!(!(world.copy_is_outdated && is_restored));
    }

    #[test]
    fn a_refusal_changes_and_provides_nothing(world in world()) {
        let verdict = world.verdict();
        if !is_allowed(&verdict) {
            prop_assert_eq!(verdict.repairs, []);
            prop_assert_eq!(verdict.secret, None);
        }
    }

    #[test]
    fn the_row_that_is_provided_opens_stays_and_is_whole(world in world()) {
        let verdict = world.verdict();
        let Some(KeySource::Row(id)) = verdict.secret.map(|secret| secret.key) else {
            return Ok(());
        };
        let after = world.after(&verdict.repairs);
        let id = if id.is_travelling() { LEARNT } else { id };
        let opened = after.opened();
        let (row, kek, proof) = opened.iter().find(|(row, ..)| row.id == id).unwrap();
        // While state is on its way the others stay in use.
        let is_alone = (after.references.key_refs.len(), opened.len()) == (1, 1);
        prop_assert!(is_alone || world.references.state_arrives);
        // A copy of another TPM is left where it is.
        let new_tpm = world.would_make_a_new_tpm();
        prop_assert!(*proof != Proof::Refuted || world.references.state_arrives || new_tpm);
        let owner = world.provider(row.provider_uuid.unwrap());
        prop_assert_eq!((owner.key_id, &owner.name), (*kek, &row.provider_name));
        prop_assert_eq!(row.kek_ref.clone(), Some(kek_ref(*kek)));
        prop_assert!(row.key_version.is_some());
        prop_assert_eq!(row.secret_uuid.map(|uuid| uuid.to_string()), Some(SECRET.to_owned()));
    }

    #[test]
    fn only_a_verdict_on_a_key_provides_one(world in world()) {
        let verdict = world.verdict();
        let on_a_key = matches!(
            verdict.decision,
            Decision::Allow(Reason::Proven | Reason::Unproven | Reason::NewKey)
        );
        // A value that nobody can read is left in place where it may be the right one.
        let leaves = |found: &Finding| matches!(found, Finding::HiddenValue(_));
        let is_left = verdict.findings.iter().any(leaves);
        prop_assert_eq!(verdict.secret.is_some(), on_a_key && !is_left);
        let on_rows = verdict.repairs.iter().any(|repair| repair.kind() != "restore-tpm-state");
        prop_assert!(on_a_key || !on_rows);
    }

    #[test]
    fn what_swtpm_would_refuse_whatever_the_key_never_starts(world in world()) {
        let verdict = world.verdict();
        if world.xml != Xml::Encrypted || !is_allowed(&verdict) {
            return Ok(());
        }
        // Only the store knows of state that is on its way.
        let arrives = world.store.is_ok() && world.references.state_arrives;
        let is_replaced = verdict.repairs.iter().any(|repair| repair.kind() == "restore-tpm-state");
        prop_assert!(world.tpm != Tpm::Damaged || arrives || is_replaced);
        match world.obstacle {
            None => {}
            Some(Obstacle::InUse { .. }) => prop_assert!(arrives || world.store.is_err()),
            Some(obstacle) => prop_assert!(false, "{:?}", obstacle),
        }
    }

    #[test]
    fn a_proven_row_always_wins(world in world()) {
        let opened = world.opened();
        let is_proven = |(_, _, proof): &&(KeyRef, KeyId, Proof)| *proof == Proof::Proven;
        let proven: Vec<_> = opened.iter().filter(is_proven).collect();
        // A state that the guest has left behind proves nothing of the one that is on its way.
        let may_be_outdated = world.references.state_arrives
            && world.travelling.as_ref().is_some_and(|keys| !keys.is_empty());
        if may_be_outdated || !is_guarded(&world) || proven.is_empty() || world.obstacle.is_some() {
            return Ok(());
        }
        let verdict = world.verdict();
        match verdict.decision {
            Decision::Allow(reason) => {
                prop_assert_eq!(reason, Reason::Proven);
                let Some(key) = verdict.secret.map(|secret| Some(secret.key)) else {
                    // libvirt's value is left in place.
                    let leaves = |found: &Finding| matches!(found, Finding::HiddenValue(_));
                    prop_assert!(verdict.findings.iter().any(leaves));
                    return Ok(());
                };
                // Or the same key of the XML, which has a higher generation.
                let facts = world.facts();
                let is_newer = |xml: &KeyRef| {
                    let is_proven = facts.trials.get(&xml.id).is_some_and(Trial::is_proven);
                    is_proven && proven.iter().all(|(row, ..)| row.generation() < xml.generation())
                };
                let xml = facts.travelling.keys.iter().filter(|xml| is_newer(xml));
                let rows = proven.iter().map(|(row, ..)| row);
                prop_assert!(rows.chain(xml).any(|row| Some(KeySource::Row(row.id)) == key));
            }
            // Nothing but the choice of its provider can be open, and what libvirt says.
            Decision::Deny(refusal) => {
                let open = [
                    Code::ProviderAmbiguous,
                    Code::SecretConflict,
                    Code::LibvirtUnreachable,
                ];
                prop_assert!(open.contains(&refusal.code()), "{}", refusal.code());
            }
        }
    }

    #[test]
    fn without_proof_no_key_is_preferred_to_another(world in world()) {
        let verdict = world.verdict();
        if verdict.decision == Decision::Allow(Reason::Unproven) {
            let mut trials = world.facts().trials;
            trials.retain(|id, _| !id.is_travelling());
            let opened: BTreeSet<_> = trials.into_values().map(|trial| match trial {
                Trial::Opened { dek, .. } => Some(dek),
                Trial::NotOpened(_) => None,
            }).collect();
            let is_alone = opened.len() == 1 && !opened.contains(&None);
            prop_assert!(is_alone || is_of_the_newest(&world, &verdict));
        }
    }

    #[test]
    fn a_provider_is_ambiguous_only_where_the_row_names_none_of_several(world in world()) {
        let Decision::Deny(Refusal::ProviderAmbiguous { key_id, candidates, .. }) =
            world.verdict().decision
        else {
            return Ok(());
        };
        let mut holders = world.references.providers.clone();
        holders.retain(|provider| provider.key_id == key_id);
        let names: Vec<_> = holders.iter().map(|holder| holder.name.clone()).collect();
        prop_assert!(names.len() > 1);
        prop_assert_eq!(names, candidates);
        let names_none = |row: &KeyRef| holders.iter().all(|holder| {
            row.provider_uuid != Some(holder.uuid) && row.provider_name != holder.name
        });
        let mut opened = world.opened().into_iter();
        prop_assert!(opened.any(|(row, kek, _)| kek == key_id && names_none(&row)));
    }

    #[test]
    fn a_used_tpm_is_never_replaced_in_silence(world in world()) {
        let mut keyed = world.references.key_refs.clone();
        keyed.retain(|row| row.wrapped_dek.is_some());
        let used = keyed.iter().any(|row| row.first_used_at.is_some());
        let is_judged = is_guarded(&world) && world.obstacle.is_none();
        if is_judged && world.would_make_a_new_tpm() && used {
            let verdict = world.verdict();
            let allowed = verdict.findings.contains(&Finding::NewTpmAllowed);
            let fresh = verdict.findings.contains(&Finding::FreshTpm);
            prop_assert_eq!(allowed || fresh, is_allowed(&verdict));
            prop_assert!(!allowed || world.policy.missing_state == Permission::Allow);
            prop_assert!(!fresh || world.ended_normally);
        }
    }

    #[test]
    fn a_kept_copy_is_put_back_only_where_no_state_is_and_no_key_was_made(world in world()) {
        let verdict = world.verdict();
        let is_restore = |repair: &Repair| repair.kind() == "restore-tpm-state";
        if verdict.repairs.iter().any(is_restore) {
            match world.tpm {
                Tpm::Absent => prop_assert!(!world.facts().starts_with_new_tpm()),
                Tpm::Damaged => prop_assert_eq!(
                    &verdict.decision,
                    &Decision::Allow(Reason::Proven)
                ),
                other => prop_assert!(false, "over {:?}", other),
            }
            // Only the store knows of state that is on its way.
            prop_assert!(!world.references.state_arrives || world.store.is_err());
            prop_assert!(verdict.decision != Decision::Allow(Reason::NewKey));
        }
    }

    #[test]
    fn the_order_of_rows_and_providers_does_not_matter(
        world in world(),
        order in any::<[u8; 4]>(),
    ) {
        let mut shuffled = world.clone();
        let rows = &mut shuffled.references.key_refs;
        rows.sort_by_key(|row| order[usize::try_from(row.id.0).unwrap() - 1]);
        let providers = &mut shuffled.references.providers;
        providers.sort_by_key(|provider| order[usize::from(provider.uuid.as_bytes()[15] % 4)]);
        prop_assert_eq!(in_any_order(shuffled.verdict()), in_any_order(world.verdict()));
    }

    #[test]
    fn a_stricter_policy_allows_nothing_more(world in world()) {
        let mut stricter = world.clone();
        stricter.policy.degraded = Permission::Deny;
        stricter.policy.unmanaged = Permission::Deny;
        stricter.policy.unencrypted = Permission::Deny;
        // Where a new TPM may be made, a copy that libvirt's value alone opens stays where it is.
        let value = |host: &Host| match host {
            Host::Foreign(foreign) => foreign.value,
            _ => Value::None,
        };
        if world.host_secret.as_ref().map_or(Value::Hidden, value) == Value::None {
            stricter.policy.missing_state = Permission::Deny;
        }
        prop_assert!(is_allowed(&world.verdict()) || !is_allowed(&stricter.verdict()));
    }
}

/// State is on its way, and the key is the XML's: no row in use holds one of a higher generation.
fn is_of_the_newest(world: &World, verdict: &Verdict) -> bool {
    let facts = world.facts();
    let Some(ProvideSecret {
        key: KeySource::Row(id),
        ..
    }) = verdict.secret
    else {
        return verdict
            .findings
            .iter()
            .any(|found| matches!(found, Finding::HiddenValue(_)));
    };
    let rows = &world.references.key_refs;
    let keys = rows.iter().chain(&facts.travelling.keys);
    let used = keys
        .clone()
        .find(|key| key.id == id)
        .map(KeyRef::generation);
    let newest = rows.iter().map(KeyRef::generation).max();
    world.references.state_arrives && !facts.travelling.keys.is_empty() && used >= newest
        || rows.iter().all(|row| row.wrapped_dek.is_none()) && id.is_travelling()
}

/// The same verdict for every order of its lists.
fn in_any_order(mut verdict: Verdict) -> Verdict {
    verdict
        .repairs
        .sort_by_cached_key(|repair| format!("{repair:?}"));
    for finding in &mut verdict.findings {
        if let Finding::Degraded(refusal) = finding {
            sort_lists(refusal);
        }
    }
    verdict
        .findings
        .sort_by_cached_key(|finding| format!("{finding:?}"));
    if let Decision::Deny(refusal) = &mut verdict.decision {
        sort_lists(refusal);
    }
    verdict
}

fn sort_lists(refusal: &mut Refusal) {
    match refusal {
        Refusal::ProviderAmbiguous { candidates, .. } => candidates.sort(),
        Refusal::KeyAmbiguous { key_refs } | Refusal::KeyDoesNotOpenTpm { key_refs } => {
            key_refs.sort();
        }
        _ => {}
    }
}
