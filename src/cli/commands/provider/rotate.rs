//! `provider rotate`: a new key for a provider; every guest's key is wrapped anew with it.
//!
//! The store changes in one transaction: a kill leaves it as before, at most with one more
//! sealed key beside it that wraps nothing, and the command is run again. What a rotation of
//! before has missed (a key reference that another tool brought back) is taken up first.

mod answer;

use super::reseal;
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::key::kek::Kek;
use crate::key::new_key::NewKey;
use crate::key::wrap::{ALGORITHM, WrappedDek};
use crate::keyring::WeakerSeal;
use crate::manage::host::default_deadline;
use crate::manage::providers::{ProvidersLock, refuse_previous_key};
use crate::store::{Access, KeyRefRecord, RewrappedRow, Rotation, Store, StoreError};
use crate::verdict::facts::{Provider, provider_of};

/// How often the rows are wrapped anew because somebody changed one of them meanwhile.
const ATTEMPTS: u32 = 8;

/// A key reference, and what the rotation did to it.
struct Row {
    record: KeyRefRecord,
    guest: Option<String>,
    result: Result<Done, String>,
}

/// What became of a key reference that opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Rewrapped,
    /// It is under the new key.
    Already,
    /// It is another provider's, which has the same key.
    NotOurs,
}

/// What was done to the whole provider.
struct Rotated {
    /// As it is now.
    provider: Provider,
    /// As it was, unless only a rotation of before was finished.
    before: Option<Provider>,
    /// The former keys that are kept on this host.
    formers: Vec<Provider>,
    rows: Vec<Row>,
}

pub(crate) fn run(context: &Context, name: &str, weaker: WeakerSeal) -> Result<(), CommandError> {
    let (mut store, found) = context.host.provider(name, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    refuse_previous_key(&store, &provider)?;
    let missed = finish(context, &mut store, &provider)?;
    let (before, rows) = if missed.is_empty() {
        let rows = rotate(context, &mut store, &provider, weaker)?;
        (Some(provider.clone()), rows)
    } else {
        (None, missed)
    };
    let provider = store.provider_by_uuid(provider.uuid)?;
    let formers = store.previous_keys(&provider)?;
    let rotated = Rotated {
        provider,
        before,
        formers,
        rows,
    };
    answer::print(context, &rotated)
}

/// Wraps with the provider's present key what still opens under a former one. No rows: there
/// was nothing to finish.
fn finish(
    context: &Context,
    store: &mut Store,
    provider: &Provider,
) -> Result<Vec<Row>, CommandError> {
    let mut rows = Vec::new();
    for former in store.previous_keys(provider)? {
        let records = store.key_refs_under(former.key_id)?;
        if records.is_empty() {
            continue;
        }
        let keyring = context.host.keyring();
        let old = match keyring.open(former.key_id, default_deadline()) {
            Ok(old) => old,
            Err(error) => {
                context.output.note(&format!(
                    "{} under the former key \"{}\" left as before, for that does not open: {error}",
                    count(records.len(), "key reference"),
                    former.name
                ));
                continue;
            }
        };
        let new = keyring.open(provider.key_id, default_deadline())?;
        let work = Work {
            old: &old,
            new: &new,
            key_version: provider.key_version,
        };
        let (done, rewrapped) = work.wrap_anew(store, records, |_| true)?;
        store.set_deadline(default_deadline())?;
        store.rewrap(provider, &rewrapped, Timestamp::now())?;
        rows.extend(done);
    }
    if rows.iter().all(|row| row.result.is_err()) {
        return Ok(Vec::new());
    }
    for record in store.key_refs_under(provider.key_id)? {
        if rows
            .iter()
            .all(|row| row.record.key_ref.id != record.key_ref.id)
        {
            rows.push(Row::new(store, record, Ok(Done::Already))?);
        }
    }
    Ok(rows)
}

/// Gives the provider a new key, and wraps with it all that its present one wraps.
fn rotate(
    context: &Context,
    store: &mut Store,
    provider: &Provider,
    weaker: WeakerSeal,
) -> Result<Vec<Row>, CommandError> {
    let keyring = context.host.keyring();
    let old = keyring.open(provider.key_id, default_deadline())?;
    let new = Kek::generate()?;
    let work = Work {
        old: &old,
        new: &new,
        key_version: provider.key_version + 1,
    };
    // The key before the rows that need it: a kill in between leaves a key that nobody needs.
    let stored = keyring.store(&new, weaker, default_deadline())?;
    // What was sealed must open, before anything is wrapped with it.
    if let Err(error) = keyring.open(new.key_id(), default_deadline()) {
        // The first error is the one to tell; nothing was ever wrapped with this key.
        let _ = keyring.remove(new.key_id());
        return Err(error.into());
    }
    // From here on it stays, whatever fails: a commit that ended in an I/O error may be found
    // done after a crash, and then every guest needs it.
    let rows = work.carry_out(store, provider)?;
    reseal::note_weaker(context, &provider.name, &stored);
    Ok(rows)
}

/// From which key to which.
struct Work<'a> {
    old: &'a Kek,
    new: &'a Kek,
    /// The version of the new one.
    key_version: i64,
}

