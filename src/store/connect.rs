//! Connections to a database: how they are set, how long they wait.
//!
//! Left at SQLite's defaults, which are what the store wants: `synchronous` FULL (the bundled
//! library is built so), no memory map. Write-ahead logging is a property of the file, set
//! when it is made.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{Failure, StoreError};
use super::place::{self, Place};
use super::schema::{self, Identity};
use crate::clock::Deadline;
use crate::host::poll::wait;

/// How long to sleep before asking for a lock again. Sixty-four hooks at once are through in
/// three quarters of the time that SQLite's own, growing pauses take.
pub(super) const PAUSE: Duration = Duration::from_micros(500);

/// How many instructions of SQLite's machine pass between two looks at the deadline: well
/// under a millisecond's worth.
const INSTRUCTIONS_PER_LOOK: i32 = 10_000;

/// A write-ahead log that is short, in bytes: some sixty pages, ten to twenty commits.
const SHORT_LOG: u64 = 256 * 1024;

/// Opens the database for reading and writing, and finds out what it is.
pub(super) fn read_write(
    place: &Place,
    deadline: Deadline,
) -> Result<(Connection, Identity), StoreError> {
    let open = || {
        let connection = open(&place.file, OpenFlags::SQLITE_OPEN_READ_WRITE, deadline)?;
        let identity = schema::identify(&connection, &place.file)?;
        set_wal(&connection)?;
        keep_short_log(&connection, place)?;
        Ok((connection, identity))
    };
    open().map_err(|failure: Failure| failure.at(&place.file))
}

/// Opens the database for reading, and finds out what it is.
///
/// Readers of a write-ahead log share an index file beside the database. On a full disk they
/// cannot make one, and the index is kept in memory, which shuts others out meanwhile. On a
/// read-only file system nobody can write, so the database is read as a file that never
/// changes.
pub(super) fn read_only(
    place: &Place,
    deadline: Deadline,
) -> Result<(Connection, Identity), StoreError> {
    let identified = |connection: Connection| {
        let identity = schema::identify(&connection, &place.file)?;
        Ok((connection, identity))
    };
    open(&place.file, OpenFlags::SQLITE_OPEN_READ_ONLY, deadline)
        .map_err(Failure::from)
        .and_then(identified)
        .or_else(|failure| match failure {
            Failure::Sqlite(error) if is_for_want_of_index(&error) => {
                if place.is_immutable() {
                    identified(immutable(&place.file, deadline)?)
                } else {
                    identified(alone(&place.file, deadline)?)
                }
            }
            failure => Err(failure),
        })
        .map_err(|failure| failure.at(&place.file))
}

/// Leaves the write-ahead log in place when the last connection closes, as long as the log is
/// short. Else every hook would make it anew, and move its pages to the database at its end:
/// five waits for the disk in the place of two. A longer log goes the usual way, so that the
/// next to open the database has little to read.
fn keep_short_log(connection: &Connection, place: &Place) -> rusqlite::Result<()> {
    if place::wal_len(&place.file) < SHORT_LOG {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    Ok(())
}

fn is_for_want_of_index(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure)
    )
}

/// Opens a database for this process alone, with the log's index in memory: exclusive mode
/// before the first access (SQLite, "Use of WAL Without Shared-Memory").
fn alone(path: &Path, deadline: Deadline) -> rusqlite::Result<Connection> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, deadline)?;
    connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    Ok(connection)
}

/// Opens a database that nobody can write to: without locks, without files beside it.
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

/// Opens a database, which must exist, and whose path must be free of symbolic links.
pub(super) fn open(
    path: &Path,
    flags: OpenFlags,
    deadline: Deadline,
) -> rusqlite::Result<Connection> {
    // One connection is never used by two threads at once: Rust sees to that.
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

/// What a file says of its schema is data, and no program. No trigger of it runs, nor stands a
/// view for a table: this program makes neither, and `ON DELETE` acts without. Its expressions
/// call no functions with side effects, its statements write no schema by the back door, and
/// damaged pages are found out.
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

/// Makes a connection wait for locks until the deadline, and give up long work at it.
pub(super) fn keep_deadline(
    connection: &mut Connection,
    deadline: Deadline,
) -> rusqlite::Result<()> {
    connection.busy_handler(Some(move |_| wait(PAUSE, deadline)))?;
    connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(move || deadline.has_passed()))
}

/// Makes the file use a write-ahead log, if it does not yet. Where others use the file just
/// now that has to wait for a later opening; until then it works with a rollback journal.
pub(super) fn set_wal(connection: &Connection) -> rusqlite::Result<()> {
    let set = connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
    match set {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        other => other,
    }
}
