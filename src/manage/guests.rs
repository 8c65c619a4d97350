//! Which guest a text names: the one resolver of DOMAIN arguments.
//!
//! libvirt takes any name, also the UUID of another guest. Whoever may name a guest must not turn
//! a command that is meant for that other one against it, or the other way round: such a text is
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::host::{Host, HostError, default_deadline};
use crate::clock::Deadline;
use crate::domain::{self, Domain, UnreadableDomain};
use crate::ids::DomainUuid;
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::messages::{Arg, Named, label};
use crate::store::{Access, Store, StoreError};
use crate::tpm_copies::CopyStore;

/// How long libvirt may take to report whose a UUID is; without it the UUID names a guest too.
const DEADLINE_FOR_UUID: Duration = Duration::from_secs(3);

/// How long libvirt may take to name the guests that the history does not know.
const DEADLINE_FOR_NAMES: Duration = Duration::from_secs(2);

/// A guest, as answers and messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct GuestRef {
    /// Its name, where it was given, or is known to the store.
    pub(crate) name: Option<String>,
    /// Its UUID.
    pub(crate) uuid: DomainUuid,
    /// How a command line names it.
    #[serde(skip)]
    pub(crate) arg: Arg,
}

impl GuestRef {
    /// A guest of this UUID whose name, if any, may belong to another guest by now.
    pub(crate) fn of_uuid(uuid: DomainUuid, name: Option<String>) -> Self {
        let arg = Arg::uuid(uuid);
        Self { name, uuid, arg }
    }

    /// A guest that has this name.
    pub(crate) fn called(uuid: DomainUuid, name: &str) -> Self {
        let arg = Arg::guest(Named {
            name,
            uuid: Some(uuid),
        });
        Self {
            name: Some(name.to_owned()),
            uuid,
            arg,
        }
    }

    /// The guest for messages about its start.
    pub(crate) fn named(&self) -> Named<'_> {
        Named {
            name: self.name.as_deref().unwrap_or_default(),
            uuid: Some(self.uuid),
        }
    }

    /// What a person calls it.
    pub(crate) fn label(&self) -> String {
        let name = self.name.as_deref().map(label);
        name.unwrap_or_else(|| self.uuid.to_string())
    }
}

impl From<&Guest> for GuestRef {
    fn from(guest: &Guest) -> Self {
        Self::called(guest.uuid, &guest.name)
    }
}

/// Why a text names no guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// Neither libvirt nor the store knows such a guest.
    #[error("guest not found")]
    NotFound(String),
    /// It is the UUID of one guest and the name of another.
    #[error("ambiguous")]
    Ambiguous {
        /// What was given.
        text: String,
        /// The name of the guest that has it as its UUID, where that is known.
        name: Option<String>,
        /// The guest that has it as its name.
        other: DomainUuid,
    },
    /// libvirt knows no guest of that name, the history does. It may be the name of one failed
    /// attempt to create it, whose UUID never comes back.
    #[error("known to the history alone")]
    HistoryOnly {
        /// What was given.
        text: String,
        /// The guest's UUID in the history.
        uuid: DomainUuid,
    },
    /// A guest is looked for by its name, which libvirt alone could know.
    #[error("{}", .0.sentence())]
    NeedsUuid(SecretError),
    /// The host.
    #[error(transparent)]
    Host(HostError),
}

impl<E: Into<HostError>> From<E> for GuestError {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

/// A guest and its definition, or why that could not be read.
pub(crate) struct ListedGuest {
    /// Its name; of a file whose XML cannot be read, the file's.
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) domain: Result<Domain, UnreadableDomain>,
}

/// Who says that there is such a guest, whether its XML can be read or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// libvirt lists it under this UUID.
    Libvirt(DomainUuid),
    /// A file of libvirt's that has its name.
    Definition,
    /// A file that somebody named: of a guest whose XML cannot be read, nothing is known.
    File,
}

impl From<Guest> for ListedGuest {
    fn from(guest: Guest) -> Self {
        Self {
            domain: domain::examine(guest.xml.as_bytes()),
            source: Source::Libvirt(guest.uuid),
            name: guest.name,
        }
    }
}

