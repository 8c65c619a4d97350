//! `status`: the guard on this host, and every guest with an emulated TPM.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::dry_start::{CheckedGuest, UnsealedKeks, check};
use super::guests::ListedGuest;
use super::host::{Host, HostError, default_deadline};
use super::persist_state::DeletedStates;
use super::provider_list::SealState;
use super::providers::ProviderError;
use super::{json, sync, unknown_guests};
use crate::clock::{Deadline, Timestamp};
use crate::domain::Vtpm;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::id::KeyId;
use crate::keyring::{Keyring, KeyringError};
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::store::{Access, KeyRefRecord, Store, StoreError};
use crate::verdict::facts::{Proof, Provider};
use crate::verdict::{Decision, Reason};

/// How long libvirt may take to answer at all: `status` is for a quick look, so that it does not wait longer for a daemon
/// that is silent. One that answers may take its time for the list: of ten thousand guests, and beside many starts.
const DEADLINE_FOR_ANSWER: Duration = Duration::from_secs(5);

/// What there is on this host.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) hook: Hook,
    /// "in order", or what is wrong with it.
    pub(crate) configuration: String,
    pub(crate) store: StoreFile,
    pub(crate) providers: Vec<SealedProvider>,
    pub(crate) key_refs: KeyRefCounts,
    /// Guests that have keys and that libvirt does not know; `None` where it cannot be asked.
    pub(crate) guests_unknown_to_libvirt: Option<usize>,
    /// Guests whose keys are to travel and are not in their XML; `None` if none are to, or where
    /// libvirt cannot be asked.
    pub(crate) guests_without_travelling_key: Option<usize>,
    /// Those that pass the filter, by name; `None` where libvirt is unreachable.
    pub(crate) guests: Option<Vec<GuestStatus>>,
    /// Those whose TPM state libvirt deletes.
    #[serde(skip)]
    pub(crate) deleted: DeletedStates,
    /// Those that do not pass.
    #[serde(skip)]
    pub(crate) hidden: usize,
    /// Why libvirt is unreachable.
    #[serde(skip)]
    pub(crate) unreachable: Option<SecretError>,
}

/// The link by which libvirt runs the hook.
#[derive(Debug, Serialize)]
pub(crate) struct Hook {
    #[serde(serialize_with = "json::path")]
    pub(crate) path: PathBuf,
    pub(crate) installed: bool,
}

/// The store's file.
#[derive(Debug, Serialize)]
pub(crate) struct StoreFile {
    #[serde(serialize_with = "json::path")]
    pub(crate) path: PathBuf,
    pub(crate) exists: bool,
}

/// A provider, and how its key is sealed here.
#[derive(Debug, Serialize)]
pub(crate) struct SealedProvider {
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    pub(crate) seal: SealState,
    /// Why it is sealed by nothing that can be used.
    #[serde(skip)]
    pub(crate) trouble: Option<String>,
    pub(crate) exported: bool,
}

/// How many key references are in use.
#[derive(Debug, Serialize)]
pub(crate) struct KeyRefCounts {
    /// With a key.
    pub(crate) keyed: usize,
    /// Without one.
    pub(crate) placeholders: usize,
}

/// A guest with an emulated TPM.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of the JSON")]
pub(crate) struct GuestStatus {
    pub(crate) name: String,
    uuid: Option<DomainUuid>,
    pub(crate) running: bool,
    /// Whether its XML can be read; if not, it is unknown whether its TPM is encrypted.
    pub(crate) readable: bool,
    pub(crate) encrypted: bool,
    key_ref: Option<KeyRefId>,
    pub(crate) provider: Option<String>,
    pub(crate) key_id: Option<KeyId>,
    /// Whether the TPM state proves its key; `None` where it cannot.
    pub(crate) proven: Option<bool>,
    pub(crate) last_start_at: Option<Timestamp>,
    /// Whether whoever starts it brings its key.
    pub(crate) clients_key: bool,
    pub(crate) would_start: bool,
    /// The code of its refusal.
    pub(crate) code: Option<&'static str>,
    /// How many repairs its next start would make.
    pub(crate) repairs: usize,
    /// When libvirt deletes its TPM state, although its key has been used: "undefine", "stop".
    state_deleted_at: Option<&'static str>,
    /// Whether its XML has its keys; `None` if no keys are to travel, or it has none.
    pub(crate) travels: Option<bool>,
}

