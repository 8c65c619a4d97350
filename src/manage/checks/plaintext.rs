//! Keys and TPM states on the disk that need not be there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::finding::unreadable;
use super::{Finding, KeyFinding, last_name};
use crate::domain::Vtpm;
use crate::guard::plain_state;
use crate::host::path_error::PathError;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::Guest;
use crate::manage::guests::{GuestRef, ListedGuest};
use crate::manage::host::Host;
use crate::swtpm;

/// libvirt's own copies of vTPM keys. It keeps persistent secrets as `UUID.xml`, and the value in
/// `UUID.base64` or, since libvirt 12.1, encrypted in `UUID.aes256cbc`.
pub(super) fn in_libvirt(host: &Host, guests: Option<&[ListedGuest]>) -> Vec<Finding> {
    let directory = &host.libvirt_dirs().secrets();
    let staged = host.run_dir().staged();
    // A link to a staged key, on tmpfs, is the guard's own, also one that leads to nothing by now.
    let is_staged =
        |file: &Path| fs::read_link(file).is_ok_and(|target| target.starts_with(&staged));
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| !is_staged(file))
            .filter_map(|file| key_in(file, guests))
            .map(Finding::from)
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => vec![unreadable(directory, error)],
    }
}

fn key_in(file: PathBuf, guests: Option<&[ListedGuest]>) -> Option<KeyFinding> {
    let encrypted = match file.extension()?.to_str()? {
        "base64" => false,
        "aes256cbc" => true,
        _ => return None,
    };
    // libvirt writes these files itself, always in the same way.
    let definition = fs::read_to_string(file.with_extension("xml")).ok()?;
    let is_for_a_vtpm = definition.contains("<usage type='vtpm'>");
    let secret = file.file_stem()?.to_str();
    let secret = secret.and_then(|uuid| SecretUuid::parse(uuid).ok());
    is_for_a_vtpm.then(|| KeyFinding::OnDisk {
        file,
        encrypted,
        secret,
        guests: guests.and_then(|guests| naming(guests, secret)),
    })
}

/// The guests that name this secret; `None` if one of them all cannot be read: it may.
fn naming(guests: &[ListedGuest], secret: Option<SecretUuid>) -> Option<Vec<GuestRef>> {
    let domains: Result<Vec<_>, _> = guests.iter().map(|guest| guest.domain.as_ref()).collect();
    let naming = domains.ok()?.into_iter().filter(|domain| {
        let named = domain.encrypted_vtpm().map(|(_, secret)| secret);
        named.is_some() && named == secret
    });
    let guests = naming.map(|domain| GuestRef::called(domain.uuid, &domain.name));
    Some(guests.collect())
}

/// What is left of earlier TPM states in the files of encrypted ones. A state that cannot be read is
/// reported as that of a guest that would not start.
pub(super) fn in_state_files(host: &Host, guests: &[ListedGuest]) -> Vec<Finding> {
    let states = host.libvirt_dirs().tpm_states();
    let left = |guest: &ListedGuest| {
        let domain = guest.domain.as_ref().ok()?;
        let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
            return None;
        };
        vtpm.secret_uuid?;
        let is_left = swtpm::has_remains(&states, domain.uuid, vtpm).unwrap_or(false);
        is_left.then(|| KeyFinding::OldStateLeft {
            guest: GuestRef::called(domain.uuid, &domain.name),
            file: swtpm::state_path(&states, domain.uuid, vtpm),
        })
    };
    guests.iter().filter_map(left).map(Finding::from).collect()
}

/// The unencrypted TPM states that `encrypt` keeps until the guest has started.
/// `known`: those that libvirt knows, if it has listed them.
pub(super) fn kept_by_encrypt(host: &Host, known: Option<&[Guest]>) -> Vec<Finding> {
    match plain_state::list(host.state_dir()) {
        Ok(guests) => guests
            .into_iter()
            .map(|guest| kept_state(host, guest, known).into())
            .collect(),
        Err(PathError { path, source }) => vec![unreadable(&path, source)],
    }
}

fn kept_state(host: &Host, guest: DomainUuid, known: Option<&[Guest]>) -> KeyFinding {
    let found = known.and_then(|known| known.iter().find(|one| one.uuid == guest));
    let name = found.map(|found| found.name.clone());
    KeyFinding::PlainState {
        guest,
        is_known: known.is_none() || found.is_some(),
        name: name.or_else(|| last_name(host, guest)),
    }
}
