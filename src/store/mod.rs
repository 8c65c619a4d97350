//! The store: one SQLite file, `store.db`, in the state directory.
//!
//! Other tools write rows too, so reading accepts any row: what is not a UUID, a number or a key
//! counts as missing. Every change is one `BEGIN IMMEDIATE` transaction: a kill at any moment
//! leaves the store as before or as after.
//!
//! | file | job |
//! | --- | --- |
//! | `store_path`, `connect`, `schema` | check the directory, open the database, know its schema |
//! | `columns`, `key_rows`, `provider_rows` | read and write single rows |
//! | `many_rows` | changes of a row for each guest |
//! | `references`, `apply`, `repairs`, `fresh_keys`, `clients_key`, `announcements`, `seen_state` | what a guarded start reads and writes |
//! | `related_guests` | what the store knows about a guest under another name |
//! | `providers`, `rotation`, `keys`, `prune`, `bindings`, `events` | what the administrator reads and writes |
//! | `slots` | which key managers open a KEK |
//! | `written_keys` | which keys `sync` has written into the metadata of guests |
//! | `fleet` | what this host knows of its fleet, and what the fleet is to be told |
//! | `check`, `backup` | check the store, copy it, restore it from a copy |

mod announcements;
mod apply;
mod backup;
mod bindings;
mod check;
mod clients_key;
mod columns;
mod connect;
mod error;
mod events;
mod fleet;
mod fresh_keys;
mod key_rows;
mod keys;
mod many_rows;
mod origin;
mod provider_rows;
mod providers;
mod prune;
mod references;
mod related_guests;
mod repairs;
mod rotation;
mod schema;
mod seen_state;
mod slots;
mod store_path;
#[cfg(test)]
pub(crate) mod testing;
mod written_keys;

use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior};

use crate::clock::Deadline;
use crate::host::crash;
use error::Failure;
use many_rows::ManyRows;
use schema::Identity;
use store_path::StorePath;

pub use bindings::BindingChange;
pub use check::{AlikeFindings, StoreFinding};
pub use error::{StoreError, UnavailableReason};
pub use events::{Event, EventFilter, EventQuery, EventRow, MAX_MESSAGE};
pub use fleet::{KnownFact, Membership, Merge, QueuedState, RowChange, Subject};
pub use key_rows::KeyRefRecord;
pub use keys::{AddKey, OtherKeys, Rewrapped, UseKeyResult};
pub use origin::Origin;
pub use provider_rows::previous_key_name;
pub use providers::NewProvider;
pub use prune::Prune;
pub use repairs::Change;
pub use rotation::{KeyChange, RewrappedRow};
pub use slots::Slot;
pub use written_keys::WrittenKeys;

/// How many rows an administrator's command changes in one transaction, during which a start waits.
const ROWS_AT_ONCE: u16 = 500;

/// What a caller is going to do with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read. The store is neither created nor migrated: an older schema is read as it is.
    Read,
    /// Read and write; a missing store is an error. An older schema is read as it is, and migrated by the first change: who
    /// only reads, such as a start whose key is there, does not wait for the store's lock.
    Write,
    /// As `Write`, and a missing store is created; an older schema is migrated at once.
    Create,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Until when calls wait.
    deadline: Deadline,
    /// Whether the first change has to migrate an older schema.
    migration_is_due: bool,
}

impl Store {
    /// Opens the store in `state_dir`. This call and later ones wait until `deadline`, and then
    /// return `Locked` or `TooSlow`.
    ///
    /// An empty file, or a database without any table, is `Missing`: a creation that was killed
    /// leaves it behind, and the next one resumes from there.
    pub fn open(state_dir: &Path, access: Access, deadline: Deadline) -> Result<Self, StoreError> {
        let location = StorePath::open(state_dir, access == Access::Create)?;
        match (location.file_len()?, access) {
            (None, Access::Create) => location.create_file()?,
            (None | Some(0), Access::Read | Access::Write) => return Err(StoreError::Missing),
            _ => {}
        }
        let (connection, identity) = match access {
            Access::Read => connect::read_only(&location, deadline)?,
            Access::Write | Access::Create => connect::read_write(&location, deadline)?,
        };
        let mut store = Self {
            connection,
            path: location.file.clone(),
            deadline,
            migration_is_due: false,
        };
        match (identity, access) {
            (Identity::Empty, Access::Read | Access::Write) => return Err(StoreError::Missing),
            (Identity::Ours(schema::KNOWN), _) => {}
            (_, Access::Read | Access::Write) => {
                schema::stand_in_tables(&store.connection)
                    .map_err(|error| StoreError::from_sqlite(&location.file, error))?;
                store.migration_is_due = access == Access::Write;
            }
            (_, Access::Create) => {
                store.migrate()?;
                location.sync()?;
            }
        }
        Ok(store)
    }

