//! What holds of a host whatever has happened to a program on it (docs/invariants.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// The keys of its providers.
    provider_keys: BTreeMap<KeyId, Kek>,
    /// The root-only files that hold one of them in clear, as on a host without systemd credentials.
    in_clear: BTreeMap<PathBuf, KeyId>,
}

/// What may differ from what always holds, because a command is there to change it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowed {
    /// Keys may be gone that no guest needs any more.
    pub(super) forgets_keys: bool,
    /// A guest may lose its TPM, as it was said.
    pub(super) forgets_tpms: bool,
    /// A guest may be refused until the command has been run again.
    pub(super) refuses_until_again: bool,
}

impl Known {
    pub(super) fn of(host: &Fixture) -> Self {
        let guests = guests(host);
        let provider_keys = provider_keys(host);
        let keys = keys(host, &guests, &provider_keys);
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
            in_clear: in_clear(host),
            provider_keys,
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
        let provider_keys = provider_keys(host);
        let keys = keys(host, &guests(host), &provider_keys);
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
            if !allowed.forgets_tpms && !tpms_of(host, guest, keys).contains(data) {
                broken.push(format!("the TPM of {} is lost", guest.name));
            }
            let must_start = self.startable.contains(&guest.uuid) && !allowed.refuses_until_again;
            if must_start && !host.is_allowed(guest) {
                broken.push(format!("{} would not start any more", guest.name));
            }
        }
        let search = Search {
            guests: guest_forms([&keys, &self.keys]),
            providers: provider_forms([&provider_keys, &self.provider_keys]),
            in_clear: &self.in_clear,
        };
        broken.extend(search.of(host));
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

fn provider_keys(host: &Fixture) -> BTreeMap<KeyId, Kek> {
    let key_ids = key_files(host).into_values();
    let keyring = host.host.keyring();
    key_ids
        .filter_map(|id| Some((id, keyring.open(id, default_deadline()).ok()?)))
        .collect()
}

/// The directories of provider keys: on the disk, and on tmpfs.
fn keyrings(host: &Fixture) -> [PathBuf; 2] {
    [host.host.state_dir().keys(), host.host.run_dir().keys()]
}

/// The files that are named after a provider key.
fn key_files(host: &Fixture) -> BTreeMap<PathBuf, KeyId> {
    let files = keyrings(host)
        .into_iter()
        .flat_map(fs::read_dir)
        .flatten()
        .flatten();
    let named =
        files.filter_map(|file| Some((file.path(), KeyId::parse(file.file_name().to_str()?)?)));
    named.collect()
}

fn in_clear(host: &Fixture) -> BTreeMap<PathBuf, KeyId> {
    let mut files = key_files(host);
    files.retain(|path, _| fs::read(path).unwrap().starts_with(IN_CLEAR));
    files
}

fn keys(
    host: &Fixture,
    guests: &[Defined],
    provider_keys: &BTreeMap<KeyId, Kek>,
) -> BTreeMap<DomainUuid, BTreeSet<Key>> {
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

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if entry.file_type().is_ok_and(|it| it.is_file()) {
            found.push(path);
        }
    }
    found
}

/// How a key would be written in clear: as it is, in Base64, in hexadecimal digits.
fn forms(key: &[u8]) -> [Vec<u8>; 3] {
    let mut text = vec![0; Base64::encoded_len(key)];
    let base64 = Base64::encode(key, &mut text).unwrap();
    let hex = key.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    [key.to_vec(), base64.as_bytes().to_vec(), hex.into_bytes()]
}

/// The forms of the keys of guests.
fn guest_forms(keys: [&BTreeMap<DomainUuid, BTreeSet<Key>>; 2]) -> BTreeSet<[Vec<u8>; 3]> {
    let keys = keys.into_iter().flat_map(BTreeMap::values).flatten();
    keys.map(|key| forms(key)).collect()
}

/// The forms of provider keys.
fn provider_forms(keys: [&BTreeMap<KeyId, Kek>; 2]) -> BTreeMap<KeyId, [Vec<u8>; 3]> {
    let keys = keys.into_iter().flatten();
    keys.map(|(id, kek)| (*id, forms(kek.expose()))).collect()
}

/// How files of sealed provider keys begin, and of those that are not (src/keyring).
const SEALED: &[u8] = b"vtpm-guard-kek 1 systemd-creds ";
const IN_CLEAR: &[u8] = b"vtpm-guard-kek 1 root-only\n";

/// A search for keys in clear.
struct Search<'a> {
    guests: BTreeSet<[Vec<u8>; 3]>,
    providers: BTreeMap<KeyId, [Vec<u8>; 3]>,
    /// Files that are there to hold this key in clear.
    in_clear: &'a BTreeMap<PathBuf, KeyId>,
}

