//! DOMAIN arguments: a guest's name or UUID.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::context::{self, Context};
use super::error::AdminError;
use super::guests::unreachable;
use crate::clock::Deadline;
use crate::ids::DomainUuid;
use crate::report::one_line;
use crate::store::{Access, Store, StoreError};

/// A guest that was named on the command line.
pub(super) struct NamedDomain {
    /// Its UUID.
    pub(super) uuid: DomainUuid,
    /// Its name, where it was given, or is known to the store.
    pub(super) name: Option<String>,
}

/// How long libvirt may take to say whose a UUID is, which names a guest also without it.
const PATIENCE_FOR_UUID: Duration = Duration::from_secs(3);

/// Finds the guest that `text` names: the one of this UUID or this name that libvirt knows (a
/// name may look like a UUID), else whoever has this UUID, else one of the store's history.
pub(super) fn resolve(context: &Context, text: &str) -> Result<NamedDomain, AdminError> {
    let uuid = DomainUuid::parse(text).ok();
    let deadline = match uuid {
        Some(_) => Deadline::after(PATIENCE_FOR_UUID),
        None => context::patience(),
    };
    let asked = context::libvirt().guest(text, deadline);
    if let Ok(Some(guest)) = &asked {
        return Ok(NamedDomain {
            uuid: guest.uuid,
            name: Some(guest.name.clone()),
        });
    }
    if let Some(uuid) = uuid {
        let name = match context.store(Access::Read)? {
            Some(store) => store.last_name(uuid)?,
            None => None,
        };
        return Ok(NamedDomain { uuid, name });
    }
    if let Some(store) = context.store(Access::Read)?
        && let Some(uuid) = store.domain_uuid_by_name(text)?
    {
        return Ok(NamedDomain {
            uuid,
            name: Some(text.to_owned()),
        });
    }
    match asked {
        Err(error) => Err(unreachable(&error).with_hint("name the guest by its UUID")),
        Ok(_) => Err(AdminError::usage(format!("there is no guest \"{text}\""))
            .with_hint("see which there are: virsh list --all")),
    }
}

/// The same, but a name that is only history's names nobody, where libvirt says so: it may be
/// that of one failed attempt, whose UUID never comes back.
pub(super) fn resolve_present(context: &Context, text: &str) -> Result<NamedDomain, AdminError> {
    if DomainUuid::parse(text).is_err()
        && matches!(
            context::libvirt().guest(text, context::patience()),
            Ok(None)
        )
        && let Some(store) = context.store(Access::Read)?
        && let Some(uuid) = store.domain_uuid_by_name(text)?
    {
        return Err(AdminError::refused(format!(
            "libvirt knows no guest \"{}\"; the history does, under the UUID {uuid}, which may \
             have been that of one attempt",
            one_line(text)
        ))
        .with_hint(format!(
            "define it first (virsh define FILE), or name the UUID that it will have: vtpm-guard \
             key bind {uuid} --provider NAME"
        )));
    }
    resolve(context, text)
}

/// How long libvirt may take to name the guests that the history does not know.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(2);

/// The names of guests: those that they bore last, else what libvirt calls them.
pub(super) fn names(
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
        match libvirt.guest(&domain.to_string(), deadline) {
            Ok(Some(guest)) => drop(names.insert(domain, guest.name)),
            Ok(None) => {}
            // A libvirt that does not answer knows no more of the next one.
            Err(_) => break,
        }
    }
    Ok(names)
}
