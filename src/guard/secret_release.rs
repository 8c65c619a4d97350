//! Drops the host secret of a guest once its start, or its run, is over.

use super::context::Guard;
use super::{lease, start_note};
use crate::clock::Deadline;
use crate::config::Lifetime;
use crate::domain::Domain;
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::store::StoreError;

/// Drops the host secret of a guest that is gone, before anything else: what follows reads the
/// TPM state, and swtpm's user may have put something in its place that takes all the time.
pub(super) fn drop_first(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), SecretError> {
    let Some((_, secret)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    // The other half of the time is for what follows.
    let half = deadline.half();
    let managed = guard.with_store(half, |store| store.has_key_refs(domain.uuid));
    if may_be_managed(&managed) {
        let is_over = guard.config.secret_lifetime != Lifetime::Keep
            && start_note::may_have_provided(guard, domain);
        release(guard, domain, secret, is_over, half)?;
    }
    Ok(())
}

/// Whether libvirt may have a secret of the guard's. If the store does not answer, it may: the
/// secret's usage name is checked before it is dropped.
pub(super) fn may_be_managed(has_key_refs: &Result<bool, StoreError>) -> bool {
    !matches!(has_key_refs, Ok(false))
}

/// Ends the use of the secret for this guest's start. Drops the secret if `is_over` (its lifetime
/// in the configuration has ended) and no other guest is being started with it.
pub(super) fn release(
    guard: &Guard,
    domain: &Domain,
    secret: SecretUuid,
    is_over: bool,
    deadline: Deadline,
) -> Result<(), SecretError> {
    let Some(secrets) = guard.secrets.as_ref().filter(|_| !guard.libvirt_starts) else {
        return Ok(());
    };
    let until = guard.for_libvirt(deadline);
    let drop_it = |defined_for| {
        if is_over {
            secrets.drop_own(secret, defined_for, until).map(drop)
        } else {
            Ok(())
        }
    };
    match lease::release(&guard.run_dir.leases(), secret, domain.uuid, until, drop_it) {
        Ok(dropped) => dropped.unwrap_or(Ok(())),
        Err(error) => {
            tracing::warn!(%secret, %error, "it is unknown which guests are being started with the secret");
            drop_it(domain.uuid)
        }
    }
}
