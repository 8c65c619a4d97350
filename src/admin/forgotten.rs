//! Guests that libvirt no longer knows and that still have key references.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::domains;
use super::error::AdminError;
use crate::clock::Timestamp;
use crate::host::bounded::bounded;
use crate::ids::DomainUuid;
use crate::libvirt::Guest;
use crate::store::{Access, EventFilter, KeyRefRecord, Store};

/// A guest that libvirt does not know.
pub(super) struct Forgotten {
    pub(super) uuid: DomainUuid,
    /// The name that it bore last, where the history knows it.
    pub(super) name: Option<String>,
    /// All its key references, by id.
    pub(super) rows: Vec<KeyRefRecord>,
    /// When it was last heard of: a change of its rows, or an event.
    pub(super) last_change: Timestamp,
    /// TPM state of it that is still on this host.
    pub(super) state: Option<PathBuf>,
}

/// The forgotten guests, by UUID. `known` are those that libvirt knows; `state_places` the
/// directories that hold one directory of TPM state for each guest.
pub(super) fn find(
    store: &Store,
    known: &BTreeSet<DomainUuid>,
    state_places: &[PathBuf],
) -> Result<Vec<Forgotten>, AdminError> {
    let mut by_domain = BTreeMap::<DomainUuid, Vec<KeyRefRecord>>::new();
    for row in store.all_key_refs(None, true)? {
        if !known.contains(&row.domain) {
            by_domain.entry(row.domain).or_default().push(row);
        }
    }
    let describe = |(uuid, rows): (DomainUuid, Vec<KeyRefRecord>)| {
        let newest_event = store.history(EventFilter::Domain(uuid), 1)?.pop();
        let changes = rows
            .iter()
            .flat_map(|row| [row.updated_at, row.key_ref.created_at]);
        let last_change = changes.chain(newest_event.map(|row| row.event.at)).max();
        let mut places = state_places
            .iter()
            .map(|place| place.join(uuid.to_string()));
        Ok(Forgotten {
            uuid,
            name: domains::last_name(store, uuid)?,
            rows,
            last_change: last_change.unwrap_or(Timestamp(0)),
            state: places.find(|place| may_hold_state(place)),
        })
    };
    by_domain.into_iter().map(describe).collect()
}

/// How many guests with key references are not among those that libvirt knows; `None` where
/// the store cannot say: whoever asks has heard of that already.
pub(super) fn among(context: &Context, known: &[Guest]) -> Option<usize> {
    let known: BTreeSet<_> = known.iter().map(|guest| guest.uuid).collect();
    let store = context.store(Access::Read).ok()??;
    let rows = store.all_key_refs(None, true).ok()?;
    let unknown = rows.iter().map(|row| row.domain);
    let unknown: BTreeSet<_> = unknown.filter(|uuid| !known.contains(uuid)).collect();
    Some(unknown.len())
}

/// "3 guests that libvirt no longer knows have keys: …"; `None` for none.
pub(super) fn in_words(guests: usize) -> Option<String> {
    let subject = match guests {
        0 => return None,
        1 => "1 guest that libvirt no longer knows has keys".to_owned(),
        _ => format!("{guests} guests that libvirt no longer knows have keys"),
    };
    Some(format!("{subject}: vtpm-guard key prune --dry-run"))
}

/// What does not answer may hold one.
fn may_hold_state(place: &Path) -> bool {
    let asked = place.to_owned();
    let around = place.parent().unwrap_or(place);
    bounded(around, move || holds_state(&asked)).unwrap_or(true)
}

/// Whether there is any file below `place` but swtpm's lock. What cannot be read may be state.
fn holds_state(place: &Path) -> bool {
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) => return error.kind() != ErrorKind::NotFound,
    };
    entries.into_iter().any(|entry| {
        let Ok(entry) = entry else { return true };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds_state(&entry.path()),
            _ => entry.file_name() != ".lock",
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn empty_directories_and_a_lock_are_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("uuid");
        assert!(!holds_state(&place));
        fs::create_dir_all(place.join("tpm2")).unwrap();
        fs::write(place.join("tpm2/.lock"), "").unwrap();
        assert!(!holds_state(&place));
        fs::write(place.join("tpm2/tpm2-00.permall"), "").unwrap();
        assert!(holds_state(&place));
        assert!(
            holds_state(&place.join("tpm2/tpm2-00.permall")),
            "unreadable"
        );
    }

    #[test]
    fn guests_are_counted_in_words() {
        assert_eq!(in_words(0), None);
        assert!(
            in_words(1)
                .unwrap()
                .starts_with("1 guest that libvirt no longer knows has")
        );
        assert!(
            in_words(3)
                .unwrap()
                .starts_with("3 guests that libvirt no longer knows have")
        );
    }
}
