//! The JSON of outcomes and repairs. Its keys are a contract: docs/json.md.

use serde_json::{Value, json};

use super::{Named, finding, reason, refusal};
use crate::domain::{Domain, Emulator, TpmVersion, Vtpm};
use crate::verdict::facts::TpmState;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Decision, Finding};

/// The value of `from` for a key that was not generated.
const HOST_SECRET: &str = "host-secret";

/// One outcome, as `check`, `repair` and `replay` print it. Where the XML cannot be read, `called` says whose it is, as far
/// as libvirt does.
#[must_use]
pub fn outcome_json(called: Option<Named<'_>>, outcome: &Outcome) -> Value {
    let known = outcome.domain.as_ref().map(Named::from).or(called);
    let guest = known.unwrap_or(Named::from(""));
    let (decision, code, message, hint) = match outcome.verdict.decision() {
        Decision::Allow(why) => ("allow", None, reason(*why).to_owned(), String::new()),
        Decision::Deny(why) => {
            let words = refusal(guest, why);
            ("deny", Some(why.code().as_str()), words.message, words.hint)
        }
    };
    let findings: Vec<_> = outcome
        .verdict
        .findings()
        .iter()
        .map(|found| finding_json(guest, found))
        .collect();
    let secret = outcome.domain.as_ref().and_then(Domain::encrypted_vtpm);
    json!({
        "decision": decision,
        "code": code,
        "message": message,
        "hint": hint,
        "domain": known.map(|guest| json!({
            "name": guest.name,
            "uuid": guest.uuid.map(|uuid| uuid.to_string()),
        })),
        "vtpm": outcome.domain.as_ref().and_then(|domain| vtpm_json(domain, &outcome.state)),
        "findings": findings,
        "repairs": repairs_json(outcome.verdict.repairs()),
        "secret": {
            "uuid": secret.map(|(_, uuid)| uuid.to_string()),
            "action": match outcome.secret {
                SecretAction::None => "none",
                SecretAction::Set => "set",
                SecretAction::Defined => "defined",
            },
        },
        "dry_run": outcome.dry_run,
    })
}

/// Repairs as a list of `{"kind", "key_ref", …}`.
#[must_use]
pub fn repairs_json(repairs: &[Repair]) -> Value {
    repairs.iter().map(repair_json).collect()
}

fn repair_json(repair: &Repair) -> Value {
    let mut json = json!({
        "kind": repair.kind(),
        "key_ref": repair.key_ref().map(|id| id.0),
    });
    match repair {
        Repair::RebindProvider {
            provider,
            provider_name,
            ..
        }
        | Repair::BindProvider {
            provider,
            provider_name,
            ..
        } => {
            json["provider_uuid"] = provider.to_string().into();
            json["provider_name"] = provider_name.as_str().into();
        }
        Repair::CreateKey {
            provider, origin, ..
        } => {
            json["provider_uuid"] = provider.to_string().into();
            if *origin == KeyOrigin::HostSecret {
                json["from"] = HOST_SECRET.into();
            }
        }
        Repair::LearnKey { key } => {
            json["provider_uuid"] = key.provider_uuid.map(|uuid| uuid.to_string()).into();
            json["provider_name"] = key.provider_name.as_str().into();
            json["generation"] = key.generation().0.into();
        }
        Repair::KeepHostValue { provider } => {
            json["provider_uuid"] = provider.to_string().into();
            json["from"] = HOST_SECRET.into();
        }
        Repair::DeleteDuplicate { kept, .. } => json["kept"] = kept.map(|kept| kept.0).into(),
        Repair::FillKeyVersion { key_version, .. } => json["key_version"] = (*key_version).into(),
        Repair::FillKekRef { kek_ref, .. } => json["kek_ref"] = kek_ref.as_str().into(),
        Repair::SetSecretUuid { secret_uuid, .. } => {
            json["secret_uuid"] = secret_uuid.to_string().into();
        }
        Repair::RestoreTpmState { reason, saved_at } => {
            json["occasion"] = reason.as_str().into();
            json["kept_at"] = saved_at.0.into();
        }
        Repair::DeletePlaceholder { .. } | Repair::RetireKey { .. } => {}
    }
    json
}

fn finding_json(guest: Named<'_>, found: &Finding) -> Value {
    let (kind, message) = finding(guest, found);
    let mut json = json!({ "kind": kind, "message": message });
    match found {
        Finding::OrphanPlaceholder(id)
        | Finding::DuplicateKey(id)
        | Finding::UnusableKey(id)
        | Finding::IncompleteRow(id)
        | Finding::XmlKeyPreferred(id)
        | Finding::FleetKeyPreferred(id)
        | Finding::ProviderLost { key_ref: id, .. } => json["key_ref"] = id.0.into(),
        Finding::StateGone { saved_at, .. } => json["kept_at"] = saved_at.0.into(),
        Finding::StateArrives {
            arrival,
            first_used_at,
        } => {
            json["arrival"] = arrival.as_str().into();
            json["first_used_at"] = first_used_at.map(|at| at.0).into();
        }
        Finding::RunsElsewhere(runs_on) => {
            json["host"] = runs_on.host.clone().into();
            json["since"] = runs_on.since.0.into();
        }
        Finding::Degraded(why) | Finding::FleetKeyOutOfReach(why) => {
            json["code"] = why.code().as_str().into();
        }
        _ => {}
    }
    json
}

fn vtpm_json(domain: &Domain, state: &TpmState) -> Option<Value> {
    let backend = match domain.vtpm.as_ref()? {
        Vtpm::Emulator(vtpm) => return Some(emulator_json(vtpm, state)),
        Vtpm::Passthrough => "passthrough",
        Vtpm::External => "external",
    };
    Some(json!({ "backend": backend, "version": null, "secret_uuid": null, "state": null }))
}

fn emulator_json(vtpm: &Emulator, state: &TpmState) -> Value {
    json!({
        "backend": "emulator",
        "version": match vtpm.version {
            TpmVersion::V1_2 => "1.2",
            TpmVersion::V2_0 => "2.0",
        },
        "secret_uuid": vtpm.secret_uuid.map(|uuid| uuid.to_string()),
        "state": match state {
            TpmState::Absent => "absent",
            TpmState::Plain => "plain",
            TpmState::Encrypted => "encrypted",
            TpmState::Damaged(_) => "damaged",
            TpmState::Unreadable(_) => "unreadable",
        },
    })
}
