//! The decision table: docs/decision-table.md.

mod elsewhere;
mod fleet;
mod host_secret;
mod placeholders;
mod provider;
mod repair_row;
mod travelling;
mod tried;
mod use_key;
mod with_key;

use super::elsewhere::Search;
use super::facts::{
    Damage, Facts, FleetQuestion, ForeignSecret, HostSecret, KeyRef, Obstacle, Permission,
    References, StoreAccessError, TpmState,
};
use super::refusal::Refusal;
use super::repair::Repair;
use super::{Answer, Decision, Finding, Reason, Verdict};
use crate::domain::{UnreadableDomain, Vtpm};
use crate::ids::{DomainUuid, SecretUuid};
use host_secret::{Carries, carried};
use travelling::View;
pub use travelling::{XmlKey, xml_key};

/// Decides one start. Says `AskHostSecret` only while `facts.host_secret` is `None`,
/// `AskElsewhere` only while `facts.elsewhere` is, and `AskFleet` only while `facts.fleet.question` is open.
pub fn decide(facts: &Facts) -> Answer {
    let view = View::of(facts);
    let judged = &*view.facts;
    let answer = match by_table(judged) {
        Answer::Verdict(verdict) => {
            let verdict = note_arrival(judged, put_back_copy(judged, verdict));
            let verdict = wait_for_copy(judged, verdict);
            if fleet::is_to_be_asked(judged, &verdict) {
                Answer::AskFleet
            } else {
                elsewhere::name_it(judged, verdict)
            }
        }
        question => question,
    };
    fleet::complete(facts, view.complete(answer))
}

/// A start that was decided by a saved copy gets that copy as its state.
fn put_back_copy(facts: &Facts, mut verdict: Verdict) -> Verdict {
    if let (Decision::Allow(_), Some(copy)) = (&verdict.decision, facts.copy_to_restore()) {
        let (reason, saved_at) = (copy.reason, copy.saved_at);
        let finding = match &facts.state {
            TpmState::Damaged(damage) => Finding::StateDamaged {
                how: damage.how.clone(),
                reason,
            },
            _ => Finding::StateGone { reason, saved_at },
        };
        verdict.findings.insert(0, finding);
        let repair = Repair::RestoreTpmState { reason, saved_at };
        verdict.repairs.insert(0, repair);
    }
    verdict
}

/// What is on its way is not proven. A start that depends on it says so, and one that is refused
/// for lack of a state says where to get it from.
fn note_arrival(facts: &Facts, mut verdict: Verdict) -> Verdict {
    let rows = facts.references.iter().flat_map(|found| &found.key_refs);
    // A key that arrives with the guest has not been used here.
    let rows = rows.filter(|row| !row.id.is_travelling());
    let first_used_at = rows.filter_map(|row| row.first_used_at).min();
    match (&verdict.decision, facts.arrival) {
        (Decision::Allow(_), Some(arrival)) if facts.depends_on_arrival() => {
            verdict.with_finding(Finding::StateArrives {
                arrival,
                first_used_at,
            })
        }
        (Decision::Deny(Refusal::TpmStateMissing), _) if !facts.snapshots.is_empty() => {
            let names = facts.snapshots.clone();
            verdict.decision = Decision::Deny(Refusal::StateInSnapshots { names });
            verdict
        }
        _ => verdict,
    }
}

/// A state is not given up, and no new TPM made, as long as a copy of it may be there.
fn wait_for_copy(facts: &Facts, mut verdict: Verdict) -> Verdict {
    let Some(reason) = facts.saved.unreadable.clone() else {
        return verdict;
    };
    let is_given_up = match &verdict.decision {
        Decision::Deny(refusal) => matches!(
            refusal,
            Refusal::TpmStateMissing
                | Refusal::StateInSnapshots { .. }
                | Refusal::SeenStateMissing { .. }
        ),
        Decision::Allow(_) => verdict.findings.contains(&Finding::NewTpmAllowed),
    };
    if is_given_up {
        verdict.findings.retain(|it| *it != Finding::NewTpmAllowed);
        verdict.refuse(Refusal::TpmStateNotRestored { reason });
    }
    verdict
}

fn by_table(facts: &Facts) -> Answer {
    let domain = match &facts.domain {
        Ok(domain) => domain,
        Err(unreadable) => return unreadable_xml(facts, unreadable),
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return Verdict::allow(Reason::NoEmulatedTpm).into();
    };
    let Some(secret_uuid) = vtpm.secret_uuid else {
        return unencrypted(facts).into();
    };
    let references = match &facts.references {
        Ok(references) => references,
        Err(trouble) => match (&facts.obstacle, facts.effective_state()) {
            // It cannot start, whether state arrives or not, which only the store knows.
            (Some(Obstacle::ClosedDirectory { .. }), _)
            | (_, TpmState::Plain | TpmState::Damaged(_)) => &References::default(),
            _ => {
                let case = Case {
                    facts,
                    references: &References::default(),
                    secret_uuid,
                };
                return unusable_store(&case, trouble);
            }
        },
    };
    if let Some(refusal) = unusable_state(facts) {
        return Verdict::deny(refusal).into();
    }
    if *facts.effective_state() == TpmState::Plain && !references.state_arrives {
        return Verdict::deny(Refusal::EncryptionMismatch {
            is_defined: true,
            state_encrypted: false,
        })
        .into();
    }
    let case = Case {
        facts,
        references,
        secret_uuid,
    };
    if case.keyed_rows().next().is_some() {
        with_key::decide(&case)
    } else if case.placeholders().next().is_some() {
        placeholders::decide(&case)
    } else {
        no_rows(&case)
    }
}

