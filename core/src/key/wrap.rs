//! Wrapping a DEK with a KEK.
//!
//! A wrapped DEK is this blob, its fields one after the other, version 2:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | magic `VGWD` |
//! | 1 | version, 2 |
//! | 1 | algorithm, 1: HKDF-SHA256 and AES-256-GCM |
//! | 16 | key id of the KEK |
//! | 4 | generation of the DEK, big-endian |
//! | 32 | salt, random for each blob |
//! | 1 to 65,536 | ciphertext, as long as the DEK |
//! | 16 | tag |
//!
//! ```text
//! key        = HKDF-SHA256(IKM = KEK, salt, info = "vtpm-guard wrapped dek 2"), 32 bytes
//! nonce      = twelve zero bytes
//! data       = the first 58 bytes of the blob || "vtpm-dek" || the domain's UUID, 16 bytes
//! ciphertext = AES-256-GCM(key, nonce, plaintext = DEK, associated data = data)  (SP 800-38D)
//! ```
//!
//! Version 1 has no generation, so its header has 54 bytes, and its info ends in `1`. It is read,
//! and counts as generation 0.
//!
//! The nonce is fixed because each key encrypts one message: it comes from a salt of 256
//! random bits, and two blobs with the same salt are not to be expected before 2^128 of them.
//! That lifts GCM's bound of 2^32 messages under a key with random nonces.
//!
//! Whoever writes to the store, or to a guest's XML, can destroy a blob, but cannot make one, nor
//! give one another generation, nor move one to another domain, another purpose or another KEK:
//! all of these are associated data.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

use super::dek::Dek;
use super::derive::derive;
use super::id::KeyId;
use super::kek::Kek;
use super::random::{self, RandomError};
use crate::ids::DomainUuid;

#[cfg(test)]
mod tests;

/// How DEKs are wrapped, for the store's `algorithm`.
pub const ALGORITHM: &str = "hkdf-sha256+aes-256-gcm";

const MAGIC: [u8; 4] = *b"VGWD";
const HKDF_SHA256_AES_256_GCM: u8 = 1;
const PURPOSE: [u8; 8] = *b"vtpm-dek";
const NONCE: [u8; 12] = [0; 12];
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const FORMAT_LEN: usize = MAGIC.len() + 2;

/// A version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Without a generation.
    V1,
    V2,
}

impl Version {
    const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    const fn info(self) -> &'static [u8] {
        match self {
            Self::V1 => b"vtpm-guard wrapped dek 1",
            Self::V2 => b"vtpm-guard wrapped dek 2",
        }
    }

    /// What a blob begins with: magic, version, algorithm.
    fn format(self) -> [u8; FORMAT_LEN] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, self.number(), HKDF_SHA256_AES_256_GCM]
    }
}

/// Which of a guest's successive DEKs one is. It rises with each new DEK, and stays when a DEK is
/// wrapped again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Generation(pub u32);

impl Generation {
    /// That of the next DEK.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A wrapped DEK as the store keeps it: a self-describing blob. Its bytes are no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDek(Vec<u8>);

/// Why a DEK cannot be wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// No salt could be made.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// libvirt takes no secret value of this length, in bytes.
    #[error("a key of {0} bytes cannot be the value of a libvirt secret")]
    Length(usize),
}

/// Why a blob that this KEK owns (or that no KEK can own) does not give a DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Not a blob of a known format, version or algorithm.
    #[error("it is not a wrapped key of a format that this program knows")]
    UnknownFormat,
    /// A blob of a version, or with an algorithm, that a later release has brought.
    #[error("it is wrapped in a format that is newer than this program")]
    TooNew,
    /// The KEK's id is the blob's, but the bytes do not authenticate for this domain.
    #[error("it does not authenticate under its own key id")]
    NotAuthentic,
}

impl WrappedDek {
    /// Takes a blob as found in the store; nothing is checked yet.
    #[must_use]
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The blob, for the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Wraps `dek`, which is of this generation, for the vTPM of `domain`.
    pub fn wrap(
        kek: &Kek,
        dek: &Dek,
        domain: DomainUuid,
        generation: Generation,
    ) -> Result<Self, WrapError> {
        let mut salt = [0; SALT_LEN];
        random::fill(&mut salt)?;
        wrap_with_salt(kek, dek, domain, generation, &salt)
    }

