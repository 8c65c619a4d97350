//! How this host is, as it tells the others from time to time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::connection::waiting;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, RefusedGuest, ReportClaim};
use crate::host::text::beginning;
use crate::key::id::KeyId;
use crate::keyring::unlock::Unlocker;
use crate::manage::dry_start::{UnsealedKeks, check};
use crate::manage::guests::ListedGuest;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::messages::refusal_line;
use crate::store::{MAX_MESSAGE, Membership, Store};
use crate::verdict::Decision;

/// How many guests that would not start a report names: a sentence each.
const MAX_REFUSED: usize = 200;

/// Makes a report. `guests`: those that libvirt lists, if it answers.
pub(super) fn report(
    host: &Host,
    store: &Store,
    member: &Membership,
    guests: Option<&[ListedGuest]>,
    keks: &UnsealedKeks,
    now: Timestamp,
) -> Result<Claim, HostError> {
    let mut unlocker = Unlocker::sharing(host.keyring(), keks.clone());
    let mut providers = store.providers()?;
    // Where there is no room for all of them: a rotation waits for the newest.
    providers.sort_by_key(|it| Reverse(it.created_at));
    let key_ids: Vec<_> = providers.iter().map(|it| it.key_id).collect();
    let open = key_ids.iter();
    let open = open.filter_map(|key_id| unlocker.kek(*key_id, default_deadline()).ok());
    let open: Vec<_> = open.collect();
    let (mut encrypted, mut refused) = (None, Vec::new());
    if let Some(guests) = guests {
        let is_encrypted = |guest: &&ListedGuest| {
            let domain = guest.domain.as_ref();
            domain.is_ok_and(|domain| domain.encrypted_vtpm().is_some())
        };
        encrypted = Some(guests.iter().filter(is_encrypted).count());
        for checked in check(host, guests, keks, &|_| {})? {
            // Also one whose XML cannot be read: libvirt lists it.
            let (Decision::Deny(refusal), Some(uuid)) =
                (checked.outcome.verdict.decision(), checked.uuid())
            else {
                continue;
            };
            refused.push(RefusedGuest {
                domain: uuid,
                name: checked.name.clone(),
                code: refusal.code().as_str().to_owned(),
                message: beginning(&refusal_line(checked.named(), refusal), MAX_MESSAGE)
                    .into_owned(),
            });
        }
        refused.truncate(MAX_REFUSED);
    }
    let mut report = ReportClaim {
        host: member.host,
        name: member.name.clone(),
        at: now.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keks: key_ids.iter().map(KeyId::to_string).collect(),
        proofs: BTreeMap::new(),
        guests: encrypted,
        refused,
        outbox: waiting(host, store)?,
    };
    for kek in &open {
        report.prove(kek);
    }
    let claim = |report: ReportClaim| Claim::Report(report).write(member.host, now);
    while !claim(report.clone()).is_sendable() && shorten(&mut report) {}
    Ok(Claim::Report(report))
}

/// Leaves out some of what a report is too long with. Returns whether there was something.
fn shorten(report: &mut ReportClaim) -> bool {
    if !report.refused.is_empty() {
        report.refused.truncate(report.refused.len() / 2);
        tracing::warn!("the report to the fleet is too long for all guests that would not start");
        return true;
    }
    // No key is left out itself: of a host that does not name a provider's present key, a rotation takes it that it does
    // not have that provider.
    let kept = report.proofs.len() * 3 / 4;
    if kept == report.proofs.len() {
        return false;
    }
    let proven = report.keks.iter();
    let proven = proven.filter(|key_id| report.proofs.contains_key(*key_id));
    for key_id in proven.skip(kept).cloned().collect::<Vec<_>>() {
        report.proofs.remove(&key_id);
    }
    tracing::warn!(
        kept,
        "the report to the fleet is too long to prove all provider keys: it proves the newest"
    );
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ids::{DomainUuid, HostUuid};

    /// A host with thousands of providers and of guests that would not start reported nothing any more.
    #[test]
    fn a_report_that_is_too_long_leaves_out_guests_and_then_the_oldest_proofs() {
        let key_id = |number: u16| {
            let mut bytes = [0; KeyId::LEN];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            KeyId::from_bytes(bytes).to_string()
        };
        let refused = RefusedGuest {
            domain: DomainUuid::random(),
            name: "vm1".to_owned(),
            code: "VG303".to_owned(),
            message: "x".repeat(MAX_MESSAGE),
        };
        let mut report = ReportClaim {
            host: HostUuid::random(),
            name: "one".to_owned(),
            at: 1,
            version: "1".to_owned(),
            keks: (0..3_000).map(key_id).collect(),
            proofs: (0..3_000).map(|it| (key_id(it), "0".repeat(64))).collect(),
            guests: Some(7),
            refused: vec![refused; MAX_REFUSED],
            outbox: 0,
        };
        let is_sendable = |report: &ReportClaim| {
            let claim = Claim::Report(report.clone());
            claim.write(report.host, Timestamp(1)).is_sendable()
        };
        let few_keys = ReportClaim {
            keks: vec![key_id(1)],
            proofs: BTreeMap::new(),
            ..report.clone()
        };
        let mut guests = few_keys;
        while !is_sendable(&guests) {
            assert!(shorten(&mut guests));
        }
        assert!(guests.refused.len() > 20 && guests.keks.len() == 1);
        while !is_sendable(&report) {
            assert!(shorten(&mut report));
        }
        assert!(report.refused.is_empty());
        let left = u16::try_from(report.proofs.len()).unwrap();
        assert!(left > 1_000, "{left}");
        assert_eq!(report.keks.len(), 3_000, "it has all of them");
        assert!(report.proofs.into_keys().eq((0..left).map(key_id)));
        report.proofs = BTreeMap::new();
        assert!(!shorten(&mut report), "nothing is left to leave out");
    }
}
