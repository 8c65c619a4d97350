//! The other guests of the host: each has a key in the store, and libvirt knows some of them, which have run: they have a
//! definition and a TPM state that their key opens. `status` and `check --all` look at these.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::swtpm::TpmData;

use super::number;
use crate::guest::{Guest, KeyRef};
use crate::host::Host;

/// How many other guests have keys, and how many of these libvirt knows: set by `./dev storm`.
const OTHERS: &str = "VTPM_GUARD_STORM_OTHERS";
const DEFINED: &str = "VTPM_GUARD_STORM_DEFINED";

/// How many different keys the guests have that libvirt knows. To encrypt a state takes tests ten milliseconds.
const DIFFERENT: usize = 32;

/// How many guests are defined by one call of virsh.
const AT_ONCE: usize = 1000;

/// Where libvirt has TPM states.
const STATES: &str = "/var/lib/libvirt/swtpm";

/// What is known of the keys of other guests.
pub(super) type Keys = BTreeMap<DomainUuid, Vec<u8>>;

/// The other guests.
pub(super) struct Others {
    /// The keys of all.
    pub(super) keys: Keys,
    /// How many of them libvirt knows.
    pub(super) defined: usize,
}

/// A key, and a TPM state that it opens.
struct OpenedState {
    dek: Dek,
    bytes: Vec<u8>,
}

impl Host {
    /// Gives the host other guests: their keys as another tool does.
    pub(super) fn add_others(&self) -> Others {
        let (pattern, dek) = self.used_guest();
        let tpm = TpmData::decrypt(&self.tpm_state(&pattern), &dek).unwrap();
        let state = |_| {
            let dek = Dek::generate().unwrap();
            let bytes = tpm.encrypt(&dek).unwrap();
            OpenedState { dek, bytes }
        };
        let states: Vec<_> = (0..DIFFERENT).map(state).collect();
        let guests: Vec<_> = (0..number(DEFINED, 48)).map(guest).collect();
        for (guest, state) in guests.iter().zip(states.iter().cycle()) {
            self.install_state(guest, &pattern, &state.bytes);
        }
        self.define_all(&guests);

        let mut keys = Keys::from([(pattern.uuid, dek.expose().to_vec())]);
        let deks = states.iter().map(|state| &state.dek).cycle();
        let known = guests.iter().map(Some).zip(deks);
        let unknown: Vec<_> = (guests.len()..number(OTHERS, 1_000))
            .map(|_| Dek::generate().unwrap())
            .collect();
        self.insert_keys(
            known.chain(unknown.iter().map(|dek| (None, dek))),
            &mut keys,
        );
        Others {
            keys,
            defined: 1 + guests.len(),
        }
    }

    /// A guest that has run, and its key.
    fn used_guest(&self) -> (Guest, Dek) {
        let guest = self.define_bound_guest("pattern", "nkp-a");
        self.start_and_stop(&guest);
        let dek = self.only_key_ref(&guest).dek(&guest, &self.kek("nkp-a"));
        (guest, dek)
    }

    /// A key of each of these guests; of one that libvirt does not know nothing is known but the key.
    fn insert_keys<'k>(
        &self,
        guests: impl Iterator<Item = (Option<&'k Guest>, &'k Dek)>,
        keys: &mut Keys,
    ) {
        let kek = self.kek("nkp-a");
        let (provider, _) = self.provider("nkp-a");
        let mut store = self.store();
        let transaction = store.transaction().unwrap();
        for (guest, dek) in guests {
            let domain = guest.map_or_else(DomainUuid::random, |guest| guest.uuid);
            let wrapped = WrappedDek::wrap(&kek, dek, domain, Generation(1)).unwrap();
            let row = KeyRef {
                id: 0,
                secret_uuid: guest.map(|guest| guest.secret.to_string()),
                provider_uuid: Some(provider.clone()),
                provider_name: "nkp-a".to_owned(),
                key_version: Some(1),
                kek_ref: Some(format!("native:{}", kek.key_id())),
                wrapped_dek: Some(wrapped.as_bytes().to_vec()),
                first_used_at: Some(1),
                retired_at: None,
            };
            row.insert(&transaction, domain);
            keys.insert(domain, dek.expose().to_vec());
        }
        transaction.commit().unwrap();
    }

    /// Puts a TPM state where libvirt has it, with the owners and modes that it gave that of another guest.
    fn install_state(&self, guest: &Guest, like: &Guest, state: &[u8]) {
        let of = |guest: &Guest| self.path(&format!("{STATES}/{}", guest.uuid));
        let (to, like) = (of(guest), of(like));
        for inner in ["", "tpm2"] {
            fs::create_dir(to.join(inner)).unwrap();
            as_of(&to.join(inner), &like.join(inner));
        }
        let file = "tpm2/tpm2-00.permall";
        fs::write(to.join(file), state).unwrap();
        as_of(&to.join(file), &like.join(file));
    }

    /// Defines guests, many at a time.
    fn define_all(&self, guests: &[Guest]) {
        for some in guests.chunks(AT_ONCE) {
            let mut commands = String::new();
            for guest in some {
                let file = format!("/run/storm/{}.xml", guest.name);
                self.write(&file, guest.storm_xml());
                commands.extend(["define ", &file, "\n"]);
            }
            self.run_with_input(&["virsh", "--quiet"], &commands).ok();
        }
        let listed = self.virsh(&["list", "--all", "--name"]).ok().stdout;
        let listed = listed.lines().filter(|name| name.starts_with("other-"));
        assert_eq!(listed.count(), guests.len());
    }
}

fn guest(number: usize) -> Guest {
    Guest {
        name: format!("other-{number}"),
        uuid: DomainUuid::random(),
        secret: SecretUuid::random(),
    }
}

/// Gives a file the owner and mode of another one.
fn as_of(path: &Path, like: &Path) {
    let like = fs::metadata(like).unwrap();
    chown(path, Some(like.uid()), Some(like.gid())).unwrap();
    fs::set_permissions(path, like.permissions()).unwrap();
}
