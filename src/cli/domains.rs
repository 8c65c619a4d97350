//! DOMAIN arguments: a guest's name or UUID, and which guest is meant by it.
//!
//! libvirt takes any name, also the UUID of another guest. Whoever may name a guest must not turn
//! a command that is meant for that other one against it, or the other way round: such a text is
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::context::{self, Context};
use super::guests::unreachable;
use crate::cli::ui::error::AdminError;
use crate::clock::Deadline;
use crate::ids::DomainUuid;
use crate::libvirt::{Guest, Libvirt};
use crate::messages::{Arg, Named, label, quoted};
use crate::store::{Access, Store, StoreError};
use crate::tpm_copies::CopyStore;

/// A guest that was named on the command line.
pub(crate) struct NamedDomain {
    /// Its UUID.
    pub(crate) uuid: DomainUuid,
    /// Its name, where it was given, or is known to the store.
    pub(crate) name: Option<String>,
    /// How a command line names it.
    pub(crate) arg: Arg,
}

impl NamedDomain {
    /// A guest of this UUID whose name, if any, somebody else may have by now.
    pub(crate) fn of_uuid(uuid: DomainUuid, name: Option<String>) -> Self {
        let arg = Arg::uuid(uuid);
        Self { uuid, name, arg }
    }

    /// A guest that has this name.
    pub(crate) fn called(uuid: DomainUuid, name: &str) -> Self {
        let uuid_known = Some(uuid);
        Self {
            uuid,
            name: Some(name.to_owned()),
            arg: Arg::guest(Named {
                name,
                uuid: uuid_known,
            }),
        }
    }

    /// What a person calls it.
    pub(crate) fn label(&self) -> String {
        let name = self.name.as_deref().map(label);
        name.unwrap_or_else(|| self.uuid.to_string())
    }
}

impl From<&Guest> for NamedDomain {
    fn from(guest: &Guest) -> Self {
        Self::called(guest.uuid, &guest.name)
    }
}

/// How long libvirt may take to say whose a UUID is, which names a guest also without it.
const PATIENCE_FOR_UUID: Duration = Duration::from_secs(3);

/// Finds the guest that `text` names: one that libvirt knows, else whoever has this UUID, else
/// one of the store's history.
pub(crate) fn resolve(context: &Context, text: &str) -> Result<NamedDomain, AdminError> {
    let uuid = DomainUuid::parse(text).ok();
    let deadline = match uuid {
        Some(_) => Deadline::after(PATIENCE_FOR_UUID),
        None => context::patience(),
    };
    let asked = context::libvirt().guests_called(text, deadline);
    if let Ok(guests) = &asked
        && let Some(guest) = pick(context, text, guests)?
    {
        return Ok(guest.into());
    }
    let store = context.store(Access::Read)?;
    if let Some(uuid) = uuid {
        if let (Some(store), Err(_)) = (&store, &asked) {
            refuse_two(store, text)?;
        }
        let name = store.map(|store| last_name(&store, uuid)).transpose()?;
        return Ok(NamedDomain::of_uuid(uuid, name.flatten()));
    }
    if let Some(store) = store
        && let Some(uuid) = store.domain_uuid_by_name(text)?
    {
        return Ok(NamedDomain::called(uuid, text));
    }
    match asked {
        Err(error) => Err(unreachable(&error).with_hint("name the guest by its UUID")),
        Ok(_) => Err(unknown(text)),
    }
}

/// The same, but a name that is only history's names nobody, where libvirt says so: it may be
/// that of one failed attempt, whose UUID never comes back.
pub(crate) fn resolve_present(context: &Context, text: &str) -> Result<NamedDomain, AdminError> {
    let is_name = DomainUuid::parse(text).is_err();
    if is_name
        && let Ok(guests) = context::libvirt().guests_called(text, context::patience())
        && guests.is_empty()
        && let Some(store) = context.store(Access::Read)?
        && let Some(uuid) = store.domain_uuid_by_name(text)?
    {
        return Err(AdminError::refused(format!(
            "libvirt knows no guest {}; the history does, under the UUID {uuid}, which may have \
             been that of one attempt",
            quoted(text)
        ))
        .with_hint(format!(
            "define it first (virsh define FILE), or name the UUID that it will have: vtpm-guard \
             key bind {uuid} --provider NAME"
        )));
    }
    resolve(context, text)
}

/// Finds the guest that `text` names, which libvirt must know.
pub(crate) fn defined(context: &Context, text: &str) -> Result<Guest, AdminError> {
    let mut guests = context::libvirt()
        .guests_called(text, context::patience())
        .map_err(|error| unreachable(&error))?;
    let uuid = pick(context, text, &guests)?
        .ok_or_else(|| unknown(text))?
        .uuid;
    let index = guests.iter().position(|guest| guest.uuid == uuid);
    index
        .map(|index| guests.swap_remove(index))
        .ok_or_else(|| unknown(text))
}

