//! Guests that libvirt no longer knows, and what is left of them: key references, saved copies of
//! TPM state, an unencrypted state of before an `encrypt`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::host::{Host, HostError};
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::host::bounded::bounded;
use crate::host::interrupted::read_dir;
use crate::ids::DomainUuid;
use crate::libvirt::Guest;
use crate::store::{Access, KeyRefRecord, Store};
use crate::tpm_copies::{self, CopyStore};

/// A guest that libvirt does not know.
pub(crate) struct UnknownGuest {
    pub(crate) uuid: DomainUuid,
    /// Its last name, where the history knows it.
    pub(crate) name: Option<String>,
    /// All its key references, by id.
    pub(crate) rows: Vec<KeyRefRecord>,
    /// Its last change: of its rows, an event, a copy of its state.
    pub(crate) last_change: Timestamp,
    /// TPM state of it that is still on this host and is no saved copy, or a copy that cannot be
    /// read.
    pub(crate) state: Option<LeftState>,
    /// How many copies of its TPM state are saved, an unencrypted one of before an `encrypt` too.
    pub(crate) copies: usize,
    /// Whether it has run on this host, as far as the history goes back.
    pub(crate) was_here: bool,
}

/// Where TPM state of a guest is left, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftState {
    pub(crate) path: PathBuf,
    /// Why nobody can say whether it is.
    pub(crate) trouble: Option<String>,
}

impl UnknownGuest {
    /// Whether a guest has run with one of its keys.
    pub(crate) fn is_used(&self) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.key_ref.first_used_at.is_some())
    }

    /// Whether none of its rows holds a key.
    pub(crate) fn has_no_key(&self) -> bool {
        let mut rows = self.rows.iter();
        rows.all(|row| row.key_ref.wrapped_dek.is_none())
    }
}

/// The guests that libvirt does not know, by UUID. `known` are those that it knows. A guest of which another host of
/// the fleet has said something is that host's: what is here of it came from there, or went there with it.
pub(crate) fn find(
    host: &Host,
    store: &Store,
    known: &BTreeSet<DomainUuid>,
) -> Result<Vec<UnknownGuest>, HostError> {
    let (state_dir, libvirt) = (host.state_dir(), host.configured_libvirt_dirs()?);
    let tpm_states = libvirt.tpm_states();
    let plain: BTreeSet<_> = plain_state::list(state_dir)?.into_iter().collect();
    let mut by_domain = BTreeMap::<DomainUuid, Vec<KeyRefRecord>>::new();
    for row in store.all_key_refs(None, true)? {
        by_domain.entry(row.domain).or_default().push(row);
    }
    for uuid in tpm_copies::domains(state_dir)?
        .into_iter()
        .chain(plain.iter().copied())
    {
        by_domain.entry(uuid).or_default();
    }
    let elsewhere = store.guests_of_other_hosts()?;
    by_domain.retain(|uuid, _| !known.contains(uuid) && !elsewhere.contains(uuid));
    let describe = |(uuid, rows): (DomainUuid, Vec<KeyRefRecord>)| {
        let (copies, unreadable) = CopyStore::of(state_dir, uuid).copies()?;
        let changes = rows
            .iter()
            .flat_map(|row| [row.updated_at, row.key_ref.created_at])
            .chain(store.last_change(uuid)?)
            .chain(copies.iter().map(|copy| copy.manifest.kept_at()));
        let copy_name = copies.first().map(|copy| copy.manifest.domain_name.clone());
        Ok(UnknownGuest {
            uuid,
            name: store.last_name(uuid)?.or(copy_name),
            last_change: changes.max().unwrap_or(Timestamp(0)),
            state: match unreadable.first() {
                None => left_by_libvirt(store, &tpm_states, uuid)?,
                Some(error) => Some(LeftState {
                    path: CopyStore::of(state_dir, uuid).path().to_owned(),
                    trouble: Some(error.to_string()),
                }),
            },
            copies: copies.len() + usize::from(plain.contains(&uuid)),
            was_here: store.is_known_here(uuid)?,
            rows,
        })
    };
    by_domain.into_iter().map(describe).collect()
}

/// TPM state at libvirt's own place, or where the guest's last start found it.
fn left_by_libvirt(
    store: &Store,
    tpm_states: &Path,
    uuid: DomainUuid,
) -> Result<Option<LeftState>, HostError> {
    let own = tpm_states.join(uuid.to_string());
    let around = own.parent().unwrap_or(&own);
    if let Some(left) = look(&own, around, holds_state) {
        return Ok(Some(left));
    }
    let seen = store.seen_state(uuid)?;
    Ok(seen.and_then(|seen| look(&seen.path, &seen.path, Path::try_exists)))
}

/// What is left at a place. What does not answer, or cannot be read, may be state.
fn look(path: &Path, answers: &Path, is_left: fn(&Path) -> io::Result<bool>) -> Option<LeftState> {
    let asked = path.to_owned();
    let trouble = match bounded(answers, move || is_left(&asked)) {
        Ok(Ok(false)) => return None,
        Ok(Ok(true)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    Some(LeftState {
        path: path.to_owned(),
        trouble,
    })
}

/// How many guests with key references are not among those that libvirt knows; `None` where
/// the store cannot say: that was reported already.
pub(crate) fn count(host: &Host, known: &[Guest]) -> Option<usize> {
    let known: BTreeSet<_> = known.iter().map(|guest| guest.uuid).collect();
    let store = host.store(Access::Read).ok()??;
    let rows = store.all_key_refs(None, true).ok()?;
    let unknown = rows.iter().map(|row| row.domain);
    let elsewhere = store.guests_of_other_hosts().ok()?;
    let unknown = unknown.filter(|uuid| !known.contains(uuid) && !elsewhere.contains(uuid));
    let unknown: BTreeSet<_> = unknown.collect();
    Some(unknown.len())
}

/// Whether there is any file below `place` but swtpm's lock.
fn holds_state(place: &Path) -> io::Result<bool> {
    let entries = match read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_state = if entry.file_type()?.is_dir() {
            holds_state(&entry.path())?
        } else {
            entry.file_name() != ".lock"
        };
        if is_state {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn empty_directories_and_a_lock_are_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("uuid");
        assert!(!holds_state(&place).unwrap());
        fs::create_dir_all(place.join("tpm2")).unwrap();
        fs::write(place.join("tpm2/.lock"), "").unwrap();
        assert!(!holds_state(&place).unwrap());
        fs::write(place.join("tpm2/tpm2-00.permall"), "").unwrap();
        assert!(holds_state(&place).unwrap());
        let unreadable = look(&place.join("tpm2/tpm2-00.permall"), &place, holds_state);
        let trouble = unreadable.unwrap().trouble.unwrap();
        assert!(trouble.contains("Not a directory"), "{trouble}");
    }
}
