//! What the exchange has to know of this host's guests.

use std::collections::BTreeMap;

use super::exchange::Guests;
use crate::domain::{Domain, Vtpm};
use crate::host::dirs::LibvirtDirs;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::manage::guests::ListedGuest;
use crate::swtpm::{StateFile, read_state};

/// The guests that libvirt lists, if it answers.
pub(super) struct HostGuests {
    /// Whether libvirt answered.
    are_known: bool,
    domains: BTreeMap<DomainUuid, Domain>,
    tpm_states: std::path::PathBuf,
}

impl HostGuests {
    pub(super) fn of(libvirt: &LibvirtDirs, listed: Option<&[ListedGuest]>) -> Self {
        let all = listed.unwrap_or_default();
        let domains = all.iter().filter_map(|guest| guest.domain.as_ref().ok());
        Self {
            are_known: listed.is_some(),
            domains: domains
                .map(|domain| (domain.uuid, domain.clone()))
                .collect(),
            tpm_states: libvirt.tpm_states(),
        }
    }
}

impl Guests for HostGuests {
    fn are_known(&self) -> bool {
        self.are_known
    }

    fn defined(&self) -> Vec<DomainUuid> {
        self.domains.keys().copied().collect()
    }

    fn is_defined(&self, guest: DomainUuid) -> bool {
        self.domains.contains_key(&guest)
    }

    fn opens_state(&mut self, guest: DomainUuid, dek: &Dek) -> bool {
        let domain = self.domains.get(&guest);
        let Some(Vtpm::Emulator(vtpm)) = domain.and_then(|domain| domain.vtpm.as_ref()) else {
            return false;
        };
        match read_state(&self.tpm_states, guest, vtpm) {
            StateFile::Encrypted(state) => state.is_opened_by(dek),
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn the_guests_of_this_host_are_those_that_libvirt_lists_and_their_states_are_tried() {
        let fixture = Fixture::new();
        let (guest, stateless) = (fixture.define("vm1"), fixture.define("vm2"));
        let (dek, other) = (Dek::generate().unwrap(), Dek::generate().unwrap());
        fixture.encrypt_state(&guest, &dek);
        let elsewhere = DomainUuid::random();
        let listed = fixture.host.listed_guests().unwrap();
        let mut guests = HostGuests::of(fixture.libvirt.dirs(), Some(&listed));
        assert!(guests.are_known());
        assert_eq!(guests.defined().len(), 2);
        assert!(guests.is_defined(guest.uuid) && !guests.is_defined(elsewhere));
        let opened = [guest.uuid, stateless.uuid, elsewhere].map(|it| guests.opens_state(it, &dek));
        assert_eq!(opened, [true, false, false]);
        assert!(!guests.opens_state(guest.uuid, &other));
        // Whether a key opens a state that is not encrypted nobody asks.
        fixture.plain_state(&guest);
        assert!(!guests.opens_state(guest.uuid, &dek));
        let silent = HostGuests::of(fixture.libvirt.dirs(), None);
        assert!(!silent.are_known() && !silent.is_defined(guest.uuid));
    }
}
