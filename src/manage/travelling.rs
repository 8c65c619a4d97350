//! Which keys belong into a guest's metadata, and what may be written there.
//!
//! A key is taken out of a guest's XML only if the store holds it (in a row of the guest, in use or
//! retired, perhaps wrapped by another provider key): nothing that is in an XML alone is lost.

use crate::domain::{MAX_KEYS, TravellingKey, TravellingKeys};
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::wrap::{Generation, WrappedDek};
use crate::libvirt::Metadata;
use crate::store::KeyRefRecord;

mod finding;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub(crate) use self::finding::{StayReason, StayingKey, TravelFinding};

/// What this host knows of one guest's keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownKeys {
    /// Those in use that travel, the highest generation first.
    pub(crate) own: Vec<OwnKey>,
    /// Those in use that do not.
    pub(crate) stay: Vec<StayingKey>,
    /// Those that are retired.
    pub(super) retired: Vec<WrappedDek>,
    /// Those that `sync` has written.
    pub(crate) written: Vec<WrappedDek>,
}

/// A key that travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnKey {
    pub(crate) key_ref: KeyRefId,
    pub(crate) generation: Generation,
    pub(crate) key: TravellingKey,
}

/// What to do with a guest's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) change: Change,
    pub(crate) findings: Vec<TravelFinding>,
}

/// A change of a guest's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is as it should be, or must stay as it is.
    None,
    Set(TravellingKeys),
    Remove,
}

impl Change {
    /// Whether libvirt has this now in every definition.
    pub(crate) fn is_done(&self, found: &Metadata) -> bool {
        let wanted = match self {
            Self::None => return true,
            Self::Set(keys) => Some(keys),
            Self::Remove => None,
        };
        found.elements().all(|element| match (wanted, element) {
            (None, None) => true,
            (Some(wanted), Some(text)) => {
                TravellingKeys::from_libvirt(text).is_some_and(|found| same_keys(&found, wanted))
            }
            _ => false,
        })
    }
}

/// Whether both have the same keys of the same guest. The provider's name is for people, and differs
/// from host to host.
pub(crate) fn same_keys(one: &TravellingKeys, other: &TravellingKeys) -> bool {
    let keys = |of: &TravellingKeys| -> Vec<WrappedDek> {
        of.keys.iter().map(|key| key.wrapped_dek.clone()).collect()
    };
    one.fault.is_none() && one.domain == other.domain && keys(one) == keys(other)
}

