//! How this host is, as it tells the others from time to time.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, RefusedGuest, ReportClaim};
use crate::key::id::KeyId;
use crate::keyring::unlock::Unlocker;
use crate::manage::dry_start::{UnsealedKeks, check};
use crate::manage::guests::ListedGuest;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::messages::refusal_line;
use crate::store::{Membership, Store};
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
    let key_ids: Vec<_> = store.providers()?.iter().map(|it| it.key_id).collect();
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
            let (Decision::Deny(refusal), Some(domain)) =
                (checked.outcome.verdict.decision(), &checked.outcome.domain)
            else {
                continue;
            };
            refused.push(RefusedGuest {
                domain: domain.uuid,
                name: checked.name.clone(),
                code: refusal.code().as_str().to_owned(),
                message: refusal_line(checked.named(), refusal),
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
        outbox: store.outbox_len()?,
    };
    for kek in &open {
        report.prove(kek);
    }
    Ok(Claim::Report(report))
}