/// Which of these guests `text` names: the one of this UUID or the one of this name. Where it
/// could be either of two, or one of them and another that only the store knows, nobody can tell
/// which is meant.
pub(crate) fn pick<'g>(
    context: &Context,
    text: &str,
    guests: impl IntoIterator<Item = &'g Guest>,
) -> Result<Option<&'g Guest>, AdminError> {
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
    // A store that cannot be read has no say here: whoever needs it hears of that elsewhere.
    let store = || context.store(Access::Read).ok().flatten();
    match (by_uuid, by_name) {
        (Some(one), Some(other)) => Err(ambiguous(text, Some(&one.name), other.uuid)),
        (Some(one), None) => match store().and_then(|store| forgotten_namesake(&store, text)) {
            Some(other) if other != uuid => Err(ambiguous(text, Some(&one.name), other)),
            _ => Ok(Some(one)),
        },
        (None, Some(other)) => {
            let has_copies = CopyStore::of(context.state_dir(), uuid).exists();
            let known = store().is_some_and(|store| knows(&store, uuid));
            if has_copies || known {
                return Err(ambiguous(text, None, other.uuid));
            }
            Ok(Some(other))
        }
        (None, None) => Ok(None),
    }
}

/// Refuses a text that, for all that this store knows, names two guests.
pub(crate) fn refuse_two(store: &Store, text: &str) -> Result<(), AdminError> {
    let Ok(uuid) = DomainUuid::parse(text) else {
        return Ok(());
    };
    match store.domain_uuid_by_name(text)? {
        Some(other) if other != uuid && knows(store, uuid) => {
            let name = last_name(store, uuid)?;
            Err(ambiguous(text, name.as_deref(), other))
        }
        _ => Ok(()),
    }
}

/// A guest of this name that has keys here.
fn forgotten_namesake(store: &Store, name: &str) -> Option<DomainUuid> {
    let uuid = store.domain_uuid_by_name(name).ok().flatten()?;
    has_rows(store, uuid).then_some(uuid)
}

fn knows(store: &Store, uuid: DomainUuid) -> bool {
    has_rows(store, uuid) || matches!(last_name(store, uuid), Ok(Some(_)))
}

fn has_rows(store: &Store, uuid: DomainUuid) -> bool {
    let rows = store.all_key_refs(Some(uuid), true);
    rows.is_ok_and(|rows| !rows.is_empty())
}

/// `text` is the UUID of one guest, of that name if it is known, and the name of another.
fn ambiguous(text: &str, name: Option<&str>, other: DomainUuid) -> AdminError {
    let by_name = name.and_then(Arg::guest_by_name);
    let first = by_name.map_or_else(|| respelled(text), |arg| arg.to_string());
    let whose = name.map_or(String::new(), |name| format!(" ({})", label(name)));
    AdminError::usage(format!(
        "{} is ambiguous: it is the UUID of one guest{whose} and the name of another (UUID {other})",
        quoted(text)
    ))
    .with_hint(format!("for the first: {first}; for the other: {other}"))
}

/// Another spelling of a UUID: a name is compared letter by letter, a UUID is not.
fn respelled(text: &str) -> String {
    let plain = text.replace('-', "");
    if plain == text {
        return DomainUuid::parse(text).map_or(plain, |uuid| uuid.to_string());
    }
    plain
}

/// A guest that was named, and that nobody knows.
pub(crate) fn unknown(text: &str) -> AdminError {
    AdminError::usage(format!("guest {} not found", quoted(text)))
        .with_hint("list them: virsh list --all")
}

/// How long libvirt may take to name the guests that the history does not know.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(2);

/// The names of guests: those that they bore last, else what libvirt calls them.
pub(crate) fn names(
    store: &Store,
    domains: BTreeSet<DomainUuid>,
) -> Result<BTreeMap<DomainUuid, String>, StoreError> {
    let mut names = BTreeMap::new();
    let mut unknown = Vec::new();
    for domain in domains {
        match store.last_name(domain)? {
            Some(name) => drop(names.insert(domain, name)),
            None => unknown.push(domain),
        }
    }
    let (libvirt, deadline) = (context::libvirt(), Deadline::after(PATIENCE_FOR_NAMES));
    for domain in unknown {
        match libvirt.guest(domain, deadline) {
            Ok(Some(guest)) => drop(names.insert(domain, guest.name)),
            Ok(None) => {}
            // A libvirt that does not answer knows no more of the next one.
            Err(_) => break,
        }
    }
    Ok(names)
}

/// The name that a guest bore last, as far as the store knows.
pub(crate) fn last_name(store: &Store, uuid: DomainUuid) -> Result<Option<String>, StoreError> {
    store.last_name(uuid)
}
