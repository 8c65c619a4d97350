//! `state drop`: removes saved copies of a guest's TPM state for good, and the unencrypted state
//! of before an `encrypt`. The only state that a guest may still need is not removed unless that is
//! forced.

use serde::Serialize;

use super::copies::{JudgedCopy, NamedCopy};
use super::guests::{GuestError, GuestRef};
use super::host::{Host, HostError, default_deadline};
use super::keys::not_opened;
use super::tpm_place;
use crate::clock::Timestamp;
use crate::guard::{plain_state, try_rows};
use crate::ids::DomainUuid;
use crate::messages::count;
use crate::store::{Access, Event, Origin, Store};
use crate::swtpm::StateFile;
use crate::tpm_copies::{self, CopyError, CopyStore};
use crate::verdict::facts::{KeyRef, References, Trial};

/// What `state drop` did.
#[derive(Debug, Serialize)]
pub(crate) struct DroppedState {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) dropped: Vec<JudgedCopy>,
    /// Whether the unencrypted state of before an `encrypt` was removed too.
    pub(crate) plain_state_dropped: bool,
    /// Whether damaged states that starts have set aside were removed too.
    pub(crate) damaged_states_dropped: bool,
    /// How many copies are left.
    pub(crate) kept: usize,
    #[serde(skip)]
    pub(crate) unreadable: Vec<CopyError>,
}

/// Why no copy was removed. Damaged states that were set aside may have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropStateError {
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
    /// There is none.
    #[error("no saved copy")]
    None(GuestRef),
    /// No copy has such a SHA-256.
    #[error("no such copy")]
    NoSuchCopy(String),
    /// Several copies do, or it has too few digits.
    #[error("several copies")]
    Ambiguous(String),
    /// Without these copies, so many, the guest's TPM would be lost. The text says why one of its keys could
    /// not be tried, on one of them or on the state in its place.
    #[error("needed")]
    Needed(GuestRef, usize, Option<String>),
}

impl<E: Into<GuestError>> From<E> for DropStateError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

impl DroppedState {
    /// How many states were removed.
    pub(crate) fn number(&self) -> usize {
        self.dropped.len() + usize::from(self.plain_state_dropped)
    }
}

/// Removes the copies of the guest that `text` names whose SHA-256 begin so; all, and the
/// unencrypted state, where none is named.
pub(crate) fn drop_state(
    host: &Host,
    text: &str,
    named: &[String],
    force: bool,
) -> Result<DroppedState, DropStateError> {
    let guest = host.guest(text)?;
    let mut copies = host.copies_of(guest.uuid)?;
    let (dropped, kept) = choose(copies.judged, named)?;
    let state_dir = host.state_dir();
    let plain = named.is_empty() && plain_state::list(state_dir)?.contains(&guest.uuid);
    let is_all = force && named.is_empty();
    if dropped.is_empty()
        && !plain
        && let Some(error) = copies.unreadable.pop()
    {
        return Err(error.into());
    }
    // First: without the others nobody would look for them again.
    let damaged = is_all && tpm_copies::remove_damaged(state_dir, guest.uuid)?;
    if dropped.is_empty() && !plain && !damaged {
        return Err(DropStateError::None(guest));
    }
    let store = host.store(Access::Write)?;
    let remains = Remains::of(host, store.as_ref(), guest.uuid, &kept)?;
    let is_wanted = plain && remains.is_known || dropped.iter().any(|copy| remains.wants(copy));
    if !force && is_wanted && !remains.has_state {
        let number = dropped.len() + usize::from(plain);
        let mut untried = dropped.into_iter().filter_map(|copy| copy.untried);
        let untried = untried.next().or(remains.untried);
        return Err(DropStateError::Needed(guest, number, untried));
    }
    let copy_store = CopyStore::of(state_dir, guest.uuid);
    if copy_store.exists() {
        // A copy that a run which has ended meanwhile has left is none of those that were looked at: it stays.
        let _exclusive = copy_store.exclusive(default_deadline())?;
        for judged in &dropped {
            copy_store.drop_copy(&judged.sha256)?;
        }
        if is_all && copy_store.copies()?.0.is_empty() {
            // With what cannot be read as a copy.
            copy_store.remove()?;
        } else {
            copy_store.remove_if_empty()?;
        }
    }
    if plain {
        plain_state::remove(state_dir, guest.uuid)?;
    }
    let done = DroppedState {
        guest,
        dropped,
        plain_state_dropped: plain,
        damaged_states_dropped: damaged,
        kept: kept.len(),
        unreadable: copies.unreadable,
    };
    if let Some(mut store) = store {
        let name = done.guest.name.clone().unwrap_or_default();
        let message = match done.number() {
            0 => "damaged states of its TPM removed".to_owned(),
            copies => format!("{} of its TPM state removed", count(copies, "saved copy")),
        };
        let (now, uuid) = (Timestamp::now(), done.guest.uuid);
        store.record_event(&Event::new(now, Origin::Drop, uuid, name, message))?;
    }
    Ok(done)
}

