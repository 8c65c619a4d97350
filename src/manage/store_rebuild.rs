//! `store rebuild`: key references from the keys in the guests' XMLs.

use serde::Serialize;

use super::guests::{GuestRef, ListedGuest};
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use crate::domain::UnreadableDomain;
use crate::guard::{KeySources, LearnError, Learnt, learn};
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::wrap::Generation;
use crate::libvirt::Guest;
use crate::store::{Access, StoreError};
use crate::verdict::refusal::Refusal;

/// What `store rebuild` did.
#[derive(Debug, Serialize)]
pub(crate) struct Rebuilt {
    /// The guests with an encrypted vTPM.
    pub(crate) guests: Vec<RebuiltGuest>,
    pub(crate) dry_run: bool,
}

/// What became of one guest.
#[derive(Debug, Serialize)]
pub(crate) struct RebuiltGuest {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) result: RebuildResult,
    /// The key reference that was made.
    pub(crate) key_ref: Option<KeyRefId>,
    /// Of the key that was stored, or would be.
    pub(crate) provider: Option<String>,
    pub(crate) generation: Option<Generation>,
    #[serde(skip)]
    pub(crate) why: Option<NotRebuilt>,
}

/// In a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RebuildResult {
    /// Its key was stored, or would be.
    Stored,
    /// It has a key here already.
    Known,
    /// Its XML has no key of its own that could be stored.
    NoKey,
    /// Its key could not be stored.
    Failed,
}

/// Why a guest has no key reference now.
#[derive(Debug)]
pub(crate) enum NotRebuilt {
    /// Its XML has no key.
    NoKey,
    /// Its XML has the key of another guest, of which it is a copy.
    OfOther {
        original: DomainUuid,
        has_state: bool,
    },
    /// The key of its XML is retired here.
    Retired,
    /// The key of its XML does not open its TPM state.
    Refuted,
    /// The key of its XML does not open here.
    OutOfReach(Refusal),
    /// Its XML cannot be read.
    Unreadable(UnreadableDomain),
    /// The store failed.
    Store(LearnError),
}

impl Rebuilt {
    /// Whether each guest has a key, or has none that its XML could give.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        let mut guests = self.guests.iter();
        guests.all(|guest| guest.result != RebuildResult::Failed)
    }
}

impl RebuiltGuest {
    fn without_key(guest: GuestRef, result: RebuildResult, why: Option<NotRebuilt>) -> Self {
        Self {
            guest,
            result,
            key_ref: None,
            provider: None,
            generation: None,
            why,
        }
    }
}

/// Stores the keys that the XMLs of these guests have, one guest after the other; with `dry_run` it
/// only says which. `progress` is called with the name of each. It fails only before the first.
pub(crate) fn rebuild(
    host: &Host,
    guests: Vec<Guest>,
    dry_run: bool,
    progress: &dyn Fn(&str),
) -> Result<Rebuilt, HostError> {
    let guard = host.guard(BrokenConfig::Fail)?;
    host.store(Access::Read)?.ok_or(StoreError::Missing)?;
    let mut done = Vec::new();
    for defined in guests {
        progress(&defined.name);
        let guest = GuestRef::from(&defined);
        match ListedGuest::from(defined).domain {
            Ok(domain) if domain.encrypted_vtpm().is_some() => {
                let learnt = learn(
                    &guard,
                    &domain,
                    KeySources::Xml,
                    !dry_run,
                    default_deadline(),
                );
                done.push(rebuilt(guest, learnt));
            }
            Ok(_) => {}
            Err(unreadable) => {
                let why = Some(NotRebuilt::Unreadable(unreadable));
                done.push(RebuiltGuest::without_key(guest, RebuildResult::Failed, why));
            }
        }
    }
    Ok(Rebuilt {
        guests: done,
        dry_run,
    })
}

fn rebuilt(guest: GuestRef, learnt: Result<Learnt, LearnError>) -> RebuiltGuest {
    use RebuildResult::{Failed, Known, NoKey, Stored};
    let (result, why) = match learnt {
        Ok(Learnt::Stored { key_ref, key }) => {
            return RebuiltGuest {
                guest,
                result: Stored,
                key_ref: (key_ref != key.id).then_some(key_ref),
                generation: Some(key.generation()),
                provider: Some(key.provider_name),
                why: None,
            };
        }
        Ok(Learnt::Known) => (Known, None),
        Ok(Learnt::NoKey) => (NoKey, Some(NotRebuilt::NoKey)),
        Ok(Learnt::OfOther {
            original,
            has_state,
        }) => {
            let why = NotRebuilt::OfOther {
                original,
                has_state,
            };
            (NoKey, Some(why))
        }
        Ok(Learnt::Retired) => (NoKey, Some(NotRebuilt::Retired)),
        Ok(Learnt::Refuted) => (Failed, Some(NotRebuilt::Refuted)),
        Ok(Learnt::OutOfReach(why)) => (Failed, Some(NotRebuilt::OutOfReach(why))),
        Err(error) => (Failed, Some(NotRebuilt::Store(error))),
    };
    RebuiltGuest::without_key(guest, result, why)
}
