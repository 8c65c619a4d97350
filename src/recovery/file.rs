//! The recovery file: a native provider's KEK under a passphrase.
//!
//! A text that a person recognises, and that survives mail and CRLF line ends:
//!
//! ```text
//! vtpm-guard recovery file, format 1
//! Provider: nkp-a
//! Key-Id: 9c1d77e0a4b5c6d7e8f90a1b2c3d4e5f
//! Key-Version: 1
//! Created: 2026-01-31T12:00:00Z
//! Argon2id: m=262144 t=3 p=1
//! Salt: 16 random bytes, as 32 hexadecimal digits
//! Nonce: 12 random bytes, as 24 hexadecimal digits
//! Key: 32 bytes of ciphertext and 16 of tag, as 96 hexadecimal digits
//! Checksum: 64 hexadecimal digits, in lower case
//! ```
//!
//! ```text
//! key      = Argon2id(passphrase, salt, m KiB, t passes, p lanes), 32 bytes     (RFC 9106)
//! Key      = AES-256-GCM(key, nonce, plaintext = KEK, associated data = all lines before it)
//! Checksum = SHA-256(all lines before it)
//! ```
//!
//! "All lines" counts a line feed after each, whatever the file has there.
//!
//! The checksum is not secret and protects nothing: it tells a damaged file from a
//! wrong passphrase, which the cipher alone cannot. The first line and the checksum stay in
//! every later format, so that a newer file is told from a damaged one.
//! A thief of the file learns the provider's name, its key id and version and the date, and
//! can try passphrases, each at the price of the Argon2id parameters.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use argon2::{Algorithm, Argon2, Version};
use zeroize::Zeroizing;

use self::text::Cost;
pub use self::text::Header;
pub(crate) use self::text::MAX_NAME;
use super::passphrase::Passphrase;
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::path_error::PathError;
use crate::key::kek::Kek;
use crate::key::random::{self, RandomError};

#[cfg(test)]
mod tests;
mod text;

/// The longest file that is read, in bytes; a real one has some 600.
const MAX_FILE: u64 = 16 * 1024;

/// The price of one passphrase, for new files: 256 MiB, three passes, 0.6 s on a small host.
/// Four times RFC 9106's second recommendation: a person waits for it twice in a
/// provider's life, and a host of guests has the memory. One lane: more would be computed
/// one after the other here, but side by side by whoever tries passphrases.
const COST: Cost = Cost {
    memory_kib: 256 * 1024,
    passes: 3,
    lanes: 1,
};

/// Why there is no recovery file, or no key from one.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Not a recovery file.
    #[error("it is not a vtpm-guard recovery file")]
    NotARecoveryFile,
    /// Whole, but written by a newer program.
    #[error("its format {0} is newer than this program, which reads format 1")]
    TooNew(u32),
    /// A recovery file that has lost or changed bytes.
    #[error("it is damaged: bytes are missing or have changed")]
    Damaged,
    /// Whole, but this passphrase does not open it.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Whole, but opening it would take more than a recovery file may ask for.
    #[error("its Argon2id parameters are beyond 1 GiB, 10 passes or 16 lanes")]
    TooCostly,
    /// There is not enough memory to derive a key from the passphrase.
    #[error("the passphrase needs {memory_kib} KiB of memory, more than is free")]
    NoMemory {
        /// What Argon2id was to use.
        memory_kib: u32,
    },
    /// The provider's name does not fit on one line of the file.
    #[error(
        "a provider of this name cannot be exported: it is empty, too long or has control characters"
    )]
    UnusableName,
    /// No salt or nonce could be made.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// There is a file already; it is never overwritten.
    #[error("{path} already exists", path = .0.display())]
    Exists(PathBuf),
    /// The system did not let the file be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// A whole recovery file; its key is still under the passphrase.
#[derive(Debug)]
pub struct RecoveryFile {
    header: Header,
    /// The lines before the key, as they were authenticated.
    head: String,
    ciphertext: [u8; Kek::LEN],
    tag: [u8; 16],
}