    /// The id of the KEK that wrapped it, as its header says.
    pub fn key_id(&self) -> Result<KeyId, UnwrapError> {
        Blob::parse(&self.0).map(|blob| blob.key_id)
    }

    /// The generation of the DEK in it, as its header says; it is authentic if the DEK opens.
    pub fn generation(&self) -> Result<Generation, UnwrapError> {
        Blob::parse(&self.0).map(|blob| blob.generation)
    }

    /// Opens it. `Ok(None)` says that this KEK is not the one that wrapped it; an error says
    /// that it is, or claims to be, and the bytes are damaged or belong to another domain.
    pub fn unwrap(&self, kek: &Kek, domain: DomainUuid) -> Result<Option<Dek>, UnwrapError> {
        let blob = Blob::parse(&self.0)?;
        if blob.key_id != kek.key_id() {
            return Ok(None);
        }
        let mut bytes = Zeroizing::new(blob.ciphertext.to_vec());
        cipher(kek, blob.version, blob.salt)
            .decrypt_inout_detached(
                &NONCE.into(),
                &associated_data(blob.header, domain),
                bytes.as_mut_slice().into(),
                &(*blob.tag).into(),
            )
            .map_err(|_| UnwrapError::NotAuthentic)?;
        Ok(Some(Dek::from_bytes(bytes)))
    }
}

/// The fields of a blob whose format, version, algorithm and length are right.
struct Blob<'a> {
    version: Version,
    header: &'a [u8],
    key_id: KeyId,
    generation: Generation,
    salt: &'a [u8; SALT_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Blob<'a> {
    fn parse(blob: &'a [u8]) -> Result<Self, UnwrapError> {
        Self::split(blob).ok_or_else(|| match blob.strip_prefix(&MAGIC) {
            Some([version, algorithm, ..])
                if *version > Version::V2.number() || *algorithm > HKDF_SHA256_AES_256_GCM =>
            {
                UnwrapError::TooNew
            }
            _ => UnwrapError::UnknownFormat,
        })
    }

    fn split(blob: &'a [u8]) -> Option<Self> {
        let (format, rest) = blob.split_first_chunk::<FORMAT_LEN>()?;
        let version = [Version::V1, Version::V2]
            .into_iter()
            .find(|version| version.format() == *format)?;
        let (key_id, rest) = rest.split_first_chunk::<{ KeyId::LEN }>()?;
        let (generation, rest) = match version {
            Version::V1 => (0, rest),
            Version::V2 => {
                let (generation, rest) = rest.split_first_chunk()?;
                (u32::from_be_bytes(*generation), rest)
            }
        };
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let header = blob.get(..blob.len() - rest.len())?;
        (1..=Dek::MAX_LEN)
            .contains(&ciphertext.len())
            .then_some(Self {
                version,
                header,
                key_id: KeyId::from_bytes(*key_id),
                generation: Generation(generation),
                salt,
                ciphertext,
                tag,
            })
    }
}

/// The salt is a parameter for the test vectors alone.
fn wrap_with_salt(
    kek: &Kek,
    dek: &Dek,
    domain: DomainUuid,
    generation: Generation,
    salt: &[u8; SALT_LEN],
) -> Result<WrappedDek, WrapError> {
    let len = dek.expose().len();
    if !(1..=Dek::MAX_LEN).contains(&len) {
        return Err(WrapError::Length(len));
    }
    let version = Version::V2;
    let header = [
        &version.format()[..],
        kek.key_id().as_bytes(),
        &generation.0.to_be_bytes(),
        salt,
    ]
    .concat();

    let mut bytes = Zeroizing::new(dek.expose().to_vec());
    let tag = cipher(kek, version, salt)
        .encrypt_inout_detached(
            &NONCE.into(),
            &associated_data(&header, domain),
            bytes.as_mut_slice().into(),
        )
        .map_err(|_| WrapError::Length(len))?;
    Ok(WrappedDek([&header[..], &bytes, &tag].concat()))
}

fn cipher(kek: &Kek, version: Version, salt: &[u8; SALT_LEN]) -> Aes256Gcm {
    let key = derive::<32>(kek.expose(), salt, version.info());
    Aes256Gcm::new((&*key).into())
}

/// Unambiguous without lengths: the header says its version, and each part of one has a fixed
/// length.
fn associated_data(header: &[u8], domain: DomainUuid) -> Vec<u8> {
    [header, &PURPOSE, domain.as_bytes()].concat()
}
