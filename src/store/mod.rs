//! The store: one SQLite file, `store.db`, in the state directory.
//!
//! Other tools write rows too, so reading lives with any row it finds: what is not a UUID, a
//! number or a key counts as missing. Every change is one `BEGIN IMMEDIATE` transaction: a
//! kill at any moment leaves the store as before or as after.
//!
//! | file | job |
//! | --- | --- |
//! | `place`, `connect`, `schema` | trust the directory, open the database, know its schema |
//! | `load`, `apply`, `start`, `announced`, `seen` | what a guarded start reads and writes |
//! | `nearby` | what it knows of a guest under another name |
//! | `providers`, `rotation`, `keys`, `prune`, `bindings`, `events` | what the administrator reads and writes |
//! | `check`, `backup` | is it whole; copies of it, and back from them |

mod announced;
mod apply;
mod backup;
mod bindings;
mod check;
mod connect;
mod error;
mod events;
mod keys;
mod load;
mod nearby;
mod origin;
mod place;
mod providers;
mod prune;
mod rotation;
mod row;
mod schema;
mod seen;
mod start;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::clock::Deadline;
use error::Failure;
use place::Place;
use schema::Identity;

pub use announced::ANNOUNCEMENT_LIFETIME;
pub use apply::Change;
pub use backup::Restored;
pub use bindings::{BindingChange, DependentDomain, UnbindCounts};
pub use check::StoreFinding;
pub use error::{StoreError, UnavailableReason};
pub use events::{EVENTS_KEPT, Event, EventFilter, EventQuery, EventRow};
pub use keys::{AddKey, KeyRefRecord, OtherKeys, UseKeyResult};
pub use origin::Origin;
pub use providers::NewProvider;
pub use prune::Prune;
pub use rotation::{RewrappedRow, Rotation, previous_key_name, previous_key_of};
pub use start::RetiredFreshKey;

/// What a caller is going to do with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read. The store is neither made nor migrated: an older schema is read as it is.
    Read,
    /// Read and write; a missing store is an error, an older schema is migrated.
    Write,
    /// As `Write`, and a missing store is made.
    Create,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the store in `state_dir`. Whatever waits, now or in a later call, waits until
    /// `deadline` and then says `Locked` or `TooSlow`.
    ///
    /// An empty file, or a database without any table, is `Missing`: a creation that was
    /// killed leaves it behind, and the next one goes on from there.
    pub fn open(state_dir: &Path, access: Access, deadline: Deadline) -> Result<Self, StoreError> {
        let place = Place::open(state_dir, access == Access::Create)?;
        match (place.file_len()?, access) {
            (None, Access::Create) => place.make_file()?,
            (None | Some(0), Access::Read | Access::Write) => return Err(StoreError::Missing),
            _ => {}
        }
        let (connection, identity) = match access {
            Access::Read => connect::read_only(&place, deadline)?,
            Access::Write | Access::Create => connect::read_write(&place, deadline)?,
        };
        let mut store = Self {
            connection,
            path: place.file.clone(),
        };
        match (identity, access) {
            (Identity::Empty, Access::Read | Access::Write) => return Err(StoreError::Missing),
            (Identity::Ours(schema::KNOWN), _) => {}
            (_, Access::Read) => schema::stand_in_tables(&store.connection)
                .map_err(|error| StoreError::from_sqlite(&place.file, error))?,
            (_, Access::Write | Access::Create) => {
                store.migrate()?;
                place.sync()?;
            }
        }
        Ok(store)
    }

    /// Replaces the deadline that [`Store::open`] was given: for work on many domains, each
    /// of which may take its time.
    pub fn set_deadline(&mut self, deadline: Deadline) -> Result<(), StoreError> {
        connect::keep_deadline(&mut self.connection, deadline)
            .map_err(|error| StoreError::from_sqlite(&self.path, error))
    }

    /// Has the write-ahead log moved into the database when this connection closes as the last
    /// one, so that `store.db` is whole by itself, also for who copies that file alone. It
    /// costs some waits for the disk, which a guest's start does not take upon itself.
    pub fn checkpoint_on_close(&self) -> Result<(), StoreError> {
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map(drop)
            .map_err(|error| StoreError::from_sqlite(&self.path, error))
    }

    /// Makes the schema, or brings an older one forward. Looks again at what the database is
    /// once it holds the lock: another process may have been faster.
    fn migrate(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.write(|transaction| {
            let identity = schema::identify(transaction, &path)?;
            schema::migrate(transaction, identity, schema::MIGRATIONS)
        })
    }

    /// Does reading work in one transaction: all of it sees the same moment.
    fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Deferred)
            .map_err(Failure::from)
            .and_then(|transaction| work(&transaction))
            .map_err(|failure| failure.at(&self.path))
    }

    /// Does writing work in one transaction, which takes the write lock at once: all of it
    /// happens, or nothing.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
            .map_err(Failure::from)
            .and_then(|transaction| {
                let answer = work(&transaction)?;
                transaction.commit()?;
                Ok(answer)
            })
            .map_err(|failure| failure.at(&self.path))
    }
}

#[cfg(test)]
mod tests;