/// Why swtpm could not start from the state, whatever the key. State on its way takes the place of
/// what is there, and its lock is held by the source of the migration; but it needs the way to it.
pub fn unusable_state(facts: &Facts) -> Option<Refusal> {
    let arrives = facts.state_arrives();
    match (&facts.obstacle, facts.effective_state()) {
        (Some(Obstacle::InUse { .. }), _) if arrives => None,
        (Some(obstacle), _) => Some(Refusal::TpmObstructed(obstacle.clone())),
        (None, TpmState::Damaged(damage)) if !arrives => Some(damaged(facts, damage)),
        (None, _) => None,
    }
}

fn damaged(facts: &Facts, damage: &Damage) -> Refusal {
    let vtpm = (facts.domain.as_ref().ok()).and_then(|domain| domain.vtpm.as_ref());
    Refusal::TpmStateDamaged {
        damage: damage.clone(),
        is_named_by_xml: matches!(vtpm, Some(Vtpm::Emulator(vtpm)) if vtpm.source.is_some()),
    }
}

/// The facts of an encrypted vTPM whose store could be read.
struct Case<'a> {
    facts: &'a Facts,
    references: &'a References,
    secret_uuid: SecretUuid,
}

impl<'a> Case<'a> {
    fn keyed_rows(&self) -> impl Iterator<Item = &'a KeyRef> {
        let rows = self.references.key_refs.iter();
        rows.filter(|row| row.wrapped_dek.is_some())
    }

    fn placeholders(&self) -> impl Iterator<Item = &'a KeyRef> {
        let rows = self.references.key_refs.iter();
        rows.filter(|row| row.wrapped_dek.is_none())
    }

    /// Whether this is the domain that starts.
    fn is_this(&self, domain: DomainUuid) -> bool {
        self.facts
            .domain
            .as_ref()
            .is_ok_and(|this| this.uuid == domain)
    }

    /// There is a TPM, and no key for it.
    fn key_lost(&self) -> Refusal {
        self.xml_key_out_of_reach()
            .unwrap_or_else(|| self.no_key_known())
    }

    /// Likewise, and none in the XML, either.
    fn no_key_known(&self) -> Refusal {
        if self.references.clients_key {
            let secret = self.secret_uuid;
            Refusal::ClientsKeyMissing { secret }
        } else {
            Refusal::KeyLost
        }
    }

    /// libvirt's own value is not the key of this TPM.
    fn host_value_does_not_open(&self) -> Refusal {
        let secret = self.secret_uuid;
        Refusal::HostValueDoesNotOpenTpm { secret }
    }

    /// The UUID that the domain XML names belongs to a secret for another use.
    fn conflict(&self, reason: &str) -> Refusal {
        Refusal::SecretConflict {
            secret: self.secret_uuid,
            reason: reason.to_owned(),
        }
    }

    /// No state on disk and none on its way: libvirt would make a new TPM.
    fn would_be_a_new_tpm(&self) -> bool {
        *self.facts.effective_state() == TpmState::Absent && !self.references.state_arrives
    }

    /// A guest has run with one of the keys. Those that are retired count only for a guest that is
    /// bound to no provider: whoever bound it, or gave it another key, has decided against them.
    fn is_used(&self) -> bool {
        let rows = &self.references.key_refs;
        let is_retired = || rows.is_empty() && self.references.used_and_retired().is_some();
        rows.iter().any(|row| row.first_used_at.is_some()) || is_retired()
    }

    /// The new TPM would take the place of one that a guest has used.
    fn used_tpm_is_missing(&self) -> bool {
        self.would_be_a_new_tpm() && self.is_used()
    }

    /// Likewise, and the policy does not let libvirt make it.
    fn refuses_new_tpm(&self) -> bool {
        let allowed = self.facts.starts_with_new_tpm()
            || self.facts.policy.missing_state == Permission::Allow;
        self.used_tpm_is_missing() && !allowed
    }

    /// What is to be said of a new TPM in the place of a used one.
    fn used_tpm_replaced(&self) -> Option<Finding> {
        self.used_tpm_is_missing()
            .then_some(if self.facts.starts_with_new_tpm() {
                Finding::FreshTpm
            } else {
                Finding::NewTpmAllowed
            })
    }
}

/// A guest that is not known to have an emulated TPM is never refused.
fn unreadable_xml(facts: &Facts, unreadable: &UnreadableDomain) -> Answer {
    let reason = unreadable.reason.clone();
    if unreadable.has_emulated_tpm && facts.policy.unencrypted == Permission::Deny {
        return Verdict::deny(Refusal::DomainXmlInvalid { reason }).into();
    }
    Verdict::allow(Reason::UnreadableXml)
        .with_finding(Finding::XmlUnreadable(reason))
        .into()
}