impl Host {
    /// The guest that `text` names: one that libvirt knows, else the one of this UUID, else one of
    /// the store's history; that is the last one also of a text like a UUID that nobody has.
    pub(crate) fn guest(&self, text: &str) -> Result<GuestRef, GuestError> {
        let uuid = DomainUuid::parse(text).ok();
        let deadline = match uuid {
            Some(_) => Deadline::after(DEADLINE_FOR_UUID),
            None => default_deadline(),
        };
        let asked = self.libvirt().guests_called(text, deadline);
        if let Ok(guests) = &asked
            && let Some(guest) = self.pick(text, guests)?
        {
            return Ok(guest.into());
        }
        let store = self.store(Access::Read)?;
        if let Some(uuid) = uuid {
            let Some(store) = store else {
                return Ok(GuestRef::of_uuid(uuid, None));
            };
            let name = store.last_name(uuid)?;
            return match store.domain_uuid_by_name(text)? {
                // A libvirt that is silent may know a guest of this UUID.
                Some(other)
                    if other != uuid && (asked.is_err() || self.remembers(Some(&store), uuid)) =>
                {
                    Err(ambiguous(text, name.as_deref(), other))
                }
                Some(other) if other != uuid => Ok(GuestRef::called(other, text)),
                _ => Ok(GuestRef::of_uuid(uuid, name)),
            };
        }
        if let Some(store) = store
            && let Some(uuid) = store.domain_uuid_by_name(text)?
        {
            return Ok(GuestRef::called(uuid, text));
        }
        Err(match asked {
            Err(error) => GuestError::NeedsUuid(error),
            Ok(_) => GuestError::NotFound(text.to_owned()),
        })
    }

    /// The same, but a name that only the history knows names nobody, where libvirt says so.
    pub(crate) fn present_guest(&self, text: &str) -> Result<GuestRef, GuestError> {
        let by_uuid = DomainUuid::parse(text).ok();
        if let Ok(guests) = self.libvirt().guests_called(text, default_deadline())
            && guests.is_empty()
            && let Some(store) = self.store(Access::Read)?
            && let Some(uuid) = store.domain_uuid_by_name(text)?
            && by_uuid != Some(uuid)
        {
            return Err(match by_uuid {
                // It may be the UUID of a guest that is yet to be defined.
                Some(other) => ambiguous(text, store.last_name(other)?.as_deref(), uuid),
                None => GuestError::HistoryOnly {
                    text: text.to_owned(),
                    uuid,
                },
            });
        }
        self.guest(text)
    }

    /// The guest that `text` names, which libvirt must know.
    pub(crate) fn defined_guest(&self, text: &str) -> Result<Guest, GuestError> {
        let guests = self.libvirt().guests_called(text, default_deadline())?;
        let picked = self.pick(text, &guests)?.cloned();
        picked.ok_or_else(|| GuestError::NotFound(text.to_owned()))
    }

    /// All guests, as libvirt describes them, by name.
    pub(crate) fn guests(&self) -> Result<Vec<Guest>, HostError> {
        let mut guests = self.libvirt().guests(default_deadline())?;
        guests.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(guests)
    }

    /// The same with their definitions read.
    pub(crate) fn listed_guests(&self) -> Result<Vec<ListedGuest>, HostError> {
        Ok(self.guests()?.into_iter().map(ListedGuest::from).collect())
    }

    /// The guests of these names or UUIDs, which libvirt must know, each once.
    pub(crate) fn named_guests(&self, texts: &[String]) -> Result<Vec<ListedGuest>, GuestError> {
        let mut found = Vec::<ListedGuest>::new();
        for text in texts {
            let guest = ListedGuest::from(self.defined_guest(text)?);
            if found.iter().all(|other| other.name != guest.name) {
                found.push(guest);
            }
        }
        Ok(found)
    }

