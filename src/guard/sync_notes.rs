//! Notes on tmpfs of guests whose metadata may lack their keys: an empty file for each, named by the
//! guest's UUID. A hook must not write metadata (a domain call can lock libvirt up), so it leaves a
//! note, and `sync` takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirEntryExt;

use super::context::Guard;
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::host::dirs::RunDir;
use crate::host::interrupted::read_dir;
use crate::host::{atomic, trusted};
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;
use crate::store::{Store, StoreError};
use crate::verdict::facts::KeyRef;

/// Leaves a note of a guest that runs, if its keys are to travel and its XML does not have them.
pub(super) fn leave_if_due(
    guard: &Guard,
    domain: &Domain,
    store: &Store,
) -> Result<(), StoreError> {
    if !guard.config.fleet.metadata.is_wrapped() {
        return Ok(());
    }
    let rows = store.references(domain.uuid, Timestamp::now())?.key_refs;
    if !has_keys_of(domain, &rows)
        && let Err(error) = leave(&guard.run_dir, domain.uuid)
    {
        tracing::warn!(domain = domain.name, %error, "no note was left for sync");
    }
    Ok(())
}

/// Whether the domain's XML has the keys of these rows, and no others.
fn has_keys_of(domain: &Domain, rows: &[KeyRef]) -> bool {
    let present: BTreeSet<_> = match &domain.travelling {
        Some(element) if element.are_of(domain.uuid) && element.fault.is_none() => {
            let keys = element.keys.iter();
            keys.map(|key| key.wrapped_dek.as_bytes()).collect()
        }
        Some(_) => return false,
        None => BTreeSet::new(),
    };
    let own = rows.iter().filter_map(KeyRef::travelling_dek);
    own.map(WrappedDek::as_bytes).collect::<BTreeSet<_>>() == present
}

/// Leaves a note of this guest.
pub(crate) fn leave(run_dir: &RunDir, guest: DomainUuid) -> io::Result<()> {
    let name = OsString::from(guest.to_string());
    atomic::replace(&directory(run_dir)?, &name, b"")
}

/// The guests with a note, and the note's inode: one that is left again is another file.
pub(crate) type Notes = BTreeMap<DomainUuid, u64>;

/// The notes that there are.
pub(crate) fn list(run_dir: &RunDir) -> io::Result<Notes> {
    let entries = match read_dir(run_dir.unsynced()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Notes::new()),
        Err(error) => return Err(error),
    };
    let mut notes = Notes::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let guest = name.to_str().and_then(|name| DomainUuid::parse(name).ok());
        notes.extend(guest.map(|guest| (guest, entry.ino())));
    }
    Ok(notes)
}

/// Removes these notes. One that was left again in the meantime stays.
pub(crate) fn take(run_dir: &RunDir, notes: &Notes) -> io::Result<()> {
    if notes.is_empty() {
        return Ok(());
    }
    let (dir, present) = (directory(run_dir)?, list(run_dir)?);
    let mut taken = notes
        .iter()
        .filter(|(guest, note)| present.get(guest) == Some(note));
    taken.try_for_each(|(guest, _)| atomic::remove(&dir, &OsString::from(guest.to_string())))
}

/// Their directory, which is made if it is missing.
pub(crate) fn directory(run_dir: &RunDir) -> io::Result<File> {
    Ok(trusted::make_dir(&run_dir.unsynced(), trusted::RUN_DIR)?)
}