fn unencrypted(facts: &Facts) -> Verdict {
    let (has_rows, arrives) = match &facts.references {
        Ok(found) => (!found.key_refs.is_empty(), found.state_arrives),
        Err(_) => (false, false),
    };
    match facts.effective_state() {
        TpmState::Encrypted if !arrives => Verdict::deny(Refusal::EncryptionMismatch {
            is_defined: true,
            state_encrypted: true,
        }),
        // Without a row the guard knows nothing of this guest, and leaves it to libvirt.
        TpmState::Damaged(damage) if has_rows && !arrives => Verdict::deny(damaged(facts, damage)),
        _ if facts.policy.unencrypted == Permission::Deny => {
            Verdict::deny(Refusal::UnencryptedVtpm {
                has_state: arrives || *facts.effective_state() != TpmState::Absent,
                is_defined: true,
            })
        }
        _ => Verdict::allow(Reason::Unencrypted),
    }
}

fn unusable_store(case: &Case<'_>, trouble: &StoreAccessError) -> Answer {
    match case.carries() {
        Carries::Ask => Answer::AskHostSecret,
        Carries::Yes(_) => Verdict::allow(Reason::HostSecret)
            .with_finding(Finding::StoreUnusable(trouble.clone()))
            .into(),
        Carries::Refuted | Carries::No => Verdict::deny(Refusal::Store(trouble.clone())).into(),
    }
}

fn no_rows(case: &Case<'_>) -> Answer {
    let policy = &case.facts.policy;
    let out_of_reach = case.xml_key_out_of_reach();
    // The guest has a TPM somewhere: the key of its XML says so.
    if let Some(refusal) = &out_of_reach
        && case.would_be_a_new_tpm()
        && policy.missing_state == Permission::Deny
    {
        return Verdict::deny(refusal.clone()).into();
    }
    if let Some(refusal) = case.host_secret_refusal() {
        return Verdict::deny(refusal).into();
    }
    match case.carries() {
        Carries::Ask => return Answer::AskHostSecret,
        Carries::Yes(Finding::KeyInMemoryOnly { retired })
            if policy.unmanaged == Permission::Deny =>
        {
            return Verdict::deny(Refusal::KeyInMemoryOnly { retired }).into();
        }
        Carries::Yes(_) | Carries::Refuted if policy.unmanaged == Permission::Deny => {
            return Verdict::deny(unmanaged_refused(case)).into();
        }
        Carries::Yes(Finding::Unmanaged) => return unmanaged(case),
        Carries::Yes(finding) => return carried(finding).into(),
        Carries::Refuted => return Verdict::deny(case.host_value_does_not_open()).into(),
        Carries::No => {}
    }
    if let Some(refusal) = out_of_reach {
        return Verdict::deny(refusal).into();
    }
    // Binding helps where a new TPM would be made, and nowhere else.
    match &policy.auto_bind {
        _ if !case.would_be_a_new_tpm() => Verdict::deny(case.no_key_known()).into(),
        Some(name) => match &case.facts.elsewhere {
            None => Answer::AskElsewhere(Search::Everything),
            Some(found)
                if found.forbids_a_new_tpm(policy.transient_state) || case.refuses_new_tpm() =>
            {
                Verdict::deny(Refusal::KeyMissing).into()
            }
            Some(found) => match &found.unanswered {
                // The key may be there all the same, and a new TPM would take its place; or the shared store has it.
                Some(_) if case.facts.fleet.question == FleetQuestion::Open => Answer::AskFleet,
                Some(why) => Verdict::deny(elsewhere::not_searched(why)).into(),
                None => placeholders::bind_and_make_key(case, name),
            },
        },
        None => Verdict::deny(Refusal::KeyMissing).into(),
    }
}

/// libvirt has a key of its own for the guest, perhaps one that a client brought, and the policy forbids that.
fn unmanaged_refused(case: &Case<'_>) -> Refusal {
    let foreign = match &case.facts.host_secret {
        Some(HostSecret::Foreign(foreign)) => Some(foreign),
        _ => None,
    };
    Refusal::Unmanaged {
        is_clients: foreign.is_some_and(ForeignSecret::is_a_clients),
        is_defined: true,
    }
}

/// libvirt has a key of its own for the guest, which has run here with a TPM under it, or not yet.
fn unmanaged(case: &Case<'_>) -> Answer {
    let mut verdict = carried(Finding::Unmanaged);
    match &case.references.seen_state {
        Some(seen) if case.would_be_a_new_tpm() && seen.secret_uuid == Some(case.secret_uuid) => {
            if case.facts.policy.missing_state == Permission::Deny {
                let path = seen.path.clone();
                return Verdict::deny(Refusal::SeenStateMissing { path, at: seen.at }).into();
            }
            verdict.note(Finding::NewTpmAllowed);
        }
        _ => {}
    }
    verdict.into()
}

#[cfg(test)]
mod tests;
