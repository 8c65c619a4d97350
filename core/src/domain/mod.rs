//! The domain XML, read into a [`Domain`]: bounded, streaming, never trusting its input.
//!
//! libvirt's own documents are well-formed, but what is replayed, restored or migrated comes
//! from elsewhere. A document either is understood as libvirt understands it, or it is an error.
//! What libvirt accepts is never an error: lengths and names are libvirt's business.

use std::io::BufRead;
use std::path::PathBuf;

use crate::ids::{DomainUuid, SecretUuid};

mod edit;
mod error;
mod input;
mod parse;
mod shorten;
mod tpm;
mod travelling;
mod xml;

#[cfg(test)]
mod tests;

pub use edit::{encrypt_vtpm, persist_vtpm_state};
pub use error::{DomainXmlError, XmlError};
pub use travelling::{MAX_KEYS, NAMESPACE, PREFIX, TravellingFault, TravellingKey, TravellingKeys};

/// What the guard needs to know of a libvirt guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// `/domain/name`.
    pub name: String,
    /// `/domain/uuid`.
    pub uuid: DomainUuid,
    /// The domain's TPM, without a second one of model `spapr-tpm-proxy`.
    pub vtpm: Option<Vtpm>,
    /// The wrapped keys in its `<metadata>`; `None` if it has none.
    pub travelling: Option<TravellingKeys>,
}

impl Domain {
    /// Whether swtpm, started by libvirt, emulates its TPM.
    #[must_use]
    pub fn has_emulated_tpm(&self) -> bool {
        matches!(self.vtpm, Some(Vtpm::Emulator(_)))
    }

    /// The emulated TPM that has `<encryption>`, and the secret that it names.
    #[must_use]
    pub fn encrypted_vtpm(&self) -> Option<(&Emulator, SecretUuid)> {
        match &self.vtpm {
            Some(Vtpm::Emulator(vtpm)) => Some((vtpm, vtpm.secret_uuid?)),
            _ => None,
        }
    }
}

/// `/domain/devices/tpm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vtpm {
    /// `<backend type='emulator'>`: swtpm, started by libvirt.
    Emulator(Emulator),
    /// `<backend type='passthrough'>`: a TPM of the host.
    Passthrough,
    /// `<backend type='external'>`: a TPM emulator that libvirt does not start.
    External,
}

/// An emulated TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// The TPM's version. A document that names none gets libvirt's default
    /// (`qemuDomainTPMDefPostParse`): 1.2 for model `tpm-tis` on x86, else 2.0.
    pub version: TpmVersion,
    /// `<encryption secret='UUID'/>`.
    pub secret_uuid: Option<SecretUuid>,
    /// `persistent_state='yes'`: libvirt keeps the state of a transient guest, too.
    pub persistent_state: bool,
    /// `<source>`, where the state is kept elsewhere than at libvirt's default place.
    pub source: Option<StateSource>,
}

/// The version of the TPM's specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmVersion {
    /// TPM 1.2.
    V1_2,
    /// TPM 2.0.
    V2_0,
}

impl TpmVersion {
    /// The name of the file in which swtpm keeps the TPM.
    #[must_use]
    pub fn state_file(self) -> &'static str {
        match self {
            Self::V1_2 => "tpm-00.permall",
            Self::V2_0 => "tpm2-00.permall",
        }
    }
}

/// `<source type='dir'|'file' path='…'/>` (libvirt 10.10 and later). The path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateSource {
    /// The directory that holds swtpm's files.
    Dir(PathBuf),
    /// One file or block device in swtpm's linear format.
    File(PathBuf),
}

/// A domain whose XML could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableDomain {
    /// Why.
    pub reason: String,
    /// Whether an emulated TPM was seen before the error.
    pub has_emulated_tpm: bool,
}

impl UnreadableDomain {
    /// A domain of which nothing was seen.
    pub fn unseen(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            has_emulated_tpm: false,
        }
    }
}

/// Reads a domain XML to its end. Memory stays below a fixed bound, whatever the input.
pub fn read(input: impl BufRead) -> Result<Domain, DomainXmlError> {
    let mut reading = parse::Reading::default();
    xml::for_each_event(input, |event| reading.take(event))?;
    reading.finish()
}

/// Likewise; where it cannot be read, returns also what was seen before the error.
pub fn examine(input: impl BufRead) -> Result<Domain, UnreadableDomain> {
    let mut reading = parse::Reading::default();
    let read = xml::for_each_event(input, |event| reading.take(event));
    let has_emulated_tpm = reading.has_emulated_tpm();
    read.and_then(|()| reading.finish())
        .map_err(|error| UnreadableDomain {
            reason: error.to_string(),
            has_emulated_tpm,
        })
}
