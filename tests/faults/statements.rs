//! What holds of a host whatever has happened to a program on it (docs/invariants.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding};

use crate::domain;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::host::default_deadline;
use crate::manage::tests::fixture::{Defined, Fixture};
use crate::store::StoreFinding;
use crate::swtpm::TpmData;

type Key = Vec<u8>;

/// What is known of a host at one moment.
pub(super) struct Known {
    /// The keys that the host can open, of each guest: in rows, in use or not, and in libvirt.
    keys: BTreeMap<DomainUuid, BTreeSet<Key>>,
    /// The data of each guest's TPM.
    tpms: BTreeMap<DomainUuid, Vec<u8>>,
    /// Guests whose start would be allowed.
    startable: BTreeSet<DomainUuid>,
    findings: Vec<StoreFinding>,
    guests: Vec<Defined>,
}

/// What may differ from what always holds, because a command is there to change it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowed {
    /// Keys may be gone that no guest needs any more.
    pub(super) forgets_keys: bool,
    /// A guest may be refused until the command has been run again.
    pub(super) refuses_until_again: bool,
}

impl Known {
    pub(super) fn of(host: &Fixture) -> Self {
        let guests = guests(host);
        let keys = keys(host, &guests);
        let tpms = guests.iter().filter_map(|guest| {
            let found = tpms_of(host, guest, keys.get(&guest.uuid)?);
            Some((guest.uuid, found.into_iter().next()?))
        });
        let tpms = tpms.collect();
        let startable = guests.iter().filter(|guest| host.is_allowed(guest));
        let startable = startable.map(|guest| guest.uuid).collect();
        Self {
            tpms,
            startable,
            findings: host.store().check().unwrap(),
            guests: guests.clone(),
            keys,
        }
    }

    /// What does not hold any more.
    pub(super) fn broken(&self, host: &Fixture, allowed: Allowed) -> Vec<String> {
        let mut broken = Vec::new();
        let store = match host.host.store(crate::store::Access::Write) {
            Ok(Some(store)) => store,
            Ok(None) => return vec!["the store is gone".to_owned()],
            Err(error) => return vec![format!("the store does not open: {error}")],
        };
        match store.check() {
            Ok(findings) => {
                let new = findings.iter().filter(|it| !self.findings.contains(it));
                broken.extend(new.map(|finding| format!("half a change: {finding:?}")));
            }
            Err(error) => broken.push(format!("the store cannot be checked: {error}")),
        }
        drop(store);
        let keys = keys(host, &guests(host));
        for (guest, known) in &self.keys {
            let now = keys.get(guest);
            let is_lost = |key: &&Key| !now.is_some_and(|now| now.contains(*key));
            let lost = known.iter().filter(is_lost).count();
            if lost > 0 && !allowed.forgets_keys {
                broken.push(format!("{lost} keys of the guest {guest} are lost"));
            }
        }
        for guest in &self.guests {
            let (Some(data), Some(keys)) = (self.tpms.get(&guest.uuid), keys.get(&guest.uuid))
            else {
                continue;
            };
            if !tpms_of(host, guest, keys).contains(data) {
                broken.push(format!("the TPM of {} is lost", guest.name));
            }
            let is_allowed = host.is_allowed(guest);
            let was = self.startable.contains(&guest.uuid);
            if was && !is_allowed && !allowed.refuses_until_again {
                broken.push(format!("{} would not start any more", guest.name));
            }
        }
        let all: BTreeSet<_> = keys.values().chain(self.keys.values()).flatten().collect();
        let disk = host.host.state_dir();
        look_for_keys(disk, &all, &keks(host), &mut broken);
        let files = host.libvirt.dirs().definitions();
        look_for_keys(&files, &all, &keks(host), &mut broken);
        broken
    }
}

