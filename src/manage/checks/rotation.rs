//! Rotations of provider keys that were interrupted.

use super::{Finding, KeyFinding};
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::manage::fleet::rotation::is_begun;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::provider_rotate::{MissedRows, missed_rows};
use crate::store::{Access, KeyRefRecord, Store};
use crate::verdict::facts::Provider;

/// What cannot be read, or does not open, is reported as such.
pub(super) fn examine(host: &Host, keks: &UnsealedKeks) -> Vec<Finding> {
    let found = findings(host, keks).unwrap_or_default();
    found.into_iter().map(Finding::from).collect()
}

fn findings(host: &Host, keks: &UnsealedKeks) -> Result<Vec<KeyFinding>, HostError> {
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let mut unlocker = Unlocker::sharing(host.keyring(), keks.clone());
    let mut found = Vec::new();
    for provider in store.providers()? {
        if provider.previous_key_of().is_some() {
            continue;
        }
        if is_begun(&store, &provider, &mut unlocker)? {
            found.push(KeyFinding::RotationBegun(provider.clone()));
        }
        let key_refs = left(&store, &provider, &mut unlocker)?;
        if key_refs > 0 {
            found.push(KeyFinding::RotationUnfinished { provider, key_refs });
        }
    }
    Ok(found)
}

/// How many key references the next `provider rotate` re-wraps instead of making a key: those that open.
fn left(store: &Store, provider: &Provider, unlocker: &mut Unlocker) -> Result<usize, HostError> {
    let mut opens = |row: &KeyRefRecord| {
        let wrapped = row.key_ref.wrapped_dek.as_ref();
        wrapped.is_some_and(|it| unlocker.open(it, row.domain, default_deadline()).is_ok())
    };
    let missed = missed_rows(store, provider)?;
    let of_key = |missed: &MissedRows| missed.rows.iter().filter(|row| opens(row)).count();
    Ok(missed.iter().map(of_key).sum())
}
