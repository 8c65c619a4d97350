//! Writes a verdict's repairs and its event: one transaction, or nothing.

use super::context::Guard;
use super::deadlines::{before_the_answer, to_record};
use super::gather::Gathered;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::dek::Dek;
use crate::key::new_key::NewKey;
use crate::key::random::RandomError;
use crate::key::wrap::Generation;
use crate::keyring::unlock::{Unlocker, WrapError};
use crate::messages;
use crate::store::{Change, Event, Origin, Store, StoreError};
use crate::verdict::facts::{Provider, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Decision, Finding, Reason, Verdict};

/// The result of writing.
pub(super) enum Committed {
    /// The verdict is valid; what could be written of it is written.
    Done {
        /// The DEK that a `create-key` repair made.
        new_dek: Option<Dek>,
    },
    /// The rows are no longer what the verdict saw; nothing was changed.
    RowsChanged,
}

const NOTHING_WRITTEN: Committed = Committed::Done { new_dek: None };

/// The row that the history has of a verdict: what asked for it, and the time that identifies it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryRow {
    pub(super) origin: Origin,
    pub(super) at: Timestamp,
}

/// Writes the verdict. If the store accepts no change, a start whose key is available proceeds with
/// a finding; one whose new key cannot be stored is refused.
pub(super) fn commit(
    guard: &Guard,
    gathered: &mut Gathered,
    verdict: &mut Verdict,
    row: HistoryRow,
    deadline: Deadline,
) -> Committed {
    let new_key = match key_to_write(gathered, verdict, deadline) {
        Ok(new_key) => new_key,
        Err(refusal) => {
            verdict.refuse(refusal);
            None
        }
    };
    let (new_key, new_dek) = new_key.unzip();
    match write(guard, gathered, verdict, new_key.as_ref(), row, deadline) {
        Ok(()) => Committed::Done { new_dek },
        Err(StoreError::Changed) => Committed::RowsChanged,
        Err(error) if new_dek.is_some() => {
            verdict.refuse(Refusal::Store(error.access_error()));
            NOTHING_WRITTEN
        }
        Err(error) => {
            verdict.drop_store_repairs();
            verdict.note(Finding::NotRecorded(error.to_string()));
            NOTHING_WRITTEN
        }
    }
}

/// Records a refusal that was decided after the repairs were written, in the row that was written with
/// them. If that fails, it is only logged: the refusal itself is what matters.
pub(super) fn record(
    gathered: &mut Gathered,
    verdict: &Verdict,
    row: HistoryRow,
    deadline: Deadline,
) {
    let Some(event) = event(gathered, verdict, &[], row) else {
        return;
    };
    let Some(store) = &mut gathered.store else {
        return;
    };
    let recorded = store
        .set_deadline(to_record(deadline))
        .and_then(|()| store.record_start(&event));
    if let Err(error) = recorded {
        tracing::warn!(%error, "the refusal could not be recorded");
    }
}

fn write(
    guard: &Guard,
    gathered: &mut Gathered,
    verdict: &Verdict,
    new_key: Option<&NewKey>,
    row: HistoryRow,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let event = event(gathered, verdict, verdict.repairs(), row);
    let Gathered {
        facts,
        store: Some(store),
        ..
    } = gathered
    else {
        return Ok(());
    };
    let (Ok(domain), Ok(seen)) = (&facts.domain, &facts.references) else {
        return Ok(());
    };
    // What the store was opened with may be over: libvirt, the fleet or a search took their time.
    // The other half is libvirt's.
    let half = deadline.half();
    store.set_deadline(if verdict.repairs().is_empty() {
        // A start that is not recorded goes on.
        to_record(half)
    } else {
        guard.patient(half)
    })?;
    let change = Change {
        domain: domain.uuid,
        seen,
        repairs: verdict.repairs(),
        new_key,
        secret_uuid: facts.secret().map(|(secret, _)| secret),
        clients_key: clients_key(verdict),
        event: event.as_ref(),
        now: Timestamp::now(),
    };
    store.apply(&change)?;
    if facts.state != TpmState::Absent {
        // The end of the start that the key was made for may have been missed.
        if let Err(error) = store.clear_fresh_key(domain.uuid) {
            tracing::warn!(%error, "the key could not be recorded as used");
        }
    }
    Ok(())
}

/// The key that a verdict wraps: for which provider, and where it comes from.
struct ToWrap {
    provider: ProviderUuid,
    origin: KeyOrigin,
    /// It is not the guest's key, and is kept as a retired one.
    is_retired: bool,
}

impl ToWrap {
    /// Returns the key that the repairs wrap; at most one of them does.
    fn of(verdict: &Verdict) -> Option<Self> {
        verdict.repairs().iter().find_map(|repair| match *repair {
            Repair::CreateKey {
                provider, origin, ..
            } => Some(Self {
                provider,
                origin,
                is_retired: false,
            }),
            Repair::KeepHostValue { provider } => Some(Self {
                provider,
                origin: KeyOrigin::HostSecret,
                is_retired: true,
            }),
            _ => None,
        })
    }
}