/// The name of the provider whose guests are asked for: one of this host, by name or UUID, or one that is gone and that
/// key references still name.
pub(crate) fn provider_asked_for(host: &Host, text: &str) -> Result<String, ProviderError> {
    let missing = match host.provider(text, Access::Read) {
        Ok((_, provider)) => return Ok(provider.name),
        Err(missing @ ProviderError::Host(HostError::Store(StoreError::NoProvider(_)))) => missing,
        Err(error) => return Err(error),
    };
    let Some(store) = host.store(Access::Read)? else {
        return Err(missing);
    };
    let mut rows = store.all_key_refs(None, false)?.into_iter();
    if rows.any(|row| row.key_ref.provider_name == text) {
        return Ok(text.to_owned());
    }
    Err(missing)
}

/// Looks at the host and its guests, and keeps those that pass the filter. `progress` is called
/// with the number of guests and the name of each.
pub(crate) fn status(
    host: &Host,
    passes: impl Fn(&GuestStatus) -> bool,
    progress: &(dyn Fn(usize, &str) + Sync),
) -> Result<Status, HostError> {
    let listed = list(host);
    let store = host.store(Access::Read)?;
    let providers = store.as_ref().map_or(Ok(Vec::new()), Store::providers)?;
    let rows = store
        .as_ref()
        .map_or(Ok(Vec::new()), |store| store.all_key_refs(None, false))?;
    let is_placeholder = |row: &&KeyRefRecord| row.key_ref.wrapped_dek.is_none();
    let placeholders = rows.iter().filter(is_placeholder).count();
    let keyring = host.keyring();
    let hook = host.libvirt_dirs().present_hook();
    let mut status = Status {
        hook: Hook {
            installed: hook.exists(),
            path: hook,
        },
        configuration: host
            .config()
            .map_or_else(|error| error.to_string(), |_| "in order".to_owned()),
        store: StoreFile {
            path: host.state_dir().store(),
            exists: store.is_some(),
        },
        providers: providers
            .into_iter()
            .map(|provider| SealedProvider::new(provider, &keyring))
            .collect(),
        key_refs: KeyRefCounts {
            keyed: rows.len() - placeholders,
            placeholders,
        },
        guests_unknown_to_libvirt: None,
        guests_without_travelling_key: None,
        guests: None,
        deleted: DeletedStates::default(),
        hidden: 0,
        unreachable: None,
    };
    match listed {
        Ok(listed) => {
            status.guests_unknown_to_libvirt = unknown_guests::count(host, &listed);
            let running = running(&listed);
            let listed: Vec<_> = listed.into_iter().map(ListedGuest::from).collect();
            let absent = sync::not_travelling(host, &listed);
            status.guests_without_travelling_key = absent.as_ref().map(Vec::len);
            let (mut guests, deleted) = guests(host, store.as_ref(), listed, &running, progress)?;
            status.deleted = deleted;
            if let Some(absent) = absent.as_deref().map(sync::uuids) {
                for guest in &mut guests {
                    guest.note_travel(&absent);
                }
            }
            let all = guests.len();
            guests.retain(passes);
            status.hidden = all - guests.len();
            status.guests = Some(guests);
        }
        Err(error) => status.unreachable = Some(error),
    }
    Ok(status)
}

fn list(host: &Host) -> Result<Vec<Guest>, SecretError> {
    let libvirt = host.libvirt();
    // Any UUID will do: the question is whether there is an answer.
    libvirt.guest(DomainUuid::random(), Deadline::after(DEADLINE_FOR_ANSWER))?;
    libvirt.guests(default_deadline())
}

