//! What the store's tests share: real stores in directories that go away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Statement, StatementStatus};
use tempfile::TempDir;

use super::{Access, Change, Event, EventRow, NewProvider, Origin, Store, StoreError};
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::{Announcement, Arrival, Provider, References};
use crate::verdict::repair::{KeyOrigin, Repair};

thread_local! {
    /// How many rows the largest transaction of this thread has changed.
    static MOST_CHANGES: Cell<u64> = const { Cell::new(0) };
    /// How many instructions SQLite has executed for statements about many rows.
    static STEPS: Cell<u64> = const { Cell::new(0) };
    /// The most of these for one statement that changes rows.
    static MOST_STEPS: Cell<u64> = const { Cell::new(0) };
    /// How often statements of this thread have come so far that they looked at the deadline.
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// Called with the number of rows that a transaction has changed, also by triggers and foreign keys.
pub(super) fn note_changes(changes: u64) {
    MOST_CHANGES.set(MOST_CHANGES.get().max(changes));
}

/// How many rows the largest transaction of this work changes. For so long a start waits, and timings are no test.
pub(crate) fn most_changes(work: impl FnOnce()) -> u64 {
    MOST_CHANGES.set(0);
    work();
    MOST_CHANGES.get()
}

/// Called with each statement about many rows that was executed. Returns how many instructions that took.
pub(super) fn note_steps(statement: &Statement<'_>) -> u64 {
    let steps = u64::try_from(statement.get_status(StatementStatus::VmStep)).unwrap();
    STEPS.set(STEPS.get() + steps);
    statement.reset_status(StatementStatus::VmStep);
    steps
}

/// The same for one that changes rows, and so has the lock.
pub(super) fn note_change(statement: &Statement<'_>) {
    let steps = note_steps(statement);
    MOST_STEPS.set(MOST_STEPS.get().max(steps));
}

/// How many instructions SQLite executes for the statements about many rows of this work: a measure of the rows that
/// are looked at.
pub(super) fn steps(work: impl FnOnce()) -> u64 {
    STEPS.set(0);
    work();
    STEPS.get()
}

/// How many instructions the longest statement of this work takes that changes many rows: a measure of how long a start
/// waits.
pub(super) fn most_steps(work: impl FnOnce()) -> u64 {
    MOST_STEPS.set(0);
    work();
    MOST_STEPS.get()
}

/// Called with each hundred instructions of a statement.
pub(super) fn note_look() {
    LOOKS.set(LOOKS.get() + 1);
}

/// How many hundred instructions the statements of this work take, those of shorter ones not counted.
pub(crate) fn looks(work: impl FnOnce()) -> u64 {
    LOOKS.set(0);
    work();
    LOOKS.get()
}

/// The time at which tests happen.
pub(super) const NOW: Timestamp = Timestamp(1_800_000_000_000);

pub(super) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

pub(super) fn later(time: Duration) -> Timestamp {
    Timestamp(NOW.0 + i64::try_from(time.as_millis()).unwrap())
}

pub(super) fn open(dir: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(dir, access, soon())
}

/// A new, empty store.
pub(super) fn new_store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path(), Access::Create).unwrap();
    (dir, store)
}

impl Store {
    /// Deletes a provider, whichever guests that locks out.
    pub(crate) fn delete_whoever_needs_it(
        &mut self,
        provider: ProviderUuid,
    ) -> Result<(), StoreError> {
        let found = self.provider_by_uuid(provider)?;
        let locked = self.dependent_domains(&found)?;
        self.delete_provider(provider, &locked.iter().map(|guest| guest.uuid).collect())
    }
}

/// Runs SQL as another tool would: with SQLite's own settings, foreign keys off.
pub(super) fn raw(dir: &Path, sql: &str) {
    let other = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    other.pragma_update(None, "foreign_keys", false).unwrap();
    other.execute_batch(sql).unwrap();
}

/// Of a guest that migrates here.
pub(super) fn announcement(at: Timestamp) -> Announcement {
    Announcement {
        domain_name: "vm1".to_owned(),
        arrival: Arrival::Migration,
        attempt: "5 500 6".to_owned(),
        at,
    }
}

pub(super) fn number(store: &Store, sql: &str) -> i64 {
    store
        .connection
        .query_row(sql, [], |row| row.get(0))
        .unwrap()
}

pub(super) fn domain(number: u8) -> DomainUuid {
    DomainUuid::parse(&format!("d0000000-0000-4000-8000-0000000000{number:02x}")).unwrap()
}

pub(super) fn key_id(number: u8) -> KeyId {
    KeyId::from_bytes([number; KeyId::LEN])
}

/// A provider of the key id of that number.
pub(super) fn make_provider(store: &mut Store, name: &str, key: u8) -> Provider {
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: key_id(key),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    store.create_provider(&new, &[], NOW).unwrap();
    store.provider(name).unwrap()
}

/// A key that claims to be wrapped by the KEK of that number.
pub(super) fn new_key(key: u8) -> NewKey {
    NewKey {
        wrapped_dek: WrappedDek::from_stored(vec![0xD0, key, 0xD1]),
        key_id: key_id(key),
        key_version: 1,
        algorithm: "hkdf-sha256+aes-256-gcm",
    }
}

pub(super) fn event(domain: DomainUuid, name: &str, at: Timestamp) -> Event {
    Event::new(at, Origin::Prepare, domain, name, "it starts")
}

/// The row of an event that was recorded.
pub(super) fn event_row(id: i64, event: Event) -> EventRow {
    EventRow {
        id,
        at: event.at,
        domain_uuid: event.domain_uuid,
        domain_name: event.domain_name,
        operation: event.origin.as_str().to_owned(),
        allowed: event.code.is_none(),
        code: event.code,
        message: event.message,
        repairs_json: event.repairs_json,
    }
}

pub(super) fn change<'a>(
    domain: DomainUuid,
    seen: &'a References,
    repairs: &'a [Repair],
) -> Change<'a> {
    Change {
        domain,
        seen,
        repairs,
        new_key: None,
        secret_uuid: None,
        clients_key: None,
        event: None,
        now: NOW,
    }
}

/// Applies repairs to what is there now.
pub(super) fn apply(
    store: &mut Store,
    domain: DomainUuid,
    repairs: &[Repair],
    new_key: Option<&NewKey>,
) -> Result<Option<KeyRefId>, StoreError> {
    let seen = store.references(domain, NOW).unwrap();
    store.apply(&Change {
        new_key,
        ..change(domain, &seen, repairs)
    })
}

/// Binds a domain to a provider and makes its key, as a first start does.
pub(super) fn make_key(store: &mut Store, domain: DomainUuid, provider: &Provider) -> KeyRefId {
    let repairs = [
        Repair::BindProvider {
            key_ref: None,
            provider: provider.uuid,
            provider_name: provider.name.clone(),
        },
        Repair::CreateKey {
            key_ref: None,
            provider: provider.uuid,
            origin: KeyOrigin::Random,
        },
    ];
    let key = NewKey {
        key_id: provider.key_id,
        ..new_key(provider.key_id.as_bytes()[0])
    };
    apply(store, domain, &repairs, Some(&key)).unwrap().unwrap()
}

/// A placeholder as another tool inserts it.
pub(super) fn insert_placeholder(dir: &Path, domain: DomainUuid, provider: &Provider) {
    raw(
        dir,
        &format!(
            "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name)
             VALUES ('{domain}', '{}', '{}')",
            provider.uuid, provider.name
        ),
    );
}