impl Work<'_> {
    fn carry_out(&self, store: &mut Store, provider: &Provider) -> Result<Vec<Row>, CommandError> {
        for _ in 0..ATTEMPTS {
            store.set_deadline(default_deadline())?;
            let providers = store.providers()?;
            let has_twin = providers
                .iter()
                .any(|other| other.uuid != provider.uuid && other.key_id == provider.key_id);
            let is_ours = |row: &KeyRefRecord| {
                let named = provider_of(&row.key_ref, &providers);
                !has_twin || named.is_some_and(|named| named.uuid == provider.uuid)
            };
            let records = store.key_refs_under(provider.key_id)?;
            let (rows, rewrapped) = self.wrap_anew(store, records, is_ours)?;
            let stay = |row: &&Row| row.result != Ok(Done::Rewrapped);
            let given_up: Vec<_> = rows
                .iter()
                .filter(stay)
                .map(|row| row.record.key_ref.id)
                .collect();
            store.set_deadline(default_deadline())?;
            let written = store.rotate_provider(&Rotation {
                provider,
                key_id: self.new.key_id(),
                key_version: self.key_version,
                rewrapped: &rewrapped,
                given_up: &given_up,
                now: Timestamp::now(),
            });
            match written {
                Err(StoreError::Changed) => {}
                written => return Ok(written.map(|()| rows)?),
            }
        }
        Err(StoreError::Changed.into())
    }

    /// Wraps what opens with the new key; nothing is written yet.
    fn wrap_anew(
        &self,
        store: &Store,
        records: Vec<KeyRefRecord>,
        is_ours: impl Fn(&KeyRefRecord) -> bool,
    ) -> Result<(Vec<Row>, Vec<RewrappedRow>), CommandError> {
        let progress = Progress::new("wrapping anew", records.len());
        let (mut rows, mut rewrapped) = (Vec::new(), Vec::new());
        for record in records {
            progress.at(&record.domain.to_string());
            let result = if is_ours(&record) {
                self.wrap_one(&record).map(|row| {
                    rewrapped.push(row);
                    Done::Rewrapped
                })
            } else {
                Ok(Done::NotOurs)
            };
            rows.push(Row::new(store, record, result)?);
        }
        progress.done();
        Ok((rows, rewrapped))
    }

    /// An error says why the row stays as it is.
    fn wrap_one(&self, record: &KeyRefRecord) -> Result<RewrappedRow, String> {
        let not_mine = || "it is wrapped with another key".to_owned();
        let seen = record.key_ref.wrapped_dek.clone().ok_or_else(not_mine)?;
        let opened = seen.unwrap(self.old, record.domain);
        let dek = opened
            .map_err(|error| error.to_string())?
            .ok_or_else(not_mine)?;
        let wrapped = WrappedDek::wrap(self.new, &dek, record.domain);
        let wrapped_dek = wrapped.map_err(|error| error.to_string())?;
        match wrapped_dek.unwrap(self.new, record.domain) {
            Ok(Some(again)) if again.same_as(&dek) => {}
            _ => return Err("wrapped anew, it did not open again".to_owned()),
        }
        Ok(RewrappedRow {
            key_ref: record.key_ref.id,
            seen,
            key: NewKey {
                wrapped_dek,
                key_id: self.new.key_id(),
                key_version: self.key_version,
                algorithm: ALGORITHM,
            },
        })
    }
}

impl Row {
    fn new(
        store: &Store,
        record: KeyRefRecord,
        result: Result<Done, String>,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            guest: store.last_name(record.domain)?,
            record,
            result,
        })
    }
}
