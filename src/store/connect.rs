//! Connections to a database: their settings, and how long they wait.
//!
//! These stay at SQLite's defaults, which suit the store: `synchronous` FULL (the bundled
//! library is built so), no memory map. Write-ahead logging is a property of the file, set
//! when it is created.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{Failure, StoreError};
use super::schema::{self, Identity};
use super::store_path::{self, StorePath};
use crate::clock::Deadline;
use crate::host::poll::wait;

/// How long to sleep before asking for a lock again. Sixty-four hooks at once need three quarters
/// of the time that they need with SQLite's own, growing pauses.
pub(super) const PAUSE: Duration = Duration::from_micros(500);

/// How many instructions SQLite's virtual machine executes between two checks of the deadline:
/// well under a millisecond. Tests count the looks.
const INSTRUCTIONS_PER_LOOK: i32 = if cfg!(test) { 100 } else { 10_000 };

/// Below this size in bytes a write-ahead log is short: about sixty pages, ten to twenty commits.
const SHORT_LOG: u64 = 256 * 1024;

/// Opens the database for reading and writing, and identifies it.
pub(super) fn read_write(
    location: &StorePath,
    deadline: Deadline,
) -> Result<(Connection, Identity), StoreError> {
    let open = || {
        let connection = open(&location.file, OpenFlags::SQLITE_OPEN_READ_WRITE, deadline)?;
        let identity = schema::identify(&connection, &location.file)?;
        set_wal(&connection)?;
        keep_short_log(&connection, location)?;
        Ok((connection, identity))
    };
    open().map_err(|failure: Failure| failure.at(&location.file))
}

/// Opens the database for reading, and identifies it.
///
/// Readers of a write-ahead log share an index file next to the database. On a full disk they
/// cannot create one, and the index is kept in memory, which locks others out meanwhile. On a
/// read-only file system nobody can write, so the database is read as a file that never
/// changes.
pub(super) fn read_only(
    location: &StorePath,
    deadline: Deadline,
) -> Result<(Connection, Identity), StoreError> {
    let identified = |connection: Connection| {
        let identity = schema::identify(&connection, &location.file)?;
        Ok((connection, identity))
    };
    open(&location.file, OpenFlags::SQLITE_OPEN_READ_ONLY, deadline)
        .map_err(Failure::from)
        .and_then(identified)
        .or_else(|failure| match failure {
            Failure::Sqlite(error) if is_missing_index(&error) => {
                if location.is_immutable() {
                    identified(immutable(&location.file, deadline)?)
                } else {
                    identified(alone(&location.file, deadline)?)
                }
            }
            failure => Err(failure),
        })
        .map_err(|failure| failure.at(&location.file))
}

/// Leaves the write-ahead log in place when the last connection closes, as long as the log is
/// short. Otherwise every hook would create it again, and move its pages into the database when it
/// ends: five waits for the disk instead of two. A longer log is moved into the database as
/// usual, so that whoever opens the database next has little to read.
fn keep_short_log(connection: &Connection, location: &StorePath) -> rusqlite::Result<()> {
    if store_path::wal_len(&location.file) < SHORT_LOG {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    Ok(())
}

fn is_missing_index(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure)
    )
}

/// Opens a database exclusively for this process, with the log's index in memory: exclusive mode
/// before the first access (SQLite, "Use of WAL Without Shared-Memory").
fn alone(path: &Path, deadline: Deadline) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, deadline)?;
    connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    Ok(connection)
}

/// Opens a database that nobody can write to, without locks and without files next to it.
pub(super) fn immutable(path: &Path, deadline: Deadline) -> rusqlite::Result<Connection> {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;

    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    open(Path::new(&uri), flags, deadline)
}

/// Opens an existing database. Its path must have no symbolic links.
pub(super) fn open(
    path: &Path,
    flags: OpenFlags,
    deadline: Deadline,
) -> rusqlite::Result<Connection> {
    // Rust ensures that two threads never use one connection at once.
    let flags = flags | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    keep_deadline(&mut connection, deadline)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    distrust_schema(&connection)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Opens an empty database in memory.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    distrust_schema(&connection)?;
    Ok(connection)
}

/// Treats the schema in a file as data, not as a program. Its triggers do not run, and a view
/// cannot replace a table: this program creates neither, and `ON DELETE` works without them. Its
/// expressions call no functions with side effects, no statement writes to the schema table, and
/// damaged pages are detected.
fn distrust_schema(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    ] {
        connection.set_db_config(setting, value)?;
    }
    Ok(())
}

/// Makes a connection wait for locks until the deadline, and interrupts long work then.
pub(super) fn keep_deadline(
    connection: &mut Connection,
    deadline: Deadline,
) -> rusqlite::Result<()> {
    connection.busy_handler(Some(move |_| wait(PAUSE, deadline)))?;
    let look = move || {
        #[cfg(test)]
        super::testing::note_look();
        deadline.has_passed()
    };
    connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(look))
}

/// Makes the file use a write-ahead log, if it does not yet. If others are using the file, a
/// later opening does it; until then the file has a rollback journal.
pub(super) fn set_wal(connection: &Connection) -> rusqlite::Result<()> {
    let set = connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
    match set {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        other => other,
    }
}
