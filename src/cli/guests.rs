//! The guests that `check` and `repair` are asked about, with their XML from libvirt or a file.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::context::{self, Context};
use super::domains;
use crate::cli::ui::error::AdminError;
use crate::domain::{self, Domain, UnreadableDomain};
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Guest, Libvirt};

/// A guest, or why its XML could not be read.
pub(crate) struct NamedGuest {
    pub(crate) name: String,
    pub(crate) domain: Result<Domain, UnreadableDomain>,
}

impl From<Guest> for NamedGuest {
    fn from(guest: Guest) -> Self {
        let domain = domain::examine(guest.xml.as_bytes());
        Self {
            name: guest.name,
            domain,
        }
    }
}

/// All guests that libvirt knows.
pub(crate) fn all() -> Result<Vec<NamedGuest>, AdminError> {
    let guests = list()?;
    Ok(guests.into_iter().map(NamedGuest::from).collect())
}

/// All guests, as libvirt describes them, by name.
pub(crate) fn list() -> Result<Vec<Guest>, AdminError> {
    let mut guests = context::libvirt()
        .guests(context::patience())
        .map_err(|error| unreachable(&error))?;
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(guests)
}

/// The guests that libvirt knows under these names or UUIDs.
pub(crate) fn named(context: &Context, names: &[String]) -> Result<Vec<NamedGuest>, AdminError> {
    let find = |name: &String| domains::defined(context, name).map(NamedGuest::from);
    names.iter().map(find).collect()
}

/// The guest of a captured XML; `-` is stdin.
pub(crate) fn from_file(file: &Path) -> Result<NamedGuest, AdminError> {
    let read = if file == Path::new("-") {
        domain::examine(io::stdin().lock())
    } else {
        let failed = |error: io::Error| {
            AdminError::failed(format!("{}: {error}", file.display()))
                .with_hint("the domain XML of a guest: virsh dumpxml DOMAIN")
        };
        let opened = File::open(file).map_err(failed)?;
        if opened.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        domain::examine(BufReader::new(opened))
    };
    let name = match &read {
        Ok(domain) => domain.name.clone(),
        Err(_) => file.display().to_string(),
    };
    Ok(NamedGuest { name, domain: read })
}

/// What a guest of libvirt's could not be asked for.
pub(crate) fn unreachable(error: &SecretError) -> AdminError {
    AdminError::failed(format!("libvirt cannot be asked: {error}"))
        .with_hint("see whether it runs: virsh -c qemu:///system list --all")
}
