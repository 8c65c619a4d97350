//! libvirt's secret that the domain XML names.

use super::trial::{DekNumber, Proof};
use crate::ids::DomainUuid;

/// libvirt's secret of the UUID that the domain XML names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSecret {
    /// libvirt has none.
    Absent,
    /// The guard's own, with the key of this domain: the one that starts, or another one that
    /// has the same UUID in its XML.
    Guards(DomainUuid),
    /// One that somebody else defined.
    Foreign(ForeignSecret),
    /// It has one for another use, which it gives to no vTPM: says for which.
    Conflict(String),
    /// It could not be asked: says why.
    Unreachable(String),
    /// It has a value, and libvirt's files do not say whether another guest needs that.
    DefinitionsUnread(String),
}

/// A secret that somebody else defined, and that libvirt gives to a vTPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSecret {
    /// libvirt keeps its value in memory alone, and never writes it to a disk.
    pub is_ephemeral: bool,
    /// libvirt gives its value to no client.
    pub is_private: bool,
    /// Whether it has a usage other than vTPMs, too: then its value may open other things.
    pub serves_anything: bool,
    /// Its value.
    pub value: HostValue,
    /// The other guests whose definitions name it, by name; looked for only where there is a
    /// value.
    pub named_by: Vec<String>,
}

/// The value of a secret of libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostValue {
    /// There is none.
    None,
    /// libvirt reports one, and nobody can read it.
    Hidden,
    /// Root can read it.
    Known {
        /// Keys of equal number are the same, as among [`super::Trial`]s.
        dek: DekNumber,
        /// What the TPM state says of it.
        proof: Proof,
    },
}
