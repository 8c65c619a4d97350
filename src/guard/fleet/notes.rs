//! What a run leaves for the fleet: where the guest is, and the state of its TPM.

use crate::clock::Timestamp;
use crate::config::FleetStates;
use crate::domain::Domain;
use crate::fleet::MAX_STATE;
use crate::fleet::tpm_state::StateNote;
use crate::guard::context::Guard;
use crate::guard::copies::libvirt_would_delete;
use crate::store::{QueuedState, Store, StoreError};
use crate::swtpm::StateFile;
use crate::tpm_copies::LiveState;
use crate::verdict::facts::TransientState;

/// Notes that the guest runs here.
pub(in crate::guard) fn note_start(
    guard: &Guard,
    domain: &Domain,
    store: &mut Store,
) -> Result<(), StoreError> {
    if !guard.may_be_in_fleet() || !store.has_key_refs(domain.uuid)? {
        return Ok(());
    }
    let now = Timestamp::now();
    store.note_placement(domain.uuid, &domain.name, true, now)
}

/// Notes on a host of a fleet that its run is over. `stopped`: it did not move away, and its TPM is here.
pub(in crate::guard) fn note_end(
    guard: &Guard,
    domain: &Domain,
    stopped: bool,
    store: &mut Store,
) -> Result<(), StoreError> {
    let now = Timestamp::now();
    store.note_end_of_run(domain.uuid, &domain.name, now)?;
    if stopped && guard.config.fleet.states == FleetStates::Stopped {
        queue_state(guard, domain, store, now)?;
    }
    Ok(())
}

/// Queues the guest's TPM state for the shared store, if it is encrypted.
fn queue_state(
    guard: &Guard,
    domain: &Domain,
    store: &mut Store,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    // Its next run is to have a new TPM, on whichever host.
    let is_fresh = guard.config.policy.transient_state == TransientState::Fresh;
    if is_fresh && libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    if !store.has_key_refs(domain.uuid)? {
        return Ok(());
    }
    let states = guard.config.libvirt.tpm_states();
    let live = match LiveState::read(&states, domain.uuid, vtpm) {
        Ok(live) => live,
        Err(error) => {
            tracing::warn!(domain = domain.name, %error, "its TPM state is not given to the fleet");
            return Ok(());
        }
    };
    let is_encrypted = |live: &LiveState| matches!(live.state(), StateFile::Encrypted(_));
    let Some(live) = live.filter(is_encrypted) else {
        return Ok(());
    };
    let length = live.bytes().len();
    if length > MAX_STATE {
        tracing::warn!(
            domain = domain.name,
            length,
            "its TPM state is too long for the fleet's store"
        );
        return Ok(());
    }
    let note = StateNote {
        name: domain.name.clone(),
        tpm_version: vtpm.version,
        backend: live.backend(),
    };
    store.queue_state(&QueuedState {
        domain: domain.uuid,
        at: now,
        body: note.to_json(),
        data: live.bytes().to_vec(),
    })
}
