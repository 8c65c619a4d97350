//! Says so where a key is stored under a weaker seal than it could be.

use crate::keyring::{Seal, StoredKek};
use crate::messages::{Arg, Command, kind};

/// The note on a key that was stored; `None` where its seal is the strongest.
pub(super) fn note(provider: Arg<kind::Provider>, stored: &StoredKek) -> Option<String> {
    let in_clear = "the key is in a file that only root can read, in clear";
    let reseal = Command::ProviderReseal(provider);
    match (&stored.weaker_because, stored.seal) {
        (Some(error), Seal::RootOnlyFile) => Some(format!(
            "{in_clear}, because {error}; when that is fixed: {reseal}"
        )),
        (Some(error), seal) => Some(format!(
            "the key is sealed with {seal}, because {error}; when that is fixed: {reseal}"
        )),
        (None, Seal::RootOnlyFile) => Some(format!(
            "this host has no systemd credentials: {in_clear}; after installing systemd-creds: \
             {reseal}"
        )),
        (None, _) => None,
    }
}
