//! The copies that may be restored, and for which guests copies are saved.

use crate::domain::{Domain, Emulator};
use crate::guard::context::Guard;
use crate::guard::restore::instead_of_a_copy;
use crate::swtpm::{StateFile, StatePath};
use crate::tpm_copies::{CopyError, RunRecord, SavedCopy, may_be_set_aside};

/// The copies that may replace a missing state.
#[derive(Default)]
pub(in crate::guard) struct AvailableCopies {
    /// The latest first.
    pub(in crate::guard) copies: Vec<(SavedCopy, StateFile)>,
    /// Whether the last run of a transient guest ended normally.
    pub(in crate::guard) ended_normally: bool,
    /// Why a copy could not be looked at, unless it is damaged for good.
    pub(in crate::guard) unreadable: Option<String>,
    /// The record of that run.
    pub(in crate::guard) run: RunRecord,
}

/// Returns the copies that may replace a missing state. Those that cannot be read are left out, and `state list` reports
/// them; where another time may be better, the start waits for it.
pub(in crate::guard) fn available_copies(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
) -> AvailableCopies {
    let copy_store = guard.copy_store(domain);
    if !copy_store.exists() {
        return AvailableCopies::default();
    }
    let (copies, unreadable) = copy_store
        .available_copies()
        .unwrap_or_else(|error| (Vec::new(), vec![error]));
    let for_now = unreadable.iter().find(|error| error.may_be_readable());
    let for_now = for_now.map(CopyError::to_string);
    for error in unreadable {
        tracing::warn!(domain = domain.name, %error, "a saved copy of the TPM state is not used");
    }
    let with_state = |copy: SavedCopy| {
        let state = copy.state();
        (copy, state)
    };
    let is_state = |state: &StateFile| matches!(state, StateFile::Plain | StateFile::Encrypted(_));
    let copies = copies.into_iter().map(with_state);
    let run = copy_store.known_run().unwrap_or_else(RunRecord::unknown);
    AvailableCopies {
        copies: copies.filter(|(_, state)| is_state(state)).collect(),
        unreadable: for_now,
        ended_normally: libvirt_would_delete(guard, domain, vtpm) && run.ended_normally,
        run,
    }
}

impl AvailableCopies {
    /// Leaves out the copies that cannot take the place of a damaged state, because what has its path is not
    /// known as the guest's. If none is left, the state says why.
    pub(in crate::guard) fn for_the_place_of(
        mut self,
        guard: &Guard,
        domain: &Domain,
        vtpm: &Emulator,
        state: StateFile,
    ) -> (Self, StateFile) {
        let StateFile::Damaged(damage) = &state else {
            return (self, state);
        };
        let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
        let mut why_not = None;
        self.copies.retain(|(copy, _)| {
            let may_be = may_be_set_aside(&place, &copy.manifest);
            may_be.map_err(|error| why_not = Some(error)).is_ok()
        });
        let state = match why_not {
            Some(why) if self.copies.is_empty() => {
                StateFile::Damaged(instead_of_a_copy(damage, &why))
            }
            _ => state,
        };
        (self, state)
    }
}

/// Returns whether libvirt deletes the TPM state when the guest stops or its start fails: the guest
/// is transient, and its state is not to persist (libvirt 9.0 to 12: `qemuDomainRemoveInactive`,
/// `qemuExtTPMCleanupHost`).
pub(in crate::guard) fn libvirt_would_delete(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
) -> bool {
    !vtpm.persistent_state && is_transient(guard, domain)
}

/// Whether libvirt has no definition of the guest. One that cannot be checked counts as missing: a superfluous
/// copy does no harm.
pub(super) fn is_transient(guard: &Guard, domain: &Domain) -> bool {
    let definition = format!("{}.xml", domain.name);
    !guard.config.libvirt.definitions().join(definition).exists()
}

/// The guest's encrypted vTPM, if libvirt deletes its state.
pub(super) fn encrypted_and_deleted<'d>(guard: &Guard, domain: &'d Domain) -> Option<&'d Emulator> {
    let (vtpm, _) = domain.encrypted_vtpm()?;
    libvirt_would_delete(guard, domain, vtpm).then_some(vtpm)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;
    use crate::ids::{DomainUuid, SecretUuid};
    use crate::key::dek::Dek;
    use crate::manage::host::BrokenConfig;
    use crate::manage::tests::fixture::Fixture;
    use crate::swtpm::read_state;

    /// One that was saved when the state was elsewhere does not make what has its path the guest's.
    #[test]
    fn why_a_copy_cannot_take_the_place_of_a_damaged_state_is_said_where_none_can() {
        let fixture = Fixture::new();
        let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
        let elements = format!(
            "<encryption secret='{secret}'/><source type='dir' path='{}'/>",
            fixture.root().join("vm1").display()
        );
        let guest = fixture.define_with("vm1", uuid, secret, &elements);
        fixture.encrypt_state(&guest, &Dek::generate().unwrap());
        fixture.save_copy(&guest);
        fs::write(fixture.state_file(&guest), "damaged").unwrap();
        let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
        let domain = fixture.domain(&guest);
        let (vtpm, _) = domain.encrypted_vtpm().unwrap();
        let state = || read_state(&guard.config.libvirt.tpm_states(), uuid, vtpm);
        let saved_elsewhere = || {
            let mut available = available_copies(&guard, &domain, vtpm);
            available.copies[0].0.manifest.path = "/elsewhere".into();
            available
        };
        let how = |state: &StateFile| match state {
            StateFile::Damaged(damage) => damage.how.clone(),
            other => panic!("{other:?}"),
        };
        let (left, why) = saved_elsewhere().for_the_place_of(&guard, &domain, vtpm, state());
        assert!(left.copies.is_empty());
        assert!(how(&why).contains("cannot take its place"), "{why:?}");
        // Another one can.
        let mut both = saved_elsewhere();
        both.copies
            .append(&mut available_copies(&guard, &domain, vtpm).copies);
        let (left, why) = both.for_the_place_of(&guard, &domain, vtpm, state());
        assert_eq!((left.copies.len(), how(&why)), (1, how(&state())));
    }
}