impl Search<'_> {
    /// Searches all files of a host, but for what is libvirt's own (its memory, which is in files here, and secrets
    /// that are not ephemeral) and what is staged for it on tmpfs.
    fn of(&self, host: &Fixture) -> Vec<String> {
        let left_out = [
            host.root().join("libvirt/memory"),
            host.libvirt.dirs().secrets(),
            host.host.run_dir().staged(),
        ];
        let keyrings = keyrings(host);
        let files = files_below(host.root()).into_iter();
        let searched = files.filter(|path| !left_out.iter().any(|dir| path.starts_with(dir)));
        let found = searched.filter_map(|path| match fs::read(&path) {
            Ok(bytes) => {
                let in_keyring = keyrings.iter().any(|dir| path.starts_with(dir));
                let what = self.key_in(&path, &bytes, in_keyring)?;
                Some(format!("{} holds {what} in clear", path.display()))
            }
            Err(error) => Some(format!("{} was not searched: {error}", path.display())),
        });
        found.collect()
    }

    fn key_in(&self, path: &Path, bytes: &[u8], in_keyring: bool) -> Option<&'static str> {
        let holds = |forms: &[Vec<u8>; 3]| forms.iter().any(|form| contains(bytes, form));
        if self.guests.iter().any(holds) {
            return Some("a guest's key");
        }
        let own = self.is_meant_for(path);
        let mut others = self.providers.iter().filter(|(id, _)| Some(**id) != own);
        if others.any(|(_, forms)| holds(forms)) {
            return Some("a provider's key");
        }
        // Also a key that nobody knows yet, or any more.
        let is_sealed = bytes.starts_with(SEALED) || SEALED.starts_with(bytes);
        (in_keyring && own.is_none() && !is_sealed).then_some("what is not sealed, perhaps")
    }

    /// The provider key that this file is there to hold in clear, if only its owner can read it.
    fn is_meant_for(&self, path: &Path) -> Option<KeyId> {
        let mode = fs::symlink_metadata(path).ok()?.mode() & 0o7777;
        self.in_clear.get(path).copied().filter(|_| mode == 0o600)
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && memchr::memmem::find(haystack, needle).is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key_file(host: &Fixture, provider: &str) -> PathBuf {
        let keys = host.host.state_dir().keys();
        keys.join(host.provider(provider).key_id.to_string())
    }

    fn write(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_provider_key_in_clear_is_found_wherever_it_is_but_in_its_own_file() {
        let host = Fixture::new();
        host.guest_in_use("vm1");
        let known = Known::of(&host);
        let broken = || known.broken(&host, Allowed::default());
        assert_eq!(broken(), [""; 0]);
        let (own, other) = (key_file(&host, "a"), key_file(&host, "b"));
        let (key, others) = (fs::read(&own).unwrap(), fs::read(&other).unwrap());
        let keys = own.parent().unwrap();
        for left in [
            keys.join(".vtpm-guard-0123456789abcdef"),
            keys.join(Kek::generate().unwrap().key_id().to_string()),
            host.host.run_dir().keys().join(own.file_name().unwrap()),
            host.host.state_dir().join("copy"),
            host.libvirt.dirs().definitions().join("copy"),
            host.root().join("copy"),
        ] {
            write(&left, &key);
            let found = broken();
            assert_eq!(found.len(), 1, "{}: {found:?}", left.display());
            assert!(found[0].contains(left.to_str().unwrap()), "{found:?}");
            fs::remove_file(left).unwrap();
        }
        assert_eq!(broken(), [""; 0]);
        // In another's file.
        write(&other, &[&others[..], &key].concat());
        assert!(
            broken().iter().any(|it| it.contains("a provider's key")),
            "{:?}",
            broken()
        );
        write(&other, &others);
        // Others could read it.
        fs::set_permissions(&own, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(broken().iter().any(|it| it.contains(own.to_str().unwrap())));
        fs::set_permissions(&own, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(broken(), [""; 0]);
    }

    #[test]
    fn a_provider_key_that_nobody_knows_is_found_in_the_keyring_unless_it_is_sealed() {
        let host = Fixture::new();
        let known = Known::of(&host);
        let broken = || known.broken(&host, Allowed::default());
        let left = key_file(&host, "a").with_file_name(".vtpm-guard-0123456789abcdef");
        for (bytes, is_sealed) in [
            (&b""[..], true),
            (b"vtpm-guard-kek 1 sys", true),
            (
                b"vtpm-guard-kek 1 systemd-creds host\nWhxqht+dQJax1aZeCGLxmi",
                true,
            ),
            (b"vtpm-guard-kek 1 root-only\n0011", false),
            (b"00112233", false),
        ] {
            write(&left, bytes);
            assert_eq!(broken().is_empty(), is_sealed, "{bytes:?}");
        }
    }

    #[test]
    fn a_guests_key_in_clear_is_found_in_whatever_form_it_has() {
        let host = Fixture::new();
        let guest = host.define("vm1");
        let dek = Dek::generate().unwrap();
        host.add_key(&guest, "a", &dek);
        host.encrypt_state(&guest, &dek);
        let known = Known::of(&host);
        for form in forms(dek.expose()) {
            let left = host.root().join("left");
            write(&left, &[b"..", &form[..], b".."].concat());
            let found = known.broken(&host, Allowed::default());
            assert!(
                found.len() == 1 && found[0].contains("a guest's key"),
                "{found:?}"
            );
            fs::remove_file(left).unwrap();
        }
    }
}
