//! What libvirt's own secret means for a start: whether it is enough where the guard has no key
//! for, and what becomes of it where the guard has one.

use super::Case;
use crate::verdict::facts::{
    DekNumber, ForeignSecret, HostSecret, HostValue, KeySource, Permission, Proof, Provider,
    TpmState,
};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Finding, Over, ProvideSecret, Reason, Verdict};

/// Whether libvirt's own secret opens this TPM, as far as can be known.
pub(super) enum Carries {
    /// It may, or does: the start can continue without the guard's key, with this finding.
    Yes(Finding),
    /// Its value is known, and does not open the TPM's state.
    Refuted,
    /// There is no value that could.
    No,
    /// It was not asked for yet.
    Ask,
}

impl Case<'_> {
    /// Returns whether libvirt's own secret is enough for a start that the guard has no key for.
    pub(super) fn carries(&self) -> Carries {
        match &self.facts.host_secret {
            None => Carries::Ask,
            Some(HostSecret::Foreign(foreign)) => match foreign.value {
                HostValue::None => Carries::No,
                HostValue::Known {
                    proof: Proof::Refuted,
                    ..
                } if self.has_state() && !self.references.state_arrives => Carries::Refuted,
                _ => Carries::Yes(foreign.finding()),
            },
            // What an earlier start left behind: no evidence for a TPM that is not there.
            Some(HostSecret::Guards(domain)) if self.is_this(*domain) && self.has_state() => {
                Carries::Yes(Finding::KeyInMemoryOnly {
                    retired: self.facts.proven_retired(),
                })
            }
            Some(_) => Carries::No,
        }
    }

    /// Whether a client brings the key of this guest, whose own keys nobody has ever used.
    fn is_started_with_a_clients_key(&self) -> bool {
        let Some(HostSecret::Foreign(foreign)) = &self.facts.host_secret else {
            return false;
        };
        let is_hidden = foreign.value == HostValue::Hidden && foreign.named_by.is_empty();
        foreign.is_a_clients() && is_hidden && !self.is_used()
    }

    fn has_state(&self) -> bool {
        *self.facts.effective_state() == TpmState::Encrypted
    }

    /// Why a start that needs libvirt's secret cannot have it, if libvirt said so.
    pub(super) fn host_secret_refusal(&self) -> Option<Refusal> {
        match &self.facts.host_secret {
            Some(HostSecret::Conflict(reason)) => Some(self.conflict(reason)),
            Some(HostSecret::Unreachable(reason)) => {
                let reason = reason.clone();
                Some(Refusal::LibvirtUnreachable { reason })
            }
            Some(HostSecret::DefinitionsUnread(reason)) => {
                let reason = reason.clone();
                Some(Refusal::DefinitionsUnread { reason })
            }
            _ => None,
        }
    }
}

impl ForeignSecret {
    /// Whether it is one that a client defines for each start, with the key that it keeps
    /// itself, as Nova does.
    pub(super) fn is_a_clients(&self) -> bool {
        self.is_ephemeral && self.is_private
    }

    pub(super) fn finding(&self) -> Finding {
        if self.is_a_clients() {
            Finding::ClientsKey
        } else {
            Finding::Unmanaged
        }
    }
}

/// Allows a start with libvirt's own secret, and notes why.
pub(super) fn carried(finding: Finding) -> Verdict {
    let reason = match finding {
        Finding::ClientsKey => Reason::ClientsKey,
        _ => Reason::HostSecret,
    };
    Verdict::allow(reason).with_finding(finding)
}

/// Refuses, unless the reason is a provider that is not available, libvirt has a value, and the
/// policy allows to use it.
pub(super) fn degrade_or_deny(case: &Case<'_>, refusal: Refusal) -> Answer {
    let provider_not_at_hand = matches!(
        refusal,
        Refusal::ProviderMissing { .. }
            | Refusal::ProviderSealed { .. }
            | Refusal::ProviderTimedOut { .. }
            | Refusal::KekNotHere { .. }
            | Refusal::KekExpired { .. }
    );
    if !provider_not_at_hand || case.facts.policy.degraded == Permission::Deny {
        return Verdict::deny(refusal).into();
    }
    match case.carries() {
        Carries::Ask => Answer::AskHostSecret,
        // libvirt would make a new, empty TPM in place of the one that was used.
        Carries::Yes(_) if case.refuses_new_tpm() => Verdict::deny(Refusal::TpmStateMissing).into(),
        Carries::Yes(_) => {
            let mut verdict =
                Verdict::allow(Reason::HostSecret).with_finding(Finding::Degraded(refusal));
            verdict.findings.extend(case.used_tpm_replaced());
            verdict.into()
        }
        Carries::Refuted | Carries::No => Verdict::deny(refusal).into(),
    }
}

