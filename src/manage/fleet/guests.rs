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
    /// Whether the XML of each of them could be read.
    are_all_read: bool,
    tpm_states: std::path::PathBuf,
}

impl HostGuests {
    pub(super) fn of(libvirt: &LibvirtDirs, listed: Option<&[ListedGuest]>) -> Self {
        let all = listed.unwrap_or_default();
        let domains = all.iter().filter_map(|guest| guest.domain.as_ref().ok());
        Self {
            are_known: listed.is_some(),
            are_all_read: all.iter().all(|guest| guest.domain.is_ok()),
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

    fn opens_state(&mut self, guest: DomainUuid, dek: &Dek) -> Option<bool> {
        let Some(domain) = self.domains.get(&guest) else {
            // It may be one whose XML cannot be read.
            return self.are_all_read.then_some(false);
        };
        let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
            return Some(false);
        };
        match read_state(&self.tpm_states, guest, vtpm) {
            StateFile::Encrypted(state) => Some(state.is_opened_by(dek)),
            StateFile::Unreadable(_) => None,
            StateFile::Absent | StateFile::Plain | StateFile::Damaged(_) => Some(false),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::guests::Source;
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
        assert_eq!(opened, [Some(true), Some(false), Some(false)]);
        assert_eq!(guests.opens_state(guest.uuid, &other), Some(false));
        // Whether a key opens a state that is not encrypted nobody asks.
        fixture.plain_state(&guest);
        assert_eq!(guests.opens_state(guest.uuid, &dek), Some(false));
        // What cannot be read may be opened by it: a state, and the XML of any guest.
        let of_newer_format = [3, 3, 0, 10, 0, 0, 0, 0, 0, 11, b'x'];
        std::fs::write(fixture.state_file(&guest), of_newer_format).unwrap();
        assert_eq!(guests.opens_state(guest.uuid, &dek), None);
        let mut listed = listed;
        listed.push(ListedGuest {
            name: "unreadable".to_owned(),
            source: Source::Libvirt(elsewhere),
            domain: crate::domain::examine(&b"<domain"[..]),
        });
        let mut guests = HostGuests::of(fixture.libvirt.dirs(), Some(&listed));
        assert_eq!(guests.opens_state(elsewhere, &dek), None);
        let silent = HostGuests::of(fixture.libvirt.dirs(), None);
        assert!(!silent.are_known() && !silent.is_defined(guest.uuid));
    }
}
