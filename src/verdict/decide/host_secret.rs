//! Starts that rest on libvirt's own secret because the guard's key cannot be had.

use super::{Case, allow, deny};
use crate::verdict::facts::{HostSecret, Permission};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Finding, Reason};

/// Refuses, unless the trouble is a provider that is not at hand, libvirt has a value, and the
/// policy lets the start rest on it.
pub(super) fn degrade_or_deny(case: &Case<'_>, refusal: Refusal) -> Answer {
    let provider_not_at_hand = matches!(
        refusal,
        Refusal::ProviderMissing { .. }
            | Refusal::ProviderSealed { .. }
            | Refusal::ProviderNotInTime { .. }
    );
    if !provider_not_at_hand || case.facts.policy.degraded == Permission::Deny {
        return deny(refusal).into();
    }
    match case.facts.host_secret {
        None => Answer::AskHostSecret,
        // libvirt would make a new, empty TPM in place of the one that was used.
        Some(HostSecret::HasValue) if case.refuses_new_tpm() => {
            deny(Refusal::TpmStateMissing).into()
        }
        Some(HostSecret::HasValue) => {
            let mut verdict = allow(Reason::HostSecret).noting(Finding::Degraded(refusal));
            verdict.findings.extend(case.used_tpm_replaced());
            verdict.into()
        }
        Some(_) => deny(refusal).into(),
    }
}