fn guests(
    host: &Host,
    store: Option<&Store>,
    mut guests: Vec<ListedGuest>,
    running: &BTreeMap<DomainUuid, bool>,
    progress: &(dyn Fn(usize, &str) + Sync),
) -> Result<(Vec<GuestStatus>, DeletedStates), HostError> {
    guests.retain(has_vtpm);
    let deleted = DeletedStates::find(host, &guests)?;
    let last_starts = store.map_or(Ok(BTreeMap::new()), Store::last_starts)?;
    let checked = check(host, &guests, &UnsealedKeks::default(), &|name| {
        progress(guests.len(), name);
    })?;
    // A guest that runs may have started without the guard: libvirt notes its process then.
    let running_dir = host.libvirt_dirs().running();
    let describe = |guest: CheckedGuest| {
        let uuid = guest.uuid();
        let mut described = GuestStatus::new(guest);
        described.state_deleted_at = uuid.and_then(|uuid| deleted.moment(uuid));
        described.running = uuid.is_some_and(|uuid| running.get(&uuid) == Some(&true));
        let decided_at = uuid.and_then(|uuid| last_starts.get(&uuid).copied());
        let made = fs::metadata(running_dir.join(format!("{}.pid", described.name)));
        let started_at = made.and_then(|file| file.modified()).ok();
        let started_at = started_at
            .filter(|_| described.running)
            .map(Timestamp::from);
        described.last_start_at = decided_at.max(started_at);
        described
    };
    let mut guests: Vec<_> = checked.into_iter().map(describe).collect();
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((guests, deleted))
}

fn running(guests: &[Guest]) -> BTreeMap<DomainUuid, bool> {
    let guests = guests.iter();
    guests.map(|guest| (guest.uuid, guest.running)).collect()
}

/// A guest whose XML cannot be read may have one too.
fn has_vtpm(guest: &ListedGuest) -> bool {
    match &guest.domain {
        Ok(domain) => matches!(domain.vtpm, Some(Vtpm::Emulator(_))),
        Err(_) => true,
    }
}

impl GuestStatus {
    fn new(guest: CheckedGuest) -> Self {
        let uuid = guest.uuid();
        let (domain, verdict) = (guest.outcome.domain, guest.outcome.verdict);
        let key = guest.outcome.key;
        let code = match verdict.decision() {
            Decision::Allow(_) => None,
            Decision::Deny(refusal) => Some(refusal.code().as_str()),
        };
        Self {
            name: guest.name,
            uuid,
            running: false,
            readable: domain.is_some(),
            encrypted: domain.is_some_and(|domain| domain.encrypted_vtpm().is_some()),
            key_ref: key.as_ref().map(|key| key.key_ref),
            key_id: key.as_ref().and_then(|key| key.key_id),
            proven: key.as_ref().and_then(|key| match key.proof {
                Proof::Proven => Some(true),
                Proof::Refuted => Some(false),
                Proof::None => None,
            }),
            provider: key.map(|key| key.provider_name),
            last_start_at: None,
            clients_key: verdict.decision() == &Decision::Allow(Reason::ClientsKey),
            would_start: code.is_none(),
            code,
            repairs: verdict.repairs().len(),
            state_deleted_at: None,
            travels: None,
        }
    }

    /// Keys are to travel; those of these guests do not.
    fn note_travel(&mut self, absent: &BTreeSet<DomainUuid>) {
        let has_key = self.key_ref.is_some() && self.encrypted;
        self.travels = self
            .uuid
            .filter(|_| has_key)
            .map(|uuid| !absent.contains(&uuid));
    }
}

impl SealedProvider {
    fn new(provider: Provider, keyring: &Keyring) -> Self {
        let seal = keyring.seal(provider.key_id);
        Self {
            seal: SealState::from(&seal),
            trouble: match seal {
                Ok(_) => None,
                Err(KeyringError::Missing(_)) => Some("nothing: its key is missing".to_owned()),
                Err(error) => Some(format!("nothing usable: {error}")),
            },
            name: provider.name,
            key_id: provider.key_id,
            exported: provider.exported_at.is_some(),
        }
    }
}
