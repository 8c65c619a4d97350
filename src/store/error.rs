//! Why the store did not do what it was asked to.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rusqlite::ErrorCode;

use crate::host::trusted::{Distrust, Reason};
use crate::ids::KeyRefId;
use crate::verdict::facts::StoreAccessError;

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no database yet.
    #[error("there is no store yet")]
    Missing,
    /// Another program held the store's lock until the deadline.
    #[error("another program has locked the store, and the deadline has passed")]
    Locked,
    /// The store was read or written until the deadline, and it was not done.
    #[error("the store did not answer before the deadline")]
    TooSlow,
    /// It cannot be read or written as it is.
    #[error("{path}: {reason}", path = .path.display())]
    Unavailable {
        /// The file or directory.
        path: PathBuf,
        /// What is in the way.
        reason: UnavailableReason,
    },
    /// SQLite calls it damaged.
    #[error("{path}: {detail}", path = .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// Its schema is newer than this program.
    #[error("its schema is version {found}; this program knows {known}")]
    TooNew {
        /// The schema version found.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// Something changed between the read that a plan rests on and its changes.
    #[error("the rows changed meanwhile")]
    Changed,
    /// A plan creates a key, and the key was not handed over with it.
    #[error("a key is to be stored, and none was given")]
    NoNewKey,
    /// Another provider has that name.
    #[error("there is a key provider {0:?} already")]
    NameTaken(String),
    /// No provider has that name or UUID.
    #[error("there is no key provider {0:?}")]
    NoProvider(String),
    /// One provider has that name, and another has it as its UUID.
    #[error("{0:?} is ambiguous: it is the UUID of one key provider and the name of another")]
    AmbiguousProvider(String),
    /// No key reference has that id.
    #[error("there is no key reference {0}")]
    NoKeyRef(KeyRefId),
    /// The key reference is a placeholder: it has no key yet.
    #[error("key reference {0} has no key")]
    NotKeyed(KeyRefId),
    /// What was written was read back before the commit, and it is something else: the schema is
    /// not as this program makes it. Nothing was changed.
    #[error("the store would not keep what is written to it: {0}")]
    NotAsWritten(&'static str),
    /// The domain has a key already.
    #[error("key reference {key_ref}, bound to \"{provider}\", holds the domain's key already")]
    HasKey {
        /// The keyed row.
        key_ref: KeyRefId,
        /// The provider that it names.
        provider: String,
    },
}

impl StoreError {
    /// Whether another user, root above all, could do it.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Unavailable { reason, .. } => match reason {
                UnavailableReason::Untrusted(Reason::Owner(_)) => !geteuid().is_root(),
                UnavailableReason::Io(error) => error.kind() == io::ErrorKind::PermissionDenied,
                _ => false,
            },
            _ => false,
        }
    }
}

/// What is in the way of a store.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableReason {
    /// The operating system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// SQLite said no.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    /// It is not trusted.
    #[error("{0}")]
    Untrusted(#[from] Reason),
    /// A backup whose pages, which are copied as they are, do not fit into the store.
    #[error(
        "its pages have {store} bytes, the backup's {backup}: \
         `sqlite3 BACKUP 'PRAGMA page_size = {store}; VACUUM'` makes them fit"
    )]
    PageSize {
        /// The store's page size in bytes.
        store: i64,
        /// The backup's page size in bytes.
        backup: i64,
    },
    /// A trigger or a view in a backup.
    #[error("it has a {kind} {name:?}, which vtpm-guard did not make")]
    Program {
        /// `trigger` or `view`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A SQLite database of another program.
    #[error("a database, but not a store of vtpm-guard")]
    NotAStore,
}

impl StoreError {
    /// The trouble that a verdict speaks of. `Missing` is no trouble to a verdict: it counts
    /// as no rows, so ask for it first.
    #[must_use]
    pub fn access_error(&self) -> StoreAccessError {
        match self {
            Self::Corrupt { .. } => StoreAccessError::Corrupt(self.to_string()),
            Self::TooNew { found, known } => StoreAccessError::TooNew {
                found: *found,
                known: *known,
            },
            _ => StoreAccessError::Unavailable(self.to_string()),
        }
    }

    pub(super) fn unavailable(path: &Path, reason: impl Into<UnavailableReason>) -> Self {
        Self::Unavailable {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// Puts an error of SQLite's into the words above.
    pub(super) fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::OperationInterrupted) => Self::TooSlow,
            // `Unknown` is SQLITE_ERROR: a table or column that the schema has is not there.
            // No code at all: a value that is not of the type which SQLite itself gives it.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            | None => Self::Corrupt {
                path: path.to_owned(),
                detail: words(&error),
            },
            _ => Self::unavailable(path, UnavailableReason::Sqlite(error)),
        }
    }
}

impl From<Distrust> for StoreError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::unavailable(&error.path, error.source),
            Distrust::Untrusted { path, reason } => Self::unavailable(&path, reason),
        }
    }
}

/// SQLite's words without the statement that they are about.
fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// How a piece of work on the database ends early: by an error of SQLite's, which gets its
/// path when it leaves the store, or by one of our own.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl Failure {
    pub(super) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => StoreError::from_sqlite(path, error),
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