/// The copies that were named, and the others.
fn choose(
    copies: Vec<JudgedCopy>,
    named: &[String],
) -> Result<(Vec<JudgedCopy>, Vec<JudgedCopy>), DropStateError> {
    for digits in named {
        let is_it = |judged: &&JudgedCopy| judged.sha256.starts_with(digits.as_str());
        match NamedCopy::of(digits, copies.iter().filter(is_it)) {
            NamedCopy::None => return Err(DropStateError::NoSuchCopy(digits.clone())),
            NamedCopy::One => {}
            NamedCopy::Ambiguous => return Err(DropStateError::Ambiguous(digits.clone())),
        }
    }
    let is_chosen = |judged: &JudgedCopy| {
        let mut named = named.iter();
        named.len() == 0 || named.any(|digits| judged.sha256.starts_with(digits.as_str()))
    };
    Ok(copies.into_iter().partition(is_chosen))
}

/// What keys a guest has in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    None,
    Unused,
    /// A guest has run with one of them.
    Used,
}

/// What a guest has without the copies that are to be removed.
struct Remains {
    /// Whether libvirt knows it, or cannot say.
    is_known: bool,
    keys: Keys,
    /// Whether it has its TPM: a copy that is kept, or the state in its place, is unencrypted, or
    /// a key in use opens it.
    has_state: bool,
    /// Why one of its keys could not be tried on the encrypted state in its place.
    untried: Option<String>,
}

impl Remains {
    fn of(
        host: &Host,
        store: Option<&Store>,
        guest: DomainUuid,
        kept: &[JudgedCopy],
    ) -> Result<Self, HostError> {
        let (references, seen) = match store {
            Some(store) => (
                store.references(guest, Timestamp::now())?,
                store.seen_state(guest)?.map(|seen| seen.path),
            ),
            None => (References::default(), None),
        };
        let states = host.configured_libvirt_dirs()?.tpm_states();
        let defined = host.definition(guest);
        let vtpm = defined.as_ref().map(|(_, vtpm)| vtpm);
        let place = tpm_place::find(&states, guest, vtpm, seen.as_deref());
        let (keyring, deadline) = (host.keyring(), default_deadline());
        let trials = try_rows(&keyring, &references, guest, &place.state, deadline);
        let has_state = matches!(place.state, StateFile::Plain)
            || trials.values().any(Trial::is_proven)
            || kept.iter().any(|copy| copy.opened);
        let is_encrypted = matches!(place.state, StateFile::Encrypted(_));
        let untried = trials.values().find_map(Trial::untried);
        let found = host.libvirt().guest(guest, default_deadline());
        let is_keyed = |row: &KeyRef| row.wrapped_dek.is_some();
        let is_used = |row: &KeyRef| is_keyed(row) && row.first_used_at.is_some();
        let rows = &references.key_refs;
        let keys = if rows.iter().any(is_used) {
            Keys::Used
        } else if rows.iter().any(is_keyed) {
            Keys::Unused
        } else {
            Keys::None
        };
        Ok(Self {
            is_known: !matches!(found, Ok(None)),
            keys,
            has_state,
            untried: untried.filter(|_| is_encrypted).map(not_opened),
        })
    }

    /// Whether the guest may resume with this copy: its used key opens it, or one that cannot be tried
    /// may, or it is the state of a guest without any key, which libvirt's own secret may open.
    fn wants(&self, copy: &JudgedCopy) -> bool {
        let is_state = !matches!(copy.content, StateFile::Absent | StateFile::Damaged(_));
        match self.keys {
            Keys::Used => copy.opened || copy.untried.is_some(),
            Keys::Unused => false,
            Keys::None => self.is_known && is_state,
        }
    }
}