    /// Which of these guests `text` names: the one of this UUID or the one of this name. Where it
    /// could be either of two, or one of them and another that only the store knows, nobody can
    /// tell which is meant.
    pub(crate) fn pick<'g>(
        &self,
        text: &str,
        guests: impl IntoIterator<Item = &'g Guest>,
    ) -> Result<Option<&'g Guest>, GuestError> {
        let uuid = DomainUuid::parse(text).ok();
        let (mut by_uuid, mut by_name) = (None, None);
        for guest in guests {
            if Some(guest.uuid) == uuid {
                by_uuid = Some(guest);
            } else if guest.name == text {
                by_name = Some(guest);
            }
        }
        let Some(uuid) = uuid else {
            return Ok(by_name);
        };
        // A store that cannot be read has no say here: whoever needs it reports that.
        let store = || self.store(Access::Read).ok().flatten();
        match (by_uuid, by_name) {
            (Some(one), Some(other)) => Err(ambiguous(text, Some(&one.name), other.uuid)),
            (Some(one), None) => match store().and_then(|store| namesake_with_keys(&store, text)) {
                Some(other) if other != uuid => Err(ambiguous(text, Some(&one.name), other)),
                _ => Ok(Some(one)),
            },
            (None, Some(other)) => {
                if self.remembers(store().as_ref(), uuid) {
                    return Err(ambiguous(text, None, other.uuid));
                }
                Ok(Some(other))
            }
            (None, None) => Ok(None),
        }
    }

    /// Whether anything of this guest is on this host, though libvirt may not know it.
    fn remembers(&self, store: Option<&Store>, guest: DomainUuid) -> bool {
        CopyStore::of(self.state_dir(), guest).exists()
            || store.is_some_and(|store| knows(store, guest))
    }

    /// The names of guests: their last ones, else what libvirt calls them.
    pub(crate) fn names(
        &self,
        store: &Store,
        guests: BTreeSet<DomainUuid>,
    ) -> Result<BTreeMap<DomainUuid, String>, StoreError> {
        let mut names = BTreeMap::new();
        let mut unknown = Vec::new();
        for guest in guests {
            match store.last_name(guest)? {
                Some(name) => drop(names.insert(guest, name)),
                None => unknown.push(guest),
            }
        }
        let (libvirt, deadline) = (self.libvirt(), Deadline::after(DEADLINE_FOR_NAMES));
        for uuid in unknown {
            match libvirt.guest(uuid, deadline) {
                Ok(Some(guest)) => drop(names.insert(uuid, guest.name)),
                Ok(None) => {}
                // A libvirt that does not answer knows no more of the next one.
                Err(_) => break,
            }
        }
        Ok(names)
    }
}

/// Refuses a text that, as far as this store knows, names two guests.
pub(crate) fn refuse_ambiguous(store: &Store, text: &str) -> Result<(), GuestError> {
    let Ok(uuid) = DomainUuid::parse(text) else {
        return Ok(());
    };
    match store.domain_uuid_by_name(text)? {
        Some(other) if other != uuid && knows(store, uuid) => {
            let name = store.last_name(uuid)?;
            Err(ambiguous(text, name.as_deref(), other))
        }
        _ => Ok(()),
    }
}

/// A guest of this name that has keys here.
fn namesake_with_keys(store: &Store, name: &str) -> Option<DomainUuid> {
    let uuid = store.domain_uuid_by_name(name).ok().flatten()?;
    has_rows(store, uuid).then_some(uuid)
}

/// Whether a store has rows or decisions of this guest.
pub(super) fn knows(store: &Store, uuid: DomainUuid) -> bool {
    has_rows(store, uuid) || matches!(store.last_name(uuid), Ok(Some(_)))
}

fn has_rows(store: &Store, uuid: DomainUuid) -> bool {
    let rows = store.all_key_refs(Some(uuid), true);
    rows.is_ok_and(|rows| !rows.is_empty())
}

fn ambiguous(text: &str, name: Option<&str>, other: DomainUuid) -> GuestError {
    GuestError::Ambiguous {
        text: text.to_owned(),
        name: name.map(str::to_owned),
        other,
    }
}
