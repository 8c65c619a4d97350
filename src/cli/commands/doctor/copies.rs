//! Kept copies of TPM state: do they still serve a guest that comes back?

use super::Ailment;
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::messages::{Arg, label};
use crate::store::Access;
use crate::tpm_copies::{self, CopyStore, SavedCopy};

/// How old a copy may be before it is told of, in milliseconds: 90 days.
const OLD_MS: i64 = 90 * 24 * 60 * 60 * 1000;

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    let domains = match tpm_copies::domains(context.host.state_dir()) {
        Ok(domains) => domains,
        Err(error) => return vec![unreadable(&error.to_string())],
    };
    domains
        .into_iter()
        .flat_map(|domain| of_domain(context, domain))
        .collect()
}

fn of_domain(context: &Context, domain: DomainUuid) -> Vec<Ailment> {
    let (copies, damaged) = match CopyStore::of(context.host.state_dir(), domain).copies() {
        Ok(found) => found,
        Err(error) => return vec![unreadable(&error.to_string())],
    };
    let mut found: Vec<_> = damaged
        .iter()
        .map(|error| unreadable(&error.to_string()))
        .collect();
    found.extend(old(context, domain, &copies));
    found
}

fn old(context: &Context, domain: DomainUuid, copies: &[SavedCopy]) -> Option<Ailment> {
    let newest = copies.iter().map(|copy| copy.manifest.kept_at()).max()?;
    if Timestamp::now().0.saturating_sub(newest.0) < OLD_MS {
        return None;
    }
    // A store that cannot be read is told of elsewhere.
    let store = context.host.store(Access::Read).ok().flatten();
    let name = store.and_then(|store| store.last_name(domain).ok().flatten());
    let name = name.map_or_else(|| domain.to_string(), |name| label(&name));
    Some(Ailment::advice(
        format!(
            "the copy of the TPM's state of {} was kept at {}, and the guest has not come back",
            name,
            answer::time(Some(newest))
        ),
        "if it never does, the copy is of no more use",
        format!(
            "vtpm-guard state show {0}; if it never comes back: vtpm-guard state drop {0}",
            Arg::uuid(domain)
        ),
    ))
}

fn unreadable(why: &str) -> Ailment {
    Ailment::fault(
        format!("a kept copy of TPM state cannot be used: {why}"),
        "should the state of that guest be gone, its next start is refused",
        "vtpm-guard state list",
    )
}
