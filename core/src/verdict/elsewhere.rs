//! What this host has of a guest's TPM under another name. It is looked for only before a
//! refusal says that something is gone, lost or missing, or where what helps needs to know whether
//! libvirt defines the guest: an allowed start costs nothing more.

use std::path::PathBuf;

use crate::domain::TpmVersion;
use crate::ids::DomainUuid;
use crate::verdict::facts::{StoreAccessError, TransientState};

/// What was found beside the guest's own rows and its state's own place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Whether libvirt knows the guest, according to its files.
    pub is_defined: bool,
    /// A TPM state of the guest, where its XML does not look for it.
    pub state: Option<StateElsewhere>,
    /// The guest was probably undefined, and its TPM's state deleted with it: its definition is
    /// newer than its last start, and libvirt's directory of its TPM is gone.
    pub was_undefined: bool,
    /// The domain that has the key of the TPM's state.
    pub key_holder: Option<OtherGuest>,
    /// The domain with a used key that the guest may be, under a new UUID, or a copy of.
    pub relative: Option<RelatedGuest>,
    /// Why the search did not come to its end: what was not found may be there.
    pub unanswered: Option<SearchCut>,
}

/// What a refusal wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// All that this host has.
    Everything,
    /// Only whether libvirt knows the guest: no key is tried.
    Definition,
}

/// Why a search did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchCut {
    /// The store did not answer, or not in time.
    Store(StoreAccessError),
    /// libvirt's definitions of its guests were not all read: says why.
    Definitions(String),
}

/// A TPM state that the guest's XML does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateElsewhere {
    /// Its file.
    pub path: PathBuf,
    /// The file that the XML names.
    pub wanted: PathBuf,
    /// What makes it the guest's.
    pub kind: ElsewhereKind,
}

/// What makes a TPM state elsewhere the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElsewhereKind {
    /// It is next to the path that the XML names, and of this version.
    OtherVersion(TpmVersion),
    /// It is where the guest's last start found its state.
    LastSeen,
    /// It is in libvirt's own place for this guest, and the XML has a `<source>`.
    OwnDirectory,
}

/// Another domain, as a person would name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherGuest {
    /// Its UUID.
    pub uuid: DomainUuid,
    /// The name that it had last, where that is known.
    pub name: Option<String>,
    /// Whether libvirt knows it, according to its files.
    pub is_defined: bool,
}

/// Another guest with a used key, and what it has in common with this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelatedGuest {
    /// The domain.
    pub domain: OtherGuest,
    /// What they have in common.
    pub by: Relation,
    /// Whether TPM state of it, or a saved copy, is on this host.
    pub has_state: bool,
}

/// What two domains have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The UUID of the secret that their XML names.
    Secret,
    /// Their name: the other had it before.
    Name,
}

impl Elsewhere {
    /// Whether a new TPM could take the place of one that is still wanted, so that nobody but
    /// an administrator may have it made.
    ///
    /// Nothing is wanted of a transient guest's former runs where policy gives each run a new
    /// TPM, and nothing of them is left.
    #[must_use]
    pub fn forbids_a_new_tpm(&self, transient_state: TransientState) -> bool {
        let is_fresh = transient_state == TransientState::Fresh && !self.is_defined;
        let is_wanted =
            |relative: &RelatedGuest| !is_fresh || relative.has_state || relative.domain.is_defined;
        self.state.is_some() || self.relative.as_ref().is_some_and(is_wanted)
    }
}
