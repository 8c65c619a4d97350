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
    #[error("the store does not exist yet")]
    Missing,
    /// Another program held the store's lock until the deadline.
    #[error("another program has locked the store, and the deadline has passed")]
    Locked,
    /// Reading or writing was not finished at the deadline.
    #[error("the store did not answer before the deadline")]
    TooSlow,
    /// It cannot be read or written as it is.
    #[error("{path}: {reason}", path = .path.display())]
    Unavailable {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: UnavailableReason,
    },
    /// SQLite calls it damaged.
    #[error("{path}: {detail}", path = .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's message.
        detail: String,
    },
    /// Its schema is newer than this program.
    #[error("its schema version is {found}, and this program knows versions up to {known}")]
    TooNew {
        /// The schema version found.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// Something changed between the read that a plan rests on and its changes.
    #[error("the rows changed in the meantime")]
    Changed,
    /// A plan creates a key, and the caller did not pass the key.
    #[error("no key was given to be stored")]
    NoNewKey,
    /// Another provider has that name.
    #[error("key provider {0:?} already exists")]
    NameTaken(String),
    /// No provider has that name or UUID.
    #[error("key provider {0:?} not found")]
    NoProvider(String),
    /// One provider has that name, and another has it as its UUID.
    #[error("{0:?} is ambiguous: it is the UUID of one key provider and the name of another")]
    AmbiguousProvider(String),
    /// No key reference has that id.
    #[error("key reference {0} not found")]
    NoKeyRef(KeyRefId),
    /// The key reference is a placeholder: it has no key yet.
    #[error("key reference {0} has no key")]
    NotKeyed(KeyRefId),
    /// What was written was read back before the commit, and it differs: another program made the
    /// schema. Nothing was changed.
    #[error("the store does not keep what is written to it: {0}")]
    NotAsWritten(&'static str),
    /// The guest already has a key.
    #[error(
        "the guest already has a key in use (key reference {key_ref}, bound to \"{provider}\")"
    )]
    HasKey {
        /// The keyed row.
        key_ref: KeyRefId,
        /// The provider that it names.
        provider: String,
    },
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableReason {
    /// I/O error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// SQLite's error.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    /// It is not trusted.
    #[error("{0}")]
    Untrusted(#[from] Reason),
    /// A backup whose pages, which are copied as they are, do not fit into the store.
    #[error("its pages have {store} bytes, but those of the backup {backup}")]
    PageSize {
        /// The store's page size in bytes.
        store: i64,
        /// The backup's page size in bytes.
        backup: i64,
    },
    /// A trigger or a view in a backup.
    #[error("it contains the {kind} {name:?}, which vtpm-guard did not create")]
    Program {
        /// `trigger` or `view`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A SQLite database of another program.
    #[error("a database, but not a store of vtpm-guard")]
    NotAStore,
    /// A backup that is longer than memory should have to hold.
    #[error("it has {0} bytes, more than a backup of a store")]
    TooLong(u64),
}

impl StoreError {
    /// The error as a verdict reports it. To a verdict `Missing` is not an error, but counts as no
    /// rows: check for it first.
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

    /// Whether another user, such as root, could use the store.
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

    pub(super) fn unavailable(path: &Path, reason: impl Into<UnavailableReason>) -> Self {
        Self::Unavailable {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// Converts an error of SQLite's.
    pub(super) fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::OperationInterrupted) => Self::TooSlow,
            // `Unknown` is SQLITE_ERROR: a table or column that the schema has is not there.
            // No code at all: a value that is not of the type which SQLite itself gives it.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            | None => Self::Corrupt {
                path: path.to_owned(),
                detail: message(&error),
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

/// SQLite's message without the statement that they are about.
fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// Why work on the database failed: an error of SQLite's, which gets its path when it leaves the
/// store, or one of the store's own.
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
