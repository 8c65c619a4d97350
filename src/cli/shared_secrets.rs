//! Guests that name one libvirt secret and have different keys: libvirt has one value for it, so
//! that only one of them can start at a time.

use std::collections::BTreeMap;

use super::context::Context;
use crate::cli::ui::error::CommandError;
use crate::domain::Domain;
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::keyring::unlock::Unlocker;
use crate::manage::guests::ListedGuest;
use crate::manage::host::default_deadline;
use crate::messages::{Arg, label};
use crate::store::{Access, Store};
use crate::verdict::facts::Provider;

/// Guests with different keys under one secret.
pub(crate) struct SharedSecret {
    secret: SecretUuid,
    /// In the order of libvirt's list.
    guests: Vec<Domain>,
}

impl SharedSecret {
    /// What is wrong.
    pub(crate) fn what(&self) -> String {
        let names: Vec<_> = self.guests.iter().map(|guest| label(&guest.name)).collect();
        format!(
            "{} name the libvirt secret {} and have different keys",
            names.join(", "),
            self.secret
        )
    }

    /// What helps.
    pub(crate) fn command(&self) -> String {
        let (Some(last), secret) = (self.guests.last(), SecretUuid::random()) else {
            return String::new();
        };
        format!(
            "give each of them a secret UUID of its own: virsh edit {}, <encryption \
             secret='{secret}'/>",
            Arg::guest(last)
        )
    }
}

/// The secrets that several of these guests name under different keys. Guests whose keys cannot
/// be compared, and guests that share libvirt's own value, are left alone.
pub(crate) fn find(
    context: &Context,
    guests: &[ListedGuest],
) -> Result<Vec<SharedSecret>, CommandError> {
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
    let Some(store) = context.host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let providers = store.providers()?;
    let mut unlocker = Unlocker::new(&context.host.keyring());
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
) -> Result<bool, CommandError> {
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