/// No key in use opens the TPM's state. A value of libvirt's that does, or that a client brings,
/// is used; a retired key that does is named.
pub(super) fn carry_or_deny(case: &Case<'_>, refusal: Refusal) -> Answer {
    if case.facts.host_secret.is_none() {
        return Answer::AskHostSecret;
    }
    if case.facts.host_value_is_proven() {
        return carried(Finding::HostValueProven).into();
    }
    if let Some(key_ref) = case.facts.proven_retired() {
        return Verdict::deny(Refusal::RetiredKeyOpensTpm { key_ref }).into();
    }
    if case.is_started_with_a_clients_key() {
        return carried(Finding::ClientsKey).into();
    }
    Verdict::deny(refusal).into()
}

/// The key that a start goes by.
pub(super) struct ChosenKey<'a> {
    pub(super) source: KeySource,
    /// Its number; `None` for one that is yet to be made.
    pub(super) dek: Option<DekNumber>,
    /// Whether the TPM's state proves it.
    pub(super) is_proven: bool,
    /// The provider that wraps it.
    pub(super) owner: &'a Provider,
}

/// Gives libvirt the key of this verdict, with what has to become of a secret that it has.
pub(super) fn give(case: &Case<'_>, mut verdict: Verdict, chosen: &ChosenKey<'_>) -> Answer {
    if let Some(refusal) = case.host_secret_refusal() {
        return Verdict::deny(refusal).into();
    }
    let key = chosen.source;
    let over = |over| ProvideSecret { key, over };
    let foreign = match &case.facts.host_secret {
        None => return Answer::AskHostSecret,
        Some(HostSecret::Foreign(foreign)) => foreign,
        Some(_) => return verdict.with_secret(over(Over::GuardsOwn)).into(),
    };
    let secret = case.secret_uuid;
    match foreign.value {
        HostValue::None => verdict.with_secret(over(Over::ForeignDefinition)).into(),
        HostValue::Known { dek, .. } if chosen.dek == Some(dek) => {
            verdict.with_secret(over(Over::TheSame)).into()
        }
        // It may be the only key of that guest's TPM.
        _ if !foreign.named_by.is_empty() => {
            let guests = foreign.named_by.clone();
            Verdict::deny(Refusal::SecretOfGuest { secret, guests }).into()
        }
        HostValue::Known { .. } if foreign.serves_anything => {
            let reason =
                "it has a value and no usage, so that it may open other things than a vTPM";
            Verdict::deny(case.conflict(reason)).into()
        }
        HostValue::Known { dek, .. } => {
            if !case.has_row_with(dek) {
                let provider = chosen.owner.uuid;
                verdict.plan(Finding::HostValueKept, Repair::KeepHostValue { provider });
            }
            verdict.with_secret(over(Over::ForeignDefinition)).into()
        }
        HostValue::Hidden => {
            // What proves a key may be an old state while another one is on its way.
            let proven = chosen.is_proven && !case.references.state_arrives;
            if proven && foreign.is_a_clients() {
                verdict.with_secret(over(Over::ForeignValue)).into()
            } else {
                verdict.with_finding(Finding::HiddenValue(secret)).into()
            }
        }
    }
}

impl Case<'_> {
    /// Whether a row of the guest, in use or retired, holds this key.
    fn has_row_with(&self, wanted: DekNumber) -> bool {
        let in_use = self.references.key_refs.iter();
        let in_use = in_use.filter_map(|row| self.facts.trials.get(&row.id));
        let mut trials = in_use.chain(self.facts.retired.values());
        trials.any(|trial| trial.dek() == Some(wanted))
    }
}