    /// Replaces the deadline that [`Store::open`] was given: for work on many guests, each
    /// of which gets its own.
    pub fn set_deadline(&mut self, deadline: Deadline) -> Result<(), StoreError> {
        self.deadline = deadline;
        connect::keep_deadline(&mut self.connection, deadline)
            .map_err(|error| StoreError::from_sqlite(&self.path, error))
    }

    /// Moves the write-ahead log into the database when this connection closes as the last one,
    /// so that `store.db` is complete for anyone copying only that file. It costs some waits for
    /// the disk, which a guest's start avoids.
    pub fn checkpoint_on_close(&self) -> Result<(), StoreError> {
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map(drop)
            .map_err(|error| StoreError::from_sqlite(&self.path, error))
    }

    /// Creates the schema, or migrates an older one. It identifies the database again once it
    /// holds the lock: another process may have been faster.
    fn migrate(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.transact(|transaction| {
            schema::drop_stand_ins(transaction)?;
            let identity = schema::identify(transaction, &path)?;
            schema::migrate(transaction, identity, schema::MIGRATIONS)
        })?;
        self.migration_is_due = false;
        Ok(())
    }

    /// Reads in one transaction: all of it sees the store at the same moment.
    fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Deferred)
            .map_err(Failure::from)
            .and_then(|transaction| work(&transaction))
            .map_err(|failure| failure.at(&self.path))
    }

    /// Writes in one transaction, which takes the write lock at once: all of the work is done, or
    /// nothing. What the fleet is to be told is noted in the same transaction.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.commit(|transaction| {
            fleet::outbox::watch(transaction)?;
            work(transaction)
        })
    }

    /// The same, for work that changes neither key references nor providers.
    fn write_history<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.commit(|transaction| {
            fleet::outbox::watch_history(transaction)?;
            work(transaction)
        })
    }

    /// Writes what the fleet need not be told.
    fn write_quietly<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.commit(|transaction| {
            fleet::outbox::unwatch(transaction)?;
            work(transaction)
        })
    }

    /// Changes rows some at a time, so that no start waits for all of them. The rows are looked for in order and
    /// without the lock: none is looked at twice. A kill in between leaves the others for the next time.
    fn write_some_at_a_time(
        &mut self,
        work: &ManyRows,
        values: &[(&str, &dyn ToSql)],
    ) -> Result<(), StoreError> {
        let patience = self.deadline.remaining();
        let mut after = i64::MIN;
        loop {
            // Between two of them starts go on, which may take its time.
            self.set_deadline(Deadline::after(patience))?;
            let rows = self.read(|connection| work.next(connection, values, after))?;
            // Others may change them before they are changed here.
            crash::point();
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = *last;
            self.write(|transaction| work.change(transaction, values, Some(&rows)))?;
            Self::let_others_in();
        }
    }

    /// After one of many transactions: who waits for the lock looks for it every half a millisecond, and would not
    /// get it if the next one followed at once.
    pub(crate) fn let_others_in() {
        thread::sleep(connect::PAUSE * 2);
    }

    /// Every change of an open store is committed here, after the migration that it may need.
    fn commit<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if self.migration_is_due {
            self.migrate()?;
        }
        self.transact(work)
    }

    /// One transaction that takes the write lock at once.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
            .map_err(Failure::from)
            .and_then(|transaction| {
                #[cfg(test)]
                let before = transaction.total_changes();
                let answer = work(&transaction)?;
                #[cfg(test)]
                testing::note_changes(transaction.total_changes() - before);
                crash::point();
                transaction.commit()?;
                crash::point();
                Ok(answer)
            })
            .map_err(|failure| failure.at(&self.path))
    }
}

#[cfg(test)]
mod tests;
