//! Where a guest's TPM state is: where its XML has it, or, for a guest that libvirt does not
//! know, where its last start found it, or at libvirt's own place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host::Host;
use crate::clock::Deadline;
use crate::domain::{self, Domain, Emulator, StateSource, TpmVersion, Vtpm};
use crate::ids::DomainUuid;
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::staging::DefinitionFiles;
use crate::swtpm::{StateFile, read_state, state_path};

/// How long libvirt may take to show the XML of a guest, without which there are other answers.
const DEADLINE_FOR_XML: Duration = Duration::from_secs(5);

/// A TPM state, and where it was looked for.
pub(crate) struct TpmPlace {
    pub(crate) path: PathBuf,
    pub(crate) state: StateFile,
}

impl Host {
    /// The guest's definition and its emulated TPM, where libvirt knows it. Where libvirt does not answer, its files say:
    /// without an answer a guest is not taken for one that is not defined.
    pub(crate) fn definition(&self, uuid: DomainUuid) -> Option<(Domain, Emulator)> {
        self.definition_by(&self.ask_definition(uuid), uuid)
    }

    /// What libvirt has of this guest.
    pub(crate) fn ask_definition(&self, uuid: DomainUuid) -> Result<Option<Guest>, SecretError> {
        self.libvirt()
            .guest(uuid, Deadline::after(DEADLINE_FOR_XML))
    }

    /// Whether libvirt knows the guest, by the same answer; where there is none, its files say.
    pub(crate) fn is_defined_by(
        &self,
        answer: &Result<Option<Guest>, SecretError>,
        uuid: DomainUuid,
    ) -> bool {
        match answer {
            Ok(guest) => guest.is_some(),
            Err(_) => DefinitionFiles::from(&self.libvirt_dirs())
                .defined_as(uuid)
                .is_some(),
        }
    }

    /// The same by what libvirt has answered about this guest.
    pub(crate) fn definition_by(
        &self,
        answer: &Result<Option<Guest>, SecretError>,
        uuid: DomainUuid,
    ) -> Option<(Domain, Emulator)> {
        let domain = match answer {
            Ok(guest) => domain::read(guest.as_ref()?.xml.as_bytes()).ok()?,
            Err(_) => DefinitionFiles::from(&self.libvirt_dirs()).defined_as(uuid)?,
        };
        match domain.vtpm.clone() {
            Some(Vtpm::Emulator(vtpm)) => Some((domain, vtpm)),
            _ => None,
        }
    }
}

/// Looks where the XML has it, then at the other places. Where no state is, the place is that of
/// the XML, else libvirt's own.
pub(crate) fn find(
    libvirt_state_dir: &Path,
    uuid: DomainUuid,
    vtpm: Option<&Emulator>,
    last_seen: Option<&Path>,
) -> TpmPlace {
    let look = |vtpm: &Emulator| TpmPlace {
        path: state_path(libvirt_state_dir, uuid, vtpm),
        state: read_state(libvirt_state_dir, uuid, vtpm),
    };
    let of_version = |version, source| Emulator {
        version,
        secret_uuid: None,
        persistent_state: false,
        source,
    };
    let versions = [TpmVersion::V2_0, TpmVersion::V1_2];
    let own = versions.map(|version| look(&of_version(version, None)));
    let seen = last_seen.into_iter().flat_map(|path| {
        let directory = path.parent().unwrap_or(path).to_owned();
        versions.map(|version| {
            let source = Some(StateSource::Dir(directory.clone()));
            look(&of_version(version, source))
        })
    });
    let named = vtpm.map(look);
    let mut places: Vec<_> = named.into_iter().chain(own).chain(seen).collect();
    let is_there = |place: &TpmPlace| !matches!(place.state, StateFile::Absent);
    let found = places.iter().position(is_there).unwrap_or(0);
    places.swap_remove(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");

    fn put(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, PLAIN).unwrap();
    }

    #[test]
    fn the_xml_says_where_and_without_one_what_is_there_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = DomainUuid::random();
        let own = dir.path().join(uuid.to_string());
        let elsewhere = dir.path().join("elsewhere");
        let find = |vtpm: Option<&Emulator>| {
            let seen = elsewhere.join("tpm2-00.permall");
            super::find(dir.path(), uuid, vtpm, Some(&seen))
        };
        let nothing = find(None);
        assert!(matches!(nothing.state, StateFile::Absent));
        assert_eq!(nothing.path, own.join("tpm2/tpm2-00.permall"));

        put(&elsewhere.join("tpm2-00.permall"));
        assert_eq!(find(None).path, elsewhere.join("tpm2-00.permall"));
        put(&own.join("tpm1.2/tpm-00.permall"));
        assert_eq!(find(None).path, own.join("tpm1.2/tpm-00.permall"));
        put(&own.join("tpm2/tpm2-00.permall"));
        assert_eq!(find(None).path, own.join("tpm2/tpm2-00.permall"));

        let vtpm = Emulator {
            version: TpmVersion::V2_0,
            secret_uuid: None,
            persistent_state: false,
            source: Some(StateSource::Dir(elsewhere.clone())),
        };
        let named = find(Some(&vtpm));
        assert_eq!(named.path, elsewhere.join("tpm2-00.permall"));
        assert!(matches!(named.state, StateFile::Plain));
        fs::remove_file(&named.path).unwrap();
        assert_eq!(find(Some(&vtpm)).path, own.join("tpm2/tpm2-00.permall"));
        fs::remove_dir_all(&own).unwrap();
        assert_eq!(find(Some(&vtpm)).path, elsewhere.join("tpm2-00.permall"));
    }
}
