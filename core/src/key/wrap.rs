//! Wrapping a DEK with a KEK.
//!
//! A wrapped DEK is this blob, its fields one after the other, version 1:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | magic `VGWD` |
//! | 1 | version, 1 |
//! | 1 | algorithm, 1: HKDF-SHA256 and AES-256-GCM |
//! | 16 | key id of the KEK |
//! | 32 | salt, random for each blob |
//! | 1 to 65,536 | ciphertext, as long as the DEK |
//! | 16 | tag |
//!
//! ```text
//! key        = HKDF-SHA256(IKM = KEK, salt, info = "vtpm-guard wrapped dek 1"), 32 bytes
//! nonce      = twelve zero bytes
//! data       = the first 54 bytes of the blob || "vtpm-dek" || the domain's UUID, 16 bytes
//! ciphertext = AES-256-GCM(key, nonce, plaintext = DEK, associated data = data)  (SP 800-38D)
//! ```
//!
//! The nonce is fixed because each key encrypts one message: it comes from a salt of 256
//! random bits, and two blobs with the same salt are not to be expected before 2^128 of them.
//! That lifts GCM's bound of 2^32 messages under a key with random nonces.
//!
//! Whoever writes to the store can destroy a blob, but cannot make one, nor move one to
//! another domain, another purpose or another KEK: all of these are associated data.

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
const VERSION: u8 = 1;
const HKDF_SHA256_AES_256_GCM: u8 = 1;
const INFO: &[u8] = b"vtpm-guard wrapped dek 1";
const PURPOSE: [u8; 8] = *b"vtpm-dek";
const NONCE: [u8; 12] = [0; 12];
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + 2 + KeyId::LEN + SALT_LEN;

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

    /// Wraps `dek` for the vTPM of `domain`.
    pub fn wrap(kek: &Kek, dek: &Dek, domain: DomainUuid) -> Result<Self, WrapError> {
        let mut salt = [0; SALT_LEN];
        random::fill(&mut salt)?;
        wrap_with_salt(kek, dek, domain, &salt)
    }

    /// The id of the KEK that wrapped it, as its header says.
    pub fn key_id(&self) -> Result<KeyId, UnwrapError> {
        Blob::parse(&self.0).map(|blob| blob.key_id)
    }

    /// Opens it. `Ok(None)` says that this KEK is not the one that wrapped it; an error says
    /// that it is, or claims to be, and the bytes are damaged or belong to another domain.
    pub fn unwrap(&self, kek: &Kek, domain: DomainUuid) -> Result<Option<Dek>, UnwrapError> {
        let blob = Blob::parse(&self.0)?;
        if blob.key_id != kek.key_id() {
            return Ok(None);
        }
        let mut bytes = Zeroizing::new(blob.ciphertext.to_vec());
        cipher(kek, blob.salt)
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
    header: &'a [u8; HEADER_LEN],
    key_id: KeyId,
    salt: &'a [u8; SALT_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Blob<'a> {
    fn parse(blob: &'a [u8]) -> Result<Self, UnwrapError> {
        Self::split(blob).ok_or(UnwrapError::UnknownFormat)
    }

    fn split(blob: &'a [u8]) -> Option<Self> {
        let (header, rest) = blob.split_first_chunk::<HEADER_LEN>()?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let (format, fields) = header.split_first_chunk::<{ MAGIC.len() + 2 }>()?;
        let (key_id, salt) = fields.split_first_chunk::<{ KeyId::LEN }>()?;
        let known = *format == format_bytes() && (1..=Dek::MAX_LEN).contains(&ciphertext.len());
        known.then_some(Self {
            header,
            key_id: KeyId::from_bytes(*key_id),
            salt: salt.first_chunk()?,
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
    salt: &[u8; SALT_LEN],
) -> Result<WrappedDek, WrapError> {
    let len = dek.expose().len();
    if !(1..=Dek::MAX_LEN).contains(&len) {
        return Err(WrapError::Length(len));
    }
    let mut header = [0; HEADER_LEN];
    let (format, fields) = header.split_at_mut(MAGIC.len() + 2);
    let (key_id, header_salt) = fields.split_at_mut(KeyId::LEN);
    format.copy_from_slice(&format_bytes());
    key_id.copy_from_slice(kek.key_id().as_bytes());
    header_salt.copy_from_slice(salt);

    let mut bytes = Zeroizing::new(dek.expose().to_vec());
    let tag = cipher(kek, salt)
        .encrypt_inout_detached(
            &NONCE.into(),
            &associated_data(&header, domain),
            bytes.as_mut_slice().into(),
        )
        .map_err(|_| WrapError::Length(len))?;
    Ok(WrappedDek([&header[..], &bytes, &tag].concat()))
}

/// What the blob begins with: magic, version, algorithm.
fn format_bytes() -> [u8; MAGIC.len() + 2] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, VERSION, HKDF_SHA256_AES_256_GCM]
}

fn cipher(kek: &Kek, salt: &[u8; SALT_LEN]) -> Aes256Gcm {
    let key = derive::<32>(kek.expose(), salt, INFO);
    Aes256Gcm::new((&*key).into())
}

/// Unambiguous without lengths: each part has a fixed one.
fn associated_data(header: &[u8; HEADER_LEN], domain: DomainUuid) -> Vec<u8> {
    [&header[..], &PURPOSE, domain.as_bytes()].concat()
}