/// The guests that libvirt knows.
fn guests(host: &Fixture) -> Vec<Defined> {
    use crate::libvirt::Libvirt;
    let known = host.libvirt.guests(default_deadline()).unwrap();
    let defined = |guest: crate::libvirt::Guest| {
        let read = domain::read(guest.xml.as_bytes()).ok()?;
        read.vtpm.as_ref()?;
        let secret = read.encrypted_vtpm().map(|(_, secret)| secret);
        Some(Defined {
            name: guest.name,
            uuid: guest.uuid,
            secret: secret.unwrap_or_else(crate::ids::SecretUuid::random),
        })
    };
    known.into_iter().filter_map(defined).collect()
}

fn keks(host: &Fixture) -> BTreeMap<KeyId, Kek> {
    // On the disk, and on tmpfs.
    let dirs = [host.host.state_dir().keys(), host.host.run_dir().keys()];
    let files = dirs.into_iter().flat_map(fs::read_dir).flatten().flatten();
    let key_ids = files.filter_map(|file| KeyId::parse(file.file_name().to_str()?));
    let keyring = host.host.keyring();
    key_ids
        .filter_map(|id| Some((id, keyring.open(id, default_deadline()).ok()?)))
        .collect()
}

fn keys(host: &Fixture, guests: &[Defined]) -> BTreeMap<DomainUuid, BTreeSet<Key>> {
    let provider_keys = keks(host);
    let mut keys: BTreeMap<_, BTreeSet<Key>> = BTreeMap::new();
    for guest in guests {
        let value = host.libvirt.secrets.value(guest.secret);
        keys.entry(guest.uuid).or_default().extend(value);
    }
    for row in host.store().all_key_refs(None, true).unwrap() {
        let Some(wrapped) = &row.key_ref.wrapped_dek else {
            continue;
        };
        let kek = wrapped.key_id().ok();
        let kek = kek.and_then(|id| provider_keys.get(&id));
        let dek = kek.and_then(|kek| wrapped.unwrap(kek, row.domain).ok().flatten());
        let bytes = dek.map(|dek| dek.expose().to_vec());
        keys.entry(row.domain).or_default().extend(bytes);
    }
    keys
}

/// The data of every state of the guest's TPM that one of its keys opens: the one in force, and
/// those that the guard has saved.
fn tpms_of(host: &Fixture, guest: &Defined, keys: &BTreeSet<Key>) -> Vec<Vec<u8>> {
    let mut blobs = vec![fs::read(host.state_file(guest)).unwrap_or_default()];
    let dir = host.host.state_dir();
    for saved in [dir.tpm_copies(), dir.plain_states()] {
        for path in files_below(&saved.join(guest.uuid.to_string())) {
            blobs.extend(fs::read(path));
        }
    }
    let mut found = Vec::new();
    for blob in &blobs {
        if let Ok(Some(plain)) = TpmData::from_plain(blob) {
            found.push(plain.bytes().to_vec());
        }
        let opened = keys.iter().filter_map(|key| {
            let dek = Dek::from_bytes(key.clone().into());
            TpmData::decrypt(blob, &dek).ok()
        });
        found.extend(opened.map(|data| data.bytes().to_vec()));
    }
    found
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Looks for keys in clear in all files of a directory; those of providers that are sealed for root
/// alone are in their own files.
fn look_for_keys(
    dir: &Path,
    keys: &BTreeSet<&Key>,
    provider_keys: &BTreeMap<KeyId, Kek>,
    broken: &mut Vec<String>,
) {
    for path in files_below(dir) {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                broken.push(format!("{} was not searched: {error}", path.display()));
                continue;
            }
        };
        let holds = |key: &[u8]| {
            let mut text = vec![0; Base64::encoded_len(key)];
            let base64 = Base64::encode(key, &mut text).unwrap();
            let hex = key.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            [key, base64.as_bytes(), hex.as_bytes()]
                .iter()
                .any(|form| contains(&bytes, form))
        };
        let is_sealed = path.parent().is_some_and(|dir| dir.ends_with("keys"));
        let mut provider_keys = provider_keys.values();
        let kek = provider_keys.any(|kek| !is_sealed && holds(kek.expose()));
        if kek || keys.iter().any(|key| holds(key)) {
            broken.push(format!("{} holds a key in clear", path.display()));
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && memchr::memmem::find(haystack, needle).is_some()
}