impl RecoveryFile {
    /// Puts a provider's KEK under a passphrase. Takes the better part of a second.
    pub fn seal(
        kek: &Kek,
        provider: &str,
        key_version: i64,
        now: Timestamp,
        passphrase: &Passphrase,
    ) -> Result<Self, RecoveryError> {
        Self::seal_at(COST, kek, provider, key_version, now, passphrase)
    }

    /// The same at hardly any price, for tests.
    #[cfg(any(test, feature = "internals"))]
    pub fn cheap(
        kek: &Kek,
        provider: &str,
        passphrase: &Passphrase,
    ) -> Result<Self, RecoveryError> {
        let cost = Cost {
            memory_kib: 256,
            passes: 1,
            lanes: 1,
        };
        Self::seal_at(cost, kek, provider, 1, Timestamp::now(), passphrase)
    }

    fn seal_at(
        cost: Cost,
        kek: &Kek,
        provider: &str,
        key_version: i64,
        now: Timestamp,
        passphrase: &Passphrase,
    ) -> Result<Self, RecoveryError> {
        let mut header = Header {
            provider: provider.to_owned(),
            key_id: kek.key_id(),
            key_version,
            created: Timestamp(now.0 - now.0.rem_euclid(1000)),
            cost,
            salt: [0; _],
            nonce: [0; _],
        };
        if !header.has_usable_name() {
            return Err(RecoveryError::UnusableName);
        }
        random::fill(&mut header.salt)?;
        random::fill(&mut header.nonce)?;
        let head = header.to_string();

        let mut bytes = Zeroizing::new(*kek.expose());
        let tag = cipher(&header, passphrase)?
            .encrypt_inout_detached(
                &header.nonce.into(),
                head.as_bytes(),
                bytes.as_mut_slice().into(),
            )
            // Only associated data of 2^61 bytes fails.
            .map_err(|_| RecoveryError::UnusableName)?;
        Ok(Self {
            header,
            head,
            ciphertext: *bytes,
            tag: tag.into(),
        })
    }

    /// Reads a file and makes sure that it is whole. No passphrase is needed yet.
    pub fn read(path: &Path) -> Result<Self, RecoveryError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(PathError::at(path))?;
        Self::parse(&bytes)
    }

    /// Reads a file's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecoveryError> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_FILE) {
            text::parse(bytes)
        } else {
            Err(RecoveryError::NotARecoveryFile)
        }
    }

    /// Reads a file's content as if its checksum were right, for fuzzing.
    #[cfg(feature = "internals")]
    pub fn parse_by_force(bytes: &[u8]) -> Result<Self, RecoveryError> {
        Self::parse(text::with_checksum(bytes).as_bytes())
    }

    /// Writes a new file that only its owner may read, durably; one that is there stays.
    pub fn write_to(&self, path: &Path) -> Result<(), RecoveryError> {
        let written = atomic::open_parent(path)
            .and_then(|(dir, name)| atomic::create(&dir, name, self.to_string().as_bytes()));
        written.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => RecoveryError::Exists(path.to_owned()),
            _ => PathError::new(path, source).into(),
        })
    }

    /// What the file says in clear. It is sure only once the file has been opened.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the KEK, and verifies that it has the key id that the file names.
    pub fn open(&self, passphrase: &Passphrase) -> Result<Kek, RecoveryError> {
        let cipher = cipher(&self.header, passphrase)?;
        let kek = Kek::made_by(|bytes| {
            bytes.copy_from_slice(&self.ciphertext);
            cipher.decrypt_inout_detached(
                &self.header.nonce.into(),
                self.head.as_bytes(),
                bytes.as_mut_slice().into(),
                &self.tag.into(),
            )
        })
        .map_err(|_| RecoveryError::WrongPassphrase)?;
        if kek.key_id() == self.header.key_id {
            Ok(kek)
        } else {
            Err(RecoveryError::Damaged)
        }
    }
}

fn cipher(header: &Header, passphrase: &Passphrase) -> Result<Aes256Gcm, RecoveryError> {
    let params = header.cost.params().ok_or(RecoveryError::TooCostly)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose(), &header.salt, &mut *key)
        .map_err(|_| RecoveryError::NoMemory {
            memory_kib: header.cost.memory_kib,
        })?;
    Ok(Aes256Gcm::new((&*key).into()))
}
