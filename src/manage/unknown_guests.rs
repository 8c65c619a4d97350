//! Guests that libvirt no longer knows, and what is left of them: key references, saved copies of
//! TPM state, an unencrypted state of before an `encrypt`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::host::{Host, HostError, default_deadline};
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::host::bounded::bounded;
use crate::host::dirs::StateDir;
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
    store: &mut Store,
    known: &BTreeSet<DomainUuid>,
) -> Result<Vec<UnknownGuest>, HostError> {
    let (state_dir, libvirt) = (host.state_dir(), host.configured_libvirt_dirs()?);
    // libvirt has been asked since the store was opened, which takes its time.
    store.set_deadline(default_deadline())?;
    let mut by_domain = BTreeMap::<DomainUuid, Vec<KeyRefRecord>>::new();
    for row in store.all_key_refs(None, true)? {
        by_domain.entry(row.domain).or_default().push(row);
    }
    let mut places = Places {
        state_dir,
        plain: plain_state::list(state_dir)?.into_iter().collect(),
        tpm_states: TpmStates::list(libvirt.tpm_states()),
        store,
    };
    for uuid in tpm_copies::domains(state_dir)?
        .into_iter()
        .chain(places.plain.iter().copied())
    {
        by_domain.entry(uuid).or_default();
    }
    places.store.set_deadline(default_deadline())?;
    let elsewhere = places.store.guests_of_other_hosts()?;
    by_domain.retain(|uuid, _| !known.contains(uuid) && !elsewhere.contains(uuid));
    by_domain
        .into_iter()
        .map(|(uuid, rows)| places.describe(uuid, rows))
        .collect()
}

/// Where something can be left of a guest.
struct Places<'a> {
    state_dir: &'a StateDir,
    /// The guests whose unencrypted state of before an `encrypt` is kept.
    plain: BTreeSet<DomainUuid>,
    tpm_states: TpmStates,
    store: &'a mut Store,
}

impl Places<'_> {
    /// What is left of a guest.
    fn describe(
        &mut self,
        uuid: DomainUuid,
        rows: Vec<KeyRefRecord>,
    ) -> Result<UnknownGuest, HostError> {
        // Each guest gets the whole time: there may be thousands, on slow file systems.
        self.store.set_deadline(default_deadline())?;
        let copy_store = CopyStore::of(self.state_dir, uuid);
        let (copies, unreadable) = copy_store.copies()?;
        let changes = rows
            .iter()
            .flat_map(|row| [row.updated_at, row.key_ref.created_at])
            .chain(self.store.last_change(uuid)?)
            .chain(copies.iter().map(|copy| copy.manifest.kept_at()));
        let copy_name = copies.first().map(|copy| copy.manifest.domain_name.clone());
        Ok(UnknownGuest {
            uuid,
            name: self.store.last_name(uuid)?.or(copy_name),
            last_change: changes.max().unwrap_or(Timestamp(0)),
            state: match unreadable.first() {
                None => self.left_by_libvirt(uuid)?,
                Some(error) => Some(LeftState {
                    path: copy_store.path().to_owned(),
                    trouble: Some(error.to_string()),
                }),
            },
            copies: copies.len() + usize::from(self.plain.contains(&uuid)),
            was_here: self.store.is_known_here(uuid)?,
            rows,
        })
    }

    /// TPM state at libvirt's own place, or where the guest's last start found it.
    fn left_by_libvirt(&self, uuid: DomainUuid) -> Result<Option<LeftState>, HostError> {
        if let Some(left) = self.tpm_states.left_of(uuid) {
            return Ok(Some(left));
        }
        let seen = self.store.seen_state(uuid)?;
        Ok(seen.and_then(|seen| look(&seen.path, &seen.path, Path::try_exists)))
    }
}

/// Where libvirt has TPM states, a directory for each guest.
struct TpmStates {
    dir: PathBuf,
    /// What is in there, in lower case; `None` where it cannot be listed.
    names: Option<BTreeSet<OsString>>,
}

impl TpmStates {
    /// Lists it once: looking for each of thousands of guests would start a thread for each.
    fn list(dir: PathBuf) -> Self {
        let listed = dir.clone();
        let names = bounded(&dir, move || names(&listed));
        Self {
            names: names.ok().and_then(Result::ok),
            dir,
        }
    }

    /// The TPM state of this guest there.
    fn left_of(&self, uuid: DomainUuid) -> Option<LeftState> {
        let name = OsString::from(uuid.to_string());
        let may_be_there = self.names.as_ref().is_none_or(|it| it.contains(&name));
        may_be_there
            .then(|| look(&self.dir.join(name), &self.dir, holds_state))
            .flatten()
    }
}

/// The names in a directory, in lower case, as there may be file systems that ignore it; none where there is no directory.
fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    match read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_ascii_lowercase()))
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
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
    use std::time::Duration;

    use super::*;
    use crate::clock::Deadline;
    use crate::host::crash::armed::{refuse_threads, threads_of};
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn for_guests_without_state_no_file_system_is_asked_one_by_one() {
        let fixture = Fixture::new();
        let guests = ["vm1", "vm2", "vm3", "vm4"].map(|name| fixture.guest_in_use(name));
        let states = fixture.libvirt.dirs().tpm_states();
        for gone in &guests[1..] {
            fs::remove_dir_all(states.join(gone.uuid.to_string())).unwrap();
        }
        let with_state = || -> Vec<_> {
            let found = find(&fixture.host, &mut fixture.store(), &BTreeSet::new()).unwrap();
            assert_eq!(found.len(), guests.len());
            let left = found.into_iter().filter(|guest| guest.state.is_some());
            left.map(|guest| guest.uuid).collect()
        };
        let threads = threads_of(|| assert_eq!(with_state(), [guests[0].uuid]));
        assert_eq!(
            threads, 2,
            "one that lists, one for the guest that has a directory"
        );
        // Where that cannot be listed, each is looked at.
        refuse_threads(1);
        let threads = threads_of(|| assert_eq!(with_state(), [guests[0].uuid]));
        assert_eq!(threads, 1 + guests.len());
    }

    /// What is asked of slow file systems for thousands of guests takes longer than the store is waited for.
    #[test]
    fn each_guest_has_the_store_s_whole_time() {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        // So much that SQLite looks at the deadline.
        fixture.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO event (domain_uuid, operation) SELECT '{}', 'prepare' FROM n",
            guest.uuid
        ));
        let mut store = fixture.store();
        store.set_deadline(Deadline::after(Duration::ZERO)).unwrap();
        store.is_known_here(guest.uuid).unwrap_err();
        let mut places = Places {
            state_dir: fixture.host.state_dir(),
            plain: BTreeSet::new(),
            tpm_states: TpmStates::list(fixture.libvirt.dirs().tpm_states()),
            store: &mut store,
        };
        let found = places.describe(guest.uuid, Vec::new()).unwrap();
        assert!(found.state.is_some());
    }

    #[test]
    fn only_a_directory_that_is_not_there_has_no_names() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("swtpm");
        assert!(names(&place).unwrap().is_empty());
        fs::write(&place, "").unwrap();
        let error = names(&place).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
    }

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
