//! How results are serialised where serde's own way does not do. A path may be no UTF-8, which JSON
//! cannot have.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub(super) fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

#[expect(clippy::ref_option, reason = "serde passes the field as it is")]
pub(super) fn optional_path<S: Serializer>(
    path: &Option<PathBuf>,
    to: S,
) -> Result<S::Ok, S::Error> {
    path.as_ref()
        .map(|path| path.to_string_lossy())
        .serialize(to)
}
