//! The files in which a system daemon keeps its secrets: they tell what it has, also while it
//! cannot be asked.

use std::path::Path;

use crate::ids::SecretUuid;

/// Where a system daemon keeps the secrets that are not ephemeral: `UUID.xml` and, if there
/// is a value, `UUID.base64` (libvirt 12.1 and later: or another extension).
pub const SECRETS_DIR: &str = "/etc/libvirt/secrets";

/// Whether the daemon's files hold a value of this secret; `None` if they do not know it.
#[must_use]
pub(super) fn stored_value(dir: &Path, uuid: SecretUuid) -> Option<bool> {
    let definition = format!("{uuid}.xml");
    dir.join(&definition)
        .try_exists()
        .ok()
        .filter(|known| *known)?;
    let stem = format!("{uuid}.");
    let mut files = dir.read_dir().ok()?.flatten();
    Some(files.any(|file| {
        let name = file.file_name();
        name != *definition && name.as_encoded_bytes().starts_with(stem.as_bytes())
    }))
}
