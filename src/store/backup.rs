//! Copies of the store, and restoring from them. KEKs are not in the store, so a copy of it does
//! not have them either: `provider export` saves a provider.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::serialize::Data;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::error::{Failure, StoreError, UnavailableReason};
use super::store_path::{self, StorePath};
use super::{Store, StoreFinding, check, connect, schema};
use crate::clock::{Deadline, Timestamp};
use crate::host::atomic::{self, NewFile};
use crate::host::dirs::StateDir;
use crate::host::poll::poll;
use crate::host::trusted::Reason;

/// The longest backup that is read, in bytes: that of millions of guests.
const MAX_BACKUP: u64 = 4 << 30;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where the previous store is kept; `None` if there was none.
    pub previous: Option<PathBuf>,
}

impl Store {
    /// Copies the store into a new file of mode 0600, complete and synced when this returns. Hooks
    /// continue to read and write meanwhile.
    pub fn backup(&self, to: &Path, deadline: Deadline) -> Result<(), StoreError> {
        copy_to_new_file(&self.connection, to, deadline)
    }

    /// Opens a copy that [`Store::backup`] made, as a store in memory: the file itself is read
    /// whole, checked, and not changed.
    pub fn open_copy(from: &Path, deadline: Deadline) -> Result<Self, StoreError> {
        Ok(Self {
            connection: checked_copy(from, deadline)?,
            path: from.to_owned(),
            deadline,
            migration_is_due: false,
        })
    }

