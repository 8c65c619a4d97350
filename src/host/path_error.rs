//! The system's error about one file or directory.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The system did not let a path be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
pub struct PathError {
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl PathError {
    /// An error about this path.
    pub fn new(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self {
            path: path.into(),
            source: source.into(),
        }
    }

    /// Adds the path to an error, for `map_err`.
    pub fn at(path: &Path) -> impl Fn(io::Error) -> Self + use<'_> {
        move |source| Self::new(path, source)
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}
