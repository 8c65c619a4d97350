//! Guests that name one libvirt secret and have different keys: libvirt has one value for it, so
//! that only one of them can start at a time.

use std::collections::BTreeMap;

use super::guests::ListedGuest;
use super::host::{Host, HostError, default_deadline};
use crate::domain::Domain;
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::store::{Access, Store};
use crate::verdict::facts::Provider;

/// Guests with different keys under one secret.
#[derive(Debug)]
pub(crate) struct SharedSecret {
    pub(crate) secret: SecretUuid,
    /// In the order of libvirt's list.
    pub(crate) guests: Vec<Domain>,
}

/// Returns the secrets that several of these guests name under different keys. Guests whose keys cannot
/// be compared, and guests that share libvirt's own value, are left alone. Provider keys that are among
/// `keks` are not opened again.
pub(crate) fn find(
    host: &Host,
    guests: &[ListedGuest],
    keks: &UnsealedKeks,
) -> Result<Vec<SharedSecret>, HostError> {
    let mut by_secret = BTreeMap::<SecretUuid, Vec<&Domain>>::new();
    for domain in guests.iter().filter_map(|guest| guest.domain.as_ref().ok()) {
        if let Some((_, secret)) = domain.encrypted_vtpm() {
            by_secret.entry(secret).or_default().push(domain);
        }
    }
    by_secret.retain(|_, domains| domains.len() > 1);
    if by_secret.is_empty() {
        return Ok(Vec::new());
    }
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let providers = store.providers()?;
    let mut unlocker = Unlocker::sharing(host.keyring(), keks.clone());
    let mut shared = Vec::new();
    for (secret, domains) in by_secret {
        if differ(&mut unlocker, &store, &providers, &domains)? {
            let guests = domains.into_iter().cloned().collect();
            shared.push(SharedSecret { secret, guests });
        }
    }
    Ok(shared)
}

/// Whether two of these guests have keys that open, and none of one is one of the other's; or
/// one has such a key and the other is yet to get its own.
fn differ(
    unlocker: &mut Unlocker,
    store: &Store,
    providers: &[Provider],
    domains: &[&Domain],
) -> Result<bool, HostError> {
    let mut first: Option<Vec<Dek>> = None;
    let mut is_to_be_made = false;
    for domain in domains {
        let rows = store.all_key_refs(Some(domain.uuid), false)?;
        let has_key = rows.iter().any(|row| row.key_ref.wrapped_dek.is_some());
        is_to_be_made |= !rows.is_empty() && !has_key;
        let rows = rows.into_iter().map(|row| row.key_ref);
        let opened = unlocker.open_rows(rows, providers, domain.uuid, default_deadline());
        let deks: Vec<_> = opened.into_iter().map(|key| key.dek).collect();
        match &first {
            _ if deks.is_empty() => {}
            None => first = Some(deks),
            Some(known)
                if known
                    .iter()
                    .any(|one| deks.iter().any(|dek| one.same_as(dek))) => {}
            Some(_) => return Ok(true),
        }
    }
    Ok(first.is_some() && is_to_be_made)
}
