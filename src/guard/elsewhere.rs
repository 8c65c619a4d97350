//! Before a refusal says gone, lost or missing: looks for the guest's TPM and its key under
//! other names on this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Guard;
use super::gather::Gathered;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, StateSource, TpmVersion, Vtpm};
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::kept::Shelf;
use crate::libvirt::definitions;
use crate::store::{Store, StoreError};
use crate::swtpm::{EncryptedState, StateFile, read_state, state_path};
use crate::verdict::elsewhere::{
    Elsewhere, ElsewhereKind, Kinship, OtherDomain, Relative, StateElsewhere,
};
use crate::verdict::facts::Provider;

/// How long the look may take; it never takes more than half of what is left.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// How many keys are tried on a TPM state: each takes a millisecond.
const KEYS_TRIED: usize = 500;

/// Looks. What cannot be read is not found.
pub(super) fn look(guard: &Guard, gathered: &mut Gathered, deadline: Deadline) -> Elsewhere {
    let deadline = deadline.at_most(TIME_LIMIT.min(deadline.remaining() / 2));
    let Ok(domain) = gathered.facts.domain.clone() else {
        return Elsewhere::default();
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return Elsewhere::default();
    };
    let definition = definitions::named(&guard.libvirt_definitions_dir, &domain.name);
    let is_defined = definition.is_some_and(|defined| defined.uuid == domain.uuid);
    let Some(store) = gathered.store.take() else {
        return Elsewhere {
            is_defined,
            state: state_elsewhere(guard, &domain, vtpm, None),
            ..Elsewhere::default()
        };
    };
    let look = Look {
        guard,
        domain: &domain,
        vtpm,
        store: &store,
        deadline,
    };
    let mut found = Elsewhere {
        is_defined,
        ..look.by_names().unwrap_or_default()
    };
    if let Some(state) = encrypted_state(guard, gathered, &domain, vtpm) {
        match look.owner_of(&state, gathered) {
            Ok(Some((owner, key_ref))) if owner == domain.uuid => found.retired_key = Some(key_ref),
            Ok(Some((owner, _))) => found.key_holder = look.describe(owner).ok(),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "keys of other guests were not tried"),
        }
    }
    gathered.store = Some(store);
    found
}

/// The encrypted state that the start is judged by.
fn encrypted_state(
    guard: &Guard,
    gathered: &Gathered,
    domain: &Domain,
    vtpm: &Emulator,
) -> Option<EncryptedState> {
    let state = match (gathered.facts.copy_in_place(), &gathered.copy) {
        (Some(_), Some(copy)) => copy.state(),
        _ => read_state(&guard.libvirt_state_dir, domain.uuid, vtpm),
    };
    match state {
        StateFile::Encrypted(state) => Some(state),
        _ => None,
    }
}

/// What one look works with.
struct Look<'a> {
    guard: &'a Guard,
    domain: &'a Domain,
    vtpm: &'a Emulator,
    store: &'a Store,
    deadline: Deadline,
}

