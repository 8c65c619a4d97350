//! Searches this host for the guest's TPM and its key under other names, before a refusal reports
//! them as missing.

use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::context::Guard;
use super::gather::Gathered;
use super::keys::Keys;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, StateSource, TpmVersion, Vtpm};
use crate::host::bounded::bounded;
use crate::ids::{DomainUuid, SecretUuid};
use crate::staging::DefinitionIndex;
use crate::store::{Store, StoreError};
use crate::swtpm::{EncryptedState, StateFile, state_path};
use crate::tpm_copies::CopyStore;
use crate::verdict::elsewhere::{
    Elsewhere, ElsewhereKind, OtherGuest, RelatedGuest, Relation, Search, SearchCut, StateElsewhere,
};

/// How long the search may take; it never takes more than half of the remaining time.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// How many keys are tried on a TPM state: each takes a millisecond.
const KEYS_TRIED: usize = 500;

/// Searches. A file that cannot be looked at counts as not found; where the store or libvirt's definitions do not
/// answer in time, the result says so, for they may have the guest under another name.
pub(super) fn find(
    guard: &Guard,
    gathered: &mut Gathered,
    wanted: Search,
    of_start: Deadline,
) -> Elsewhere {
    let limit = of_start.half().at_most(TIME_LIMIT);
    if wanted == Search::Definition {
        return find_definition(guard, gathered, limit);
    }
    let found = find_until(guard, gathered, limit);
    if let Some(store) = &mut gathered.store
        && let Err(error) = store.set_deadline(guard.patient(of_start.half()))
    {
        tracing::warn!(%error, "the store keeps the deadline of a search");
    }
    found
}

/// Finds out only whether libvirt knows the guest. Where its definitions cannot be read, it counts as known: no refusal
/// may deny it.
fn find_definition(guard: &Guard, gathered: &Gathered, deadline: Deadline) -> Elsewhere {
    let Ok(domain) = &gathered.facts.domain else {
        return Elsewhere::default();
    };
    let is_defined = match guard.definitions(deadline) {
        Ok(definitions) => definitions.defined_as(domain.uuid).is_some(),
        Err(error) => {
            tracing::warn!(%error, "libvirt's definitions of its guests could not be read");
            true
        }
    };
    Elsewhere {
        is_defined,
        ..Elsewhere::default()
    }
}

fn find_until(guard: &Guard, gathered: &mut Gathered, deadline: Deadline) -> Elsewhere {
    let Gathered {
        facts,
        keys,
        store,
        state,
        ..
    } = gathered;
    let Ok(domain) = &facts.domain else {
        return Elsewhere::default();
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return Elsewhere::default();
    };
    let cut = |why, seen: Option<&Path>| {
        tracing::warn!(
            ?why,
            "this guest could not be looked for under another name"
        );
        Elsewhere {
            // Nobody may be told that it is not.
            is_defined: true,
            state: seen_elsewhere(guard, domain, vtpm, seen),
            unanswered: Some(why),
            ..Elsewhere::default()
        }
    };
    // Without libvirt's definitions the store still has where the guest was, and other guests' keys. Their names are
    // not certain then: they are named by UUID.
    let none = DefinitionIndex::default();
    let (definitions, unread) = match guard.definitions(deadline) {
        Ok(definitions) => (definitions, None),
        Err(error) => (&none, Some(SearchCut::Definitions(error.to_string()))),
    };
    let is_defined = unread.is_some() || definitions.defined_as(domain.uuid).is_some();
    let Some(store) = store else {
        return match unread {
            Some(why) => cut(why, None),
            None => Elsewhere {
                is_defined,
                state: seen_elsewhere(guard, domain, vtpm, None),
                ..Elsewhere::default()
            },
        };
    };
    // One row, which is read also where the definitions have taken all the time.
    let unread = unread.map(|why| (why, store.seen_state(domain.uuid)));
    // What the store was opened with may be over, and would let it work for longer than the search may take.
    let limited = store.set_deadline(deadline);
    let search = FullSearch {
        guard,
        definitions,
        domain,
        vtpm,
        store,
        deadline,
    };
    let found = match unread {
        Some((why, seen)) => seen.map(|seen| cut(why, seen.as_ref().map(|seen| &*seen.path))),
        None => limited.and_then(|()| search.by_names()),
    };
    let mut found = found.unwrap_or_else(|error| cut(SearchCut::Store(error.access_error()), None));
    found.is_defined = is_defined;
    if let StateFile::Encrypted(state) = state {
        match search.holder_of_key(state, keys) {
            Ok(holder) => found.key_holder = holder,
            Err(error) => tracing::warn!(%error, "keys of other guests were not tried"),
        }
    }
    found
}

/// What one search works with.
struct FullSearch<'a> {
    guard: &'a Guard,
    definitions: &'a DefinitionIndex,
    domain: &'a Domain,
    vtpm: &'a Emulator,
    store: &'a Store,
    deadline: Deadline,
}