/// Wraps the key that a repair makes or keeps with the KEK of the provider that it names.
fn key_to_write(
    gathered: &mut Gathered,
    verdict: &Verdict,
    deadline: Deadline,
) -> Result<Option<(NewKey, Dek)>, Refusal> {
    let Some(ToWrap {
        provider: uuid,
        origin,
        is_retired,
    }) = ToWrap::of(verdict)
    else {
        return Ok(None);
    };
    let internal = |reason: String| Refusal::Internal { reason };
    let host_value = match origin {
        KeyOrigin::Random => None,
        KeyOrigin::HostSecret => {
            let value = gathered.host_value();
            Some(value.ok_or_else(|| internal("libvirt's value is not known".to_owned()))?)
        }
    };
    let Gathered {
        facts, store, keys, ..
    } = gathered;
    let (Ok(domain), Ok(references)) = (&facts.domain, &facts.references) else {
        return Err(internal(
            "a key is to be made for a guest that is not known".to_owned(),
        ));
    };
    let mut providers = references.providers.iter();
    let provider = providers.find(|provider| provider.uuid == uuid);
    let provider = provider.ok_or_else(|| internal(format!("provider {uuid} not found")))?;
    let unlocker = keys.unlocker();
    // A value that is only kept is none of the guest's successive keys: retired, it must not keep the
    // same key from being learnt from the XML.
    let generation = if is_retired {
        Generation::default()
    } else {
        unlocker.next_generation(references, Some(domain), before_the_answer(deadline))
    };
    let made = make_key(
        unlocker,
        store.as_ref(),
        provider,
        domain.uuid,
        host_value,
        generation,
        before_the_answer(deadline),
    );
    made.map(Some).map_err(|error| internal(error.to_string()))
}

/// Why no key could be made for a guest.
#[derive(Debug, thiserror::Error)]
pub enum MakeKeyError {
    /// There was no randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The key could not be wrapped.
    #[error(transparent)]
    Wrap(#[from] WrapError),
}

/// Makes a key for a guest, wrapped by this provider: the given DEK, or else a new one. A key
/// that was made for an earlier start of the guest, which failed, is used again; another one is of
/// this generation.
pub fn make_key(
    unlocker: &mut Unlocker,
    store: Option<&Store>,
    provider: &Provider,
    guest: DomainUuid,
    given: Option<Dek>,
    generation: Generation,
    deadline: Deadline,
) -> Result<(NewKey, Dek), MakeKeyError> {
    // If the store does not return the earlier ones, a new one is made.
    let spare = store.and_then(|store| store.spare_keys(guest, provider.key_id).ok());
    for wrapped in spare.into_iter().flatten() {
        if let Ok(dek) = unlocker.open(&wrapped, guest, deadline)
            && given.as_ref().is_none_or(|given| given.same_as(&dek))
        {
            let key = NewKey::new(wrapped, provider.key_id, provider.key_version);
            return Ok((key, dek));
        }
    }
    let dek = match given {
        Some(given) => given,
        None => Dek::generate()?,
    };
    let key = unlocker.wrap(&dek, provider, guest, generation, deadline)?;
    Ok((key, dek))
}

/// Returns whether an allowed start uses a key that its client provided; `None` for a refused
/// start.
fn clients_key(verdict: &Verdict) -> Option<bool> {
    match verdict.decision() {
        Decision::Allow(reason) => Some(*reason == Reason::ClientsKey),
        Decision::Deny(_) => None,
    }
}

/// The event of a verdict, with the repairs that are written with it.
fn event(
    gathered: &Gathered,
    verdict: &Verdict,
    repairs: &[Repair],
    row: HistoryRow,
) -> Option<Event> {
    let domain = gathered.facts.domain.as_ref().ok()?;
    let (code, message) = match verdict.decision() {
        Decision::Allow(reason) => (None, messages::reason(*reason).to_owned()),
        Decision::Deny(refusal) => (
            Some(refusal.code()),
            messages::refusal(&domain.name, refusal).message,
        ),
    };
    Some(Event {
        code,
        repairs_json: messages::repairs_json(repairs).to_string(),
        ..Event::new(row.at, row.origin, domain.uuid, &domain.name, message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::super::gather::gather;
    use super::*;
    use crate::manage::bind::bind;
    use crate::manage::host::{BrokenConfig, default_deadline};
    use crate::manage::tests::fixture::Fixture;
    use crate::store::Access;
    use crate::verdict::Answer;
    use crate::verdict::decide::decide;
    use crate::verdict::facts::HostSecret;

    /// A search, the fleet and slow provider keys take their time between the read and the write.
    #[test]
    fn what_was_left_for_the_read_does_not_limit_the_write() {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        bind(&fixture.host, "vm1", Some("a")).unwrap();
        let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
        let domain = Ok(fixture.domain(&guest));
        let mut gathered = gather(&guard, domain, Access::Write, default_deadline());
        gathered.facts.host_secret = Some(HostSecret::Absent);
        let Answer::Verdict(mut verdict) = decide(&gathered.facts) else {
            panic!("{:?}", gathered.facts);
        };
        let store = gathered.store.as_mut().unwrap();
        store.set_deadline(Deadline::after(Duration::ZERO)).unwrap();
        // A lock that is free a moment later is waited for.
        let row = HistoryRow {
            origin: Origin::Prepare,
            at: Timestamp::now(),
        };
        let lock = rusqlite::Connection::open(fixture.host.state_dir().join("store.db")).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let freed = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            lock.execute_batch("COMMIT").unwrap();
        });
        let deadline = default_deadline();
        let done = commit(&guard, &mut gathered, &mut verdict, row, deadline);
        freed.join().unwrap();
        assert!(matches!(done, Committed::Done { new_dek: Some(_) }));
        assert!(verdict.is_allowed(), "{verdict:?}");
    }
}