impl KnownKeys {
    /// What these rows of one guest say.
    pub(crate) fn of<'r>(rows: impl IntoIterator<Item = &'r KeyRefRecord>) -> Self {
        let mut known = Self::default();
        for row in rows {
            if row.retired_at.is_some() {
                known.retired.extend(row.key_ref.wrapped_dek.clone());
                continue;
            }
            let Some(wrapped_dek) = row.key_ref.travelling_dek() else {
                continue;
            };
            let key_ref = row.key_ref.id;
            let key = TravellingKey {
                wrapped_dek: wrapped_dek.clone(),
                provider: row.key_ref.provider_name.clone(),
            };
            let reason = match key.wrapped_dek.generation() {
                Err(_) => StayReason::UnknownFormat,
                Ok(_) if !key.fits() => StayReason::TooLong,
                Ok(generation) => {
                    known.own.push(OwnKey {
                        key_ref,
                        generation,
                        key,
                    });
                    continue;
                }
            };
            known.stay.push(StayingKey { key_ref, reason });
        }
        known
            .own
            .sort_by_key(|own| (std::cmp::Reverse(own.generation), own.key_ref));
        let own: Vec<_> = known.own.iter().map(|own| own.key.clone()).collect();
        for left_over in known.own.split_off(TravellingKeys::how_many_fit(&own)) {
            known.stay.push(StayingKey {
                key_ref: left_over.key_ref,
                reason: StayReason::TooMany,
            });
        }
        known
    }

    /// Whether the guest has a key that travels.
    pub(crate) fn travel(&self) -> bool {
        !self.own.is_empty()
    }

    /// The element that has the guest's own keys.
    pub(crate) fn element(&self, guest: DomainUuid) -> TravellingKeys {
        element(guest, self.own.iter().map(|own| own.key.clone()).collect())
    }

    /// Counts those of its own as written, and returns them.
    pub(crate) fn note_own_as_written(&mut self) -> Vec<WrappedDek> {
        let own = self.own.iter().map(|own| own.key.wrapped_dek.clone());
        let own: Vec<_> = own.collect();
        let new = own.iter().filter(|key| !self.written.contains(key));
        let new: Vec<_> = new.cloned().collect();
        self.written.extend(new);
        own
    }

    fn has_in_use(&self, key: &WrappedDek) -> bool {
        self.own.iter().any(|own| own.key.wrapped_dek == *key)
    }

    fn has(&self, key: &WrappedDek) -> bool {
        self.has_in_use(key) || self.retired.contains(key)
    }

    /// What to do with the guest's metadata, which is `found`. `writes`: its keys are to be there;
    /// otherwise what `sync` wrote is to go. `holds` says of a key that no row has whether the
    /// store holds it all the same: in a row of this guest, wrapped otherwise, or, for another
    /// guest's key, in a row of that guest.
    pub(crate) fn plan(
        &self,
        guest: DomainUuid,
        found: &Metadata,
        writes: bool,
        mut holds: impl FnMut(DomainUuid, &WrappedDek) -> bool,
    ) -> Plan {
        let writes = writes && self.travel();
        let mut findings: Vec<_> = self
            .stay
            .iter()
            .filter(|_| writes)
            .map(|staying| TravelFinding::Stays(*staying))
            .collect();
        let mut present = Vec::<TravellingKey>::new();
        for text in found.elements().flatten() {
            match TravellingKeys::from_libvirt(text) {
                Some(element) if element.fault.is_some() => {
                    findings.push(TravelFinding::Unreadable);
                }
                None => findings.push(TravelFinding::Unreadable),
                Some(element) if element.are_of(guest) => present.extend(element.keys),
                Some(TravellingKeys { domain, keys, .. }) => {
                    let mut keys = keys.iter();
                    let is_copy =
                        domain.is_some_and(|other| keys.all(|key| holds(other, &key.wrapped_dek)));
                    if !is_copy {
                        findings.push(TravelFinding::OtherGuest { domain });
                    }
                }
            }
        }
        let mut kept = Vec::<TravellingKey>::new();
        for key in present {
            let is_kept = kept.iter().any(|kept| kept.wrapped_dek == key.wrapped_dek);
            let goes = if writes {
                self.has(&key.wrapped_dek) || holds(guest, &key.wrapped_dek)
            } else {
                self.written.contains(&key.wrapped_dek)
                    && (self.has(&key.wrapped_dek) || holds(guest, &key.wrapped_dek))
            };
            if !goes && !is_kept {
                kept.push(key);
            }
        }
        if writes {
            let newest = self.own.iter().map(|own| own.generation).max();
            findings.extend(kept.iter().map(|key| {
                let generation = key.wrapped_dek.generation().unwrap_or_default();
                let provider = key.provider.clone();
                if newest.is_some_and(|newest| generation > newest) {
                    TravelFinding::NewerKey {
                        generation,
                        provider,
                    }
                } else {
                    TravelFinding::UnknownKey {
                        generation,
                        provider,
                    }
                }
            }));
        } else {
            // What is not this host's is no concern of a host that writes nothing.
            let is_ours = !self.written.is_empty();
            findings.retain(|finding| is_ours && *finding == TravelFinding::Unreadable);
        }
        findings.dedup();
        let wanted = if findings.iter().any(TravelFinding::prevents) {
            Change::None
        } else {
            self.wanted(guest, kept, writes, found)
        };
        Plan {
            change: if wanted.is_done(found) {
                Change::None
            } else {
                wanted
            },
            findings,
        }
    }

    fn wanted(
        &self,
        guest: DomainUuid,
        kept: Vec<TravellingKey>,
        writes: bool,
        found: &Metadata,
    ) -> Change {
        if !writes {
            let is_written = |text| {
                let element = TravellingKeys::from_libvirt(text);
                let mut keys = element.into_iter().flat_map(|element| element.keys);
                keys.any(|key| self.written.contains(&key.wrapped_dek))
            };
            return match kept {
                _ if !found.elements().flatten().any(is_written) => Change::None,
                kept if kept.is_empty() => Change::Remove,
                kept => Change::Set(element(guest, kept)),
            };
        }
        // What is in the XML alone comes before a key that the store has, too.
        let mut keys = kept;
        for own in &self.own {
            let with = [&keys[..], std::slice::from_ref(&own.key)].concat();
            if TravellingKeys::how_many_fit(&with) == with.len() {
                keys = with;
            }
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.wrapped_dek.generation().unwrap_or_default()));
        Change::Set(element(guest, keys))
    }
}

fn element(guest: DomainUuid, keys: Vec<TravellingKey>) -> TravellingKeys {
    debug_assert!(keys.len() <= MAX_KEYS);
    TravellingKeys {
        domain: Some(guest),
        keys,
        fault: None,
    }
}