    /// Copies the store next to itself, as `store.db.REASON-TIME`, and returns the path.
    pub fn backup_beside(
        &self,
        reason: &str,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<PathBuf, StoreError> {
        let kept = store_path::beside(&self.path, &format!(".{reason}-{}", stamp(now)));
        self.backup(&kept, deadline)?;
        Ok(kept)
    }

    /// Replaces the store in `state_dir` by a copy that [`Store::backup`] made. The previous store
    /// is kept next to it, as `store.db.replaced-TIME`.
    ///
    /// The copy is first read whole, checked and migrated to the current schema. It then
    /// replaces the store in one transaction of the store itself: hooks that have it open, and
    /// anyone after a kill, see it as before or as after. Only a store so damaged
    /// that SQLite cannot write to it is replaced as a file.
    pub fn restore(
        state_dir: &Path,
        from: &Path,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<Restored, StoreError> {
        let copy = checked_copy(from, deadline)?;
        refuse_programs(&copy, from)?;
        let location = StorePath::open(state_dir, true)?;
        let had_content = location.file_len()?.is_some_and(|len| len > 0);
        location.create_file()?;
        let kept = store_path::beside(&location.file, &format!(".replaced-{}", stamp(now)));
        let previous = had_content.then(|| kept.clone());
        match replace_content(&copy, &location, previous.as_deref(), deadline) {
            Err(StoreError::Corrupt { .. }) => replace_file(&copy, &location, &kept, deadline)?,
            other => other?,
        }
        location.sync()?;
        Ok(Restored { previous })
    }
}

/// Reads a backup into memory, and verifies that it is a whole store.
fn checked_copy(from: &Path, deadline: Deadline) -> Result<Connection, StoreError> {
    let from = fs::canonicalize(from).map_err(|error| StoreError::unavailable(from, error))?;
    if !from.is_file() {
        return Err(StoreError::unavailable(&from, Reason::NotAFile));
    }
    // It is copied into memory, and a file with holes may say any length.
    let length = fs::metadata(&from).map_err(|error| StoreError::unavailable(&from, error))?;
    let length = length.len().saturating_add(store_path::wal_len(&from));
    if length > MAX_BACKUP {
        let reason = UnavailableReason::TooLong(length);
        return Err(StoreError::unavailable(&from, reason));
    }
    let read = || -> Result<Connection, Failure> {
        // A file that was copied while in use has its log next to it; any other is read without
        // creating files next to it.
        let source = if store_path::wal_len(&from) > 0 {
            connect::open(&from, OpenFlags::SQLITE_OPEN_READ_ONLY, deadline)?
        } else {
            connect::immutable(&from, deadline)?
        };
        let mut copy = connect::in_memory()?;
        copy_content(&source, &mut copy, deadline)?;
        connect::keep_deadline(&mut copy, deadline)?;
        if let Some(StoreFinding::Damaged(detail)) = check::damage(&copy)?.into_iter().next() {
            let path = from.clone();
            return Err(StoreError::Corrupt { path, detail }.into());
        }
        let identity = schema::identify(&copy, &from)?;
        if identity == schema::Identity::Empty {
            return Err(StoreError::unavailable(&from, UnavailableReason::NotAStore).into());
        }
        let transaction = Transaction::new_unchecked(&copy, TransactionBehavior::Immediate)?;
        schema::migrate(&transaction, identity, schema::MIGRATIONS)?;
        transaction.commit()?;
        Ok(copy)
    };
    read().map_err(|failure| failure.at(&from))
}

/// Replaces the content of the store by the copy's, in one transaction, before which the
/// store is copied to `kept` under the same lock.
fn replace_content(
    copy: &Connection,
    location: &StorePath,
    kept: Option<&Path>,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let file = &location.file;
    let fail = |error| StoreError::from_sqlite(file, error);
    let open = |flags| connect::open(file, flags, deadline).map_err(fail);
    let mut store = open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let page_size = |database: &Connection| -> Result<i64, StoreError> {
        let size = database.pragma_query_value(None, "page_size", |row| row.get(0));
        size.map_err(fail)
    };
    let copied = page_size(copy)?;
    // An empty file takes any page size, one with content keeps its own.
    store
        .pragma_update(None, "page_size", copied)
        .and_then(|()| connect::set_wal(&store))
        .map_err(fail)?;
    let kept_size = page_size(&store)?;
    if copied != kept_size {
        return Err(StoreError::unavailable(
            file,
            UnavailableReason::PageSize {
                store: kept_size,
                backup: copied,
            },
        ));
    }

    let backup = Backup::new(copy, &mut store).map_err(fail)?;
    // No pages yet: this takes the store's write lock, and keeps it.
    step(&backup, 0, deadline).map_err(fail)?;
    if let Some(kept) = kept {
        let reader = open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        copy_to_new_file(&reader, kept, deadline)?;
    }
    step(&backup, -1, deadline).map_err(fail)
}

/// Replaces a file that SQLite cannot write to. No process can be using it, because none can
/// open it.
fn replace_file(
    copy: &Connection,
    location: &StorePath,
    kept: &Path,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let fail = |error| StoreError::unavailable(&location.file, error);
    let content = content(copy, &location.file, deadline)?;
    let new = NewFile::write(&location.dir()?, |file| file.write_all(&content)).map_err(fail)?;
    if !kept.exists() {
        fs::hard_link(&location.file, kept).map_err(fail)?;
    }
    for suffix in ["-wal", "-journal"] {
        // The log of the old file must not be used with the new one.
        let log = store_path::beside(&location.file, suffix);
        match fs::rename(&log, store_path::beside(kept, suffix)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed.map_err(fail)?,
        }
    }
    new.replace(OsStr::new(StateDir::STORE_NAME)).map_err(fail)
}

/// Copies a database into a new file of mode 0600, and syncs it. A failure leaves no file.
fn copy_to_new_file(from: &Connection, to: &Path, deadline: Deadline) -> Result<(), StoreError> {
    let content = content(from, to, deadline)?;
    atomic::open_parent(to)
        .and_then(|(dir, name)| atomic::create(&dir, name, &content))
        .map_err(|error| StoreError::unavailable(to, error))
}

/// The bytes of a database file's header that name the journal for writing and for reading: 1 is
/// a rollback journal, 2 a write-ahead log (SQLite, "Database File Format").
const JOURNAL_VERSIONS: std::ops::Range<usize> = 18..20;

/// A database as one file that needs no other next to it. It is built in memory: SQLite itself
/// opens no file in a directory that may belong to someone else.
fn content(from: &Connection, path: &Path, deadline: Deadline) -> Result<Vec<u8>, StoreError> {
    let copied = || {
        let mut copy = connect::in_memory()?;
        copy_content(from, &mut copy, deadline)?;
        let data: Data<'_> = copy.serialize("main")?;
        Ok(data.to_vec())
    };
    let mut content = copied().map_err(|error| StoreError::from_sqlite(path, error))?;
    if let Some(versions) = content.get_mut(JOURNAL_VERSIONS) {
        versions.fill(1);
    }
    Ok(content)
}

/// Refuses a copy with triggers or views: this program creates none, and those of another program
/// must not get into the store, where other tools would run them.
fn refuse_programs(copy: &Connection, from: &Path) -> Result<(), StoreError> {
    let found = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut query = copy.prepare(
            "SELECT type, name FROM sqlite_schema WHERE type IN ('trigger', 'view')
             ORDER BY type, name",
        )?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    let mut found = found().map_err(|error| StoreError::from_sqlite(from, error))?;
    match found.pop() {
        None => Ok(()),
        Some((kind, name)) => {
            let reason = UnavailableReason::Program { kind, name };
            Err(StoreError::unavailable(from, reason))
        }
    }
}

fn copy_content(
    from: &Connection,
    to: &mut Connection,
    deadline: Deadline,
) -> rusqlite::Result<()> {
    step(&Backup::new(from, to)?, -1, deadline)
}

/// Copies `pages` pages (-1: all that are left), waiting for locks until the deadline.
fn step(backup: &Backup<'_, '_>, pages: i32, deadline: Deadline) -> rusqlite::Result<()> {
    let done = poll(connect::PAUSE, deadline, || match backup.step(pages) {
        Ok(StepResult::Busy | StepResult::Locked) => None,
        step => Some(step.map(drop)),
    });
    done.unwrap_or_else(|| {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        Err(rusqlite::Error::SqliteFailure(busy, None))
    })
}

/// A time for use in a file's name: `20260131T120000.123Z`.
fn stamp(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(
        |_| time.0.to_string(),
        |time| time.strftime("%Y%m%dT%H%M%S.%3fZ").to_string(),
    )
}