impl Look<'_> {
    /// What names, UUIDs and places tell.
    fn by_names(&self) -> Result<Elsewhere, StoreError> {
        let Self { guard, domain, .. } = self;
        let seen = self.store.seen_state(domain.uuid)?;
        let seen = seen.as_ref().map(|seen| seen.path.as_path());
        Ok(Elsewhere {
            state: state_elsewhere(guard, domain, self.vtpm, seen),
            was_undefined: self.was_undefined()?,
            relative: self.relative()?,
            ..Elsewhere::default()
        })
    }

    /// libvirt deletes the directory of a guest's TPM when it is undefined, and a definition
    /// that is younger than the last start is a new one, or an edited one.
    fn was_undefined(&self) -> Result<bool, StoreError> {
        let directory = self
            .guard
            .libvirt_state_dir
            .join(self.domain.uuid.to_string());
        if self.vtpm.source.is_some() || directory.exists() {
            return Ok(false);
        }
        let definition = format!("{}.xml", self.domain.name);
        let definition = self.guard.libvirt_definitions_dir.join(definition);
        let Some(defined_at) = changed_at(&definition) else {
            return Ok(false);
        };
        let last_start = self.store.last_start(self.domain.uuid)?;
        Ok(last_start.is_some_and(|last_start| last_start < defined_at))
    }

    fn relative(&self) -> Result<Option<Relative>, StoreError> {
        if let Some(secret) = self.vtpm.secret_uuid
            && let Some(uuid) = self.other_user_of(secret)?
        {
            return self.related(uuid, Kinship::Secret).map(Some);
        }
        for uuid in self.store.users_of_name(&self.domain.name)? {
            // One that libvirt defines has another name by now: names are unique.
            if uuid != self.domain.uuid && !self.is_defined(uuid) {
                return self.related(uuid, Kinship::Name).map(Some);
            }
        }
        Ok(None)
    }

    fn related(&self, uuid: DomainUuid, by: Kinship) -> Result<Relative, StoreError> {
        let own = [TpmVersion::V1_2, TpmVersion::V2_0].map(|version| {
            let source = None;
            let vtpm = Emulator {
                version,
                source,
                ..self.vtpm.clone()
            };
            state_path(&self.guard.libvirt_state_dir, uuid, &vtpm)
        });
        let seen = self.store.seen_state(uuid)?.map(|seen| seen.path);
        let copies = Shelf::of(&self.guard.state_dir, uuid).copies();
        let has_copy = copies.is_ok_and(|(copies, _)| !copies.is_empty());
        Ok(Relative {
            domain: self.describe(uuid)?,
            by,
            has_state: has_copy || own.iter().chain(&seen).any(|path| is_filled(path)),
        })
    }

    /// Another domain with a used key whose row, or whose definition, names this secret.
    fn other_user_of(&self, secret: SecretUuid) -> Result<Option<DomainUuid>, StoreError> {
        let is_other = |uuid: &DomainUuid| *uuid != self.domain.uuid;
        if let Some(uuid) = self
            .store
            .users_of_secret(secret)?
            .into_iter()
            .find(is_other)
        {
            return Ok(Some(uuid));
        }
        for other in self.definitions_holding(&secret.to_string()) {
            let names_it = other
                .encrypted_vtpm()
                .is_some_and(|(_, named)| named == secret);
            if is_other(&other.uuid) && names_it && self.store.has_used_key(other.uuid)? {
                return Ok(Some(other.uuid));
            }
        }
        Ok(None)
    }

    fn describe(&self, uuid: DomainUuid) -> Result<OtherDomain, StoreError> {
        let defined = self.definition_of(uuid);
        Ok(OtherDomain {
            uuid,
            is_defined: defined.is_some(),
            name: match defined {
                Some(domain) => Some(domain.name),
                None => self.store.last_name(uuid)?,
            },
        })
    }

    fn is_defined(&self, uuid: DomainUuid) -> bool {
        self.definition_of(uuid).is_some()
    }

    fn definition_of(&self, uuid: DomainUuid) -> Option<Domain> {
        let holding = self.definitions_holding(&uuid.to_string());
        holding.into_iter().find(|domain| domain.uuid == uuid)
    }

    fn definitions_holding(&self, text: &str) -> Vec<Domain> {
        definitions::holding(&self.guard.libvirt_definitions_dir, text, self.deadline)
    }

    /// The domain with the key that opens this state, and the row that has it.
    fn owner_of(
        &self,
        state: &EncryptedState,
        gathered: &mut Gathered,
    ) -> Result<Option<(DomainUuid, KeyRefId)>, StoreError> {
        let providers: Vec<Provider> = self.store.providers()?;
        let (uuid, name) = (self.domain.uuid, &self.domain.name);
        let rows = self
            .store
            .keys_near(uuid, self.vtpm.secret_uuid, name, KEYS_TRIED)?;
        for row in rows {
            if self.deadline.has_passed() {
                break;
            }
            let is_tried = row.domain == uuid && row.retired_at.is_none();
            let Some(wrapped) = row.key_ref.wrapped_dek.as_ref().filter(|_| !is_tried) else {
                continue;
            };
            let keys = &mut gathered.keys;
            if keys.opens_state(&providers, wrapped, row.domain, state, self.deadline) {
                return Ok(Some((row.domain, row.key_ref.id)));
            }
        }
        Ok(None)
    }
}

/// A TPM state of this guest that its XML does not name: of the other TPM version, at libvirt's
/// own place, or where its last start found it.
#[must_use]
pub fn state_elsewhere(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    last_seen: Option<&Path>,
) -> Option<StateElsewhere> {
    let place = |vtpm: &Emulator| state_path(&guard.libvirt_state_dir, domain.uuid, vtpm);
    let wanted = place(vtpm);
    let mut candidates: Vec<(PathBuf, ElsewhereKind)> = Vec::new();
    let other_version = match vtpm.version {
        TpmVersion::V1_2 => TpmVersion::V2_0,
        TpmVersion::V2_0 => TpmVersion::V1_2,
    };
    let other = Emulator {
        version: other_version,
        ..vtpm.clone()
    };
    if !matches!(vtpm.source, Some(StateSource::File(_))) {
        candidates.push((place(&other), ElsewhereKind::OtherVersion(other_version)));
    }
    if vtpm.source.is_some() {
        for version in [vtpm.version, other_version] {
            let default = Emulator {
                version,
                source: None,
                ..vtpm.clone()
            };
            candidates.push((place(&default), ElsewhereKind::OwnDirectory));
        }
    }
    candidates.extend(last_seen.map(|path| (path.to_owned(), ElsewhereKind::LastSeen)));
    candidates
        .into_iter()
        .find(|(path, _)| *path != wanted && is_filled(path))
        .map(|(path, kind)| StateElsewhere { path, wanted, kind })
}

/// Whether there is a file with something in it.
fn is_filled(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

fn changed_at(path: &Path) -> Option<Timestamp> {
    let changed = fs::metadata(path).and_then(|found| found.modified()).ok()?;
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp)
}