impl FullSearch<'_> {
    /// Searches by names, UUIDs and paths.
    fn by_names(&self) -> Result<Elsewhere, StoreError> {
        let Self { guard, domain, .. } = self;
        let seen = self.store.seen_state(domain.uuid)?;
        let seen = seen.as_ref().map(|seen| seen.path.as_path());
        Ok(Elsewhere {
            state: seen_elsewhere(guard, domain, self.vtpm, seen),
            was_undefined: self.was_undefined()?,
            relative: self.relative()?,
            ..Elsewhere::default()
        })
    }

    /// Returns whether the guest was undefined since its last start: libvirt deletes the TPM's
    /// directory then, and a definition that is younger than the last start is new, or edited.
    fn was_undefined(&self) -> Result<bool, StoreError> {
        let directory = self
            .guard
            .config
            .libvirt
            .tpm_states()
            .join(self.domain.uuid.to_string());
        let asked = directory.clone();
        let is_there = bounded(&directory, move || asked.try_exists());
        if self.vtpm.source.is_some() || !matches!(is_there, Ok(Ok(false))) {
            return Ok(false);
        }
        let definition = format!("{}.xml", self.domain.name);
        let definition = self.guard.config.libvirt.definitions().join(definition);
        let Some(defined_at) = changed_at(&definition) else {
            return Ok(false);
        };
        let last_start = self.store.last_start(self.domain.uuid)?;
        Ok(last_start.is_some_and(|last_start| last_start < defined_at))
    }

    fn relative(&self) -> Result<Option<RelatedGuest>, StoreError> {
        if let Some(secret) = self.vtpm.secret_uuid
            && let Some(uuid) = self.other_user_of(secret)?
        {
            return self.related(uuid, Relation::Secret).map(Some);
        }
        // A guest that libvirt defines has another name now: names are unique.
        let had_it =
            |uuid: DomainUuid| uuid != self.domain.uuid && self.definition_of(uuid).is_none();
        let found = self.store.find_user_of_name(&self.domain.name, had_it)?;
        found
            .map(|uuid| self.related(uuid, Relation::Name))
            .transpose()
    }

    fn related(&self, uuid: DomainUuid, by: Relation) -> Result<RelatedGuest, StoreError> {
        let own = [TpmVersion::V1_2, TpmVersion::V2_0].map(|version| {
            let source = None;
            let vtpm = Emulator {
                version,
                source,
                ..self.vtpm.clone()
            };
            state_path(&self.guard.config.libvirt.tpm_states(), uuid, &vtpm)
        });
        let seen = self.store.seen_state(uuid)?.map(|seen| seen.path);
        // What cannot be looked at may be there: `key clone` says why it cannot.
        let copies = CopyStore::of(&self.guard.state_dir, uuid).has_copies();
        let mut states = own.iter().chain(&seen);
        Ok(RelatedGuest {
            domain: self.describe(uuid)?,
            by,
            has_state: copies.unwrap_or(true) || states.any(|path| is_filled(path).unwrap_or(true)),
        })
    }

    /// Returns another guest with a used key whose row, or whose definition, names this secret.
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
        for other in self.definitions.naming(secret) {
            if is_other(&other.uuid) && self.store.has_used_key(other.uuid)? {
                return Ok(Some(other.uuid));
            }
        }
        Ok(None)
    }

    fn describe(&self, uuid: DomainUuid) -> Result<OtherGuest, StoreError> {
        let defined = self.definition_of(uuid);
        Ok(OtherGuest {
            uuid,
            is_defined: defined.is_some(),
            name: match defined {
                Some(domain) => Some(domain.name),
                None => self.store.last_name(uuid)?,
            },
        })
    }

    fn definition_of(&self, uuid: DomainUuid) -> Option<Domain> {
        self.definitions.defined_as(uuid)
    }

    /// Returns another guest with a key that opens this state.
    fn holder_of_key(
        &self,
        state: &EncryptedState,
        keys: &mut Keys,
    ) -> Result<Option<OtherGuest>, StoreError> {
        let providers = self.store.providers()?;
        let (uuid, name) = (self.domain.uuid, &self.domain.name);
        let rows = self
            .store
            .candidate_keys(uuid, self.vtpm.secret_uuid, name, KEYS_TRIED)?;
        for row in rows {
            if self.deadline.has_passed() {
                break;
            }
            if let Some(wrapped) = &row.key_ref.wrapped_dek
                && keys.opens_state(&providers, wrapped, row.domain, state, self.deadline)
            {
                return self.describe(row.domain).map(Some);
            }
        }
        Ok(None)
    }
}

/// The same as [`state_elsewhere`], where what cannot be looked at counts as not there.
fn seen_elsewhere(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    last_seen: Option<&Path>,
) -> Option<StateElsewhere> {
    state_elsewhere(guard, domain, vtpm, last_seen)
        .ok()
        .flatten()
}

/// Returns a TPM state of this guest that its XML does not name: one of the other TPM version, one
/// at libvirt's default path, or one where its last start found it. An error: a path at which there may be
/// one, for it could not be looked for, and why.
pub fn state_elsewhere(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    last_seen: Option<&Path>,
) -> Result<Option<StateElsewhere>, (PathBuf, String)> {
    let place = |vtpm: &Emulator| state_path(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
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
    candidates.retain(|(path, _)| *path != wanted);
    let mut unseen = None;
    for (path, kind) in candidates {
        match is_filled(&path) {
            Ok(true) => return Ok(Some(StateElsewhere { path, wanted, kind })),
            Ok(false) => {}
            Err(why) => unseen = unseen.or(Some((path, why))),
        }
    }
    unseen.map_or(Ok(None), Err)
}

/// Returns whether this is a file with content, or why that cannot be told.
fn is_filled(path: &Path) -> Result<bool, String> {
    let asked = path.to_owned();
    let found = bounded(path.parent().unwrap_or(path), move || fs::metadata(asked));
    match found.map_err(|error| error.to_string())? {
        Ok(found) => Ok(found.is_file() && found.len() > 0),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn changed_at(path: &Path) -> Option<Timestamp> {
    let changed = fs::metadata(path).and_then(|found| found.modified()).ok()?;
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp)
}
