//! The sealed KEKs of this host: `keys/KEYID` beside the store.
//!
//! Each is a file of mode 0600: one line that says what it is (format 1, how it is sealed),
//! then the sealed key.
//!
//! ```text
//! vtpm-guard-kek 1 systemd-creds host+tpm2      what `systemd-creds encrypt` wrote (base64)
//! vtpm-guard-kek 1 systemd-creds host           the same
//! vtpm-guard-kek 1 root-only                    the key, 64 hexadecimal digits
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use self::dir::Dir;
use crate::clock::Deadline;
use crate::host::path_error::PathError;
use crate::host::process::ChildError;
use crate::host::trusted::{Distrust, Reason};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
pub use crate::keyring::seal::{Seal, WeakerSeal};
use crate::keyring::seal::{SealError, Sealed, Sealer};

mod dir;
pub mod seal;
mod shared;
#[cfg(test)]
mod tests;
pub mod unlock;

/// Why a KEK cannot be had from, or put into, the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no `keys/KEYID`.
    #[error("this host holds no key {0}")]
    Missing(KeyId),
    /// Somebody else could have put or read it there.
    #[error("{path} is not trusted: {reason}", path = .path.display())]
    NotTrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The file is not a sealed key, or not that of its name.
    #[error("{path} is damaged: {reason}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key cannot be sealed here.
    #[error("the key cannot be sealed: {source}")]
    SealFailed {
        /// Why.
        source: SealError,
    },
    /// The file is sealed so that this host does not open it, at least not now.
    #[error("{path} cannot be unsealed: {source}", path = .path.display())]
    UnsealFailed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// There was no answer before the deadline.
    #[error("the provider's key did not open in time")]
    TimedOut,
    /// The system did not let the keyring read or write.
    #[error(transparent)]
    Io(#[from] PathError),
}

impl From<Distrust> for KeyringError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            Distrust::Untrusted { path, reason } => Self::NotTrusted { path, reason },
        }
    }
}

/// The directory of sealed KEKs.
#[derive(Debug, Clone)]
pub struct Keyring {
    dir: PathBuf,
    sealer: Sealer,
    shares: bool,
}

/// How a KEK was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKek {
    /// How it is sealed.
    pub seal: Seal,
    /// Why it is not sealed as strongly as this host should be able to; a weaker seal was
    /// allowed then.
    pub trouble: Option<String>,
}

/// What sealing a KEK again has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// How it was sealed.
    pub before: Seal,
    /// How it is sealed.
    pub after: Seal,
}

/// A key that took longer to open than this is shared with the hooks that come after, as one
/// that is sealed to a TPM always is. With the host's key alone systemd needs 5 ms, and on a
/// busy host not yet 100.
const SLOW: Duration = Duration::from_millis(250);

impl Keyring {
    /// The keyring in `dir` (`STATE-DIR/keys`), which need not exist yet.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self::with_sealer(dir, Sealer::default())
    }

    /// The same, sealed by another program than the host's `systemd-creds`.
    #[must_use]
    pub fn with_sealer(dir: PathBuf, sealer: Sealer) -> Self {
        Self {
            dir,
            sealer,
            shares: false,
        }
    }

    /// Shares with other processes of this user, for seconds, what is slow to open.
    #[must_use]
    pub fn sharing(self) -> Self {
        Self {
            shares: true,
            ..self
        }
    }

    /// Seals a KEK and stores it durably; one that is there already, and opens, stays.
    pub fn store(
        &self,
        kek: &Kek,
        weaker: WeakerSeal,
        deadline: Deadline,
    ) -> Result<StoredKek, KeyringError> {
        let key_id = kek.key_id();
        let dir = Dir::create(&self.dir)?;
        match self.open(key_id, deadline) {
            Ok(_) => {
                let (seal, trouble) = (self.seal(key_id)?, None);
                return Ok(StoredKek { seal, trouble });
            }
            // The caller has the very key: what does not open is replaced by what does.
            Err(
                KeyringError::Missing(_)
                | KeyringError::NotTrusted { .. }
                | KeyringError::Damaged { .. }
                | KeyringError::UnsealFailed { .. },
            ) => {}
            Err(error) => return Err(error),
        }
        let Sealed {
            seal,
            bytes,
            trouble,
        } = self
            .sealer
            .seal(kek, weaker, deadline)
            .map_err(not_sealed)?;
        dir.replace(key_id, &file(seal, &bytes), deadline)?;
        Ok(StoredKek { seal, trouble })
    }

    /// The strongest seal that this host has now.
    pub fn strongest_seal(&self, deadline: Deadline) -> Result<Seal, KeyringError> {
        self.sealer.strongest(deadline).map_err(not_sealed)
    }

    /// Seals a stored KEK again, where this host can do so more strongly now. What was there
    /// stays until the new one has been opened, written and read back.
    pub fn reseal(&self, key_id: KeyId, deadline: Deadline) -> Result<Resealed, KeyringError> {
        let kek = self.open(key_id, deadline)?;
        let before = self.seal(key_id)?;
        let after = self.strongest_seal(deadline)?;
        if after <= before {
            let after = before;
            return Ok(Resealed { before, after });
        }
        let sealed = self.sealer.seal_with(after, &kek, deadline);
        let sealed = sealed.map_err(not_sealed)?;
        let dir = Dir::open(&self.dir)?.ok_or(KeyringError::Missing(key_id))?;
        dir.replace(key_id, &file(after, &sealed), deadline)?;
        Ok(Resealed { before, after })
    }

    /// Opens a KEK, and makes sure that its bytes have this key id. Runs at most one other
    /// program.
    ///
    /// A keyring that shares opens a KEK once for all that ask at the same time: one unseals it,
    /// the others wait for that one until the deadline.
    pub fn open(&self, key_id: KeyId, deadline: Deadline) -> Result<Kek, KeyringError> {
        let file = self.read(key_id)?;
        let (seal, sealed) = self.parse(key_id, &file)?;
        if !self.shares || seal == Seal::RootOnlyFile {
            return self.unseal(seal, sealed, key_id, deadline);
        }
        if let Some(kek) = shared::get(key_id) {
            return Ok(kek);
        }
        let _turn = Dir::open(&self.dir)?
            .map(|dir| dir.wait_for_turn(key_id, deadline))
            .transpose()?;
        if let Some(kek) = shared::get(key_id) {
            return Ok(kek);
        }
        let started = Instant::now();
        let kek = self.unseal(seal, sealed, key_id, deadline)?;
        let is_slow = seal == Seal::HostAndTpm2 || started.elapsed() >= SLOW;
        if is_slow && let Err(error) = shared::put(&kek) {
            tracing::debug!(%error, "the opened key is not shared with other starts");
        }
        Ok(kek)
    }

    fn unseal(
        &self,
        seal: Seal,
        sealed: &[u8],
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Kek, KeyringError> {
        self.sealer
            .unseal(seal, sealed, key_id, deadline)
            .map_err(|source| match source {
                SealError::Child(ChildError::TimedOut(_)) => KeyringError::TimedOut,
                SealError::NotTheKey => {
                    self.damaged(key_id, "it does not hold the key of its name")
                }
                source => KeyringError::UnsealFailed {
                    path: self.path(key_id),
                    source,
                },
            })
    }

    /// How a stored KEK is sealed.
    pub fn seal(&self, key_id: KeyId) -> Result<Seal, KeyringError> {
        let file = self.read(key_id)?;
        self.parse(key_id, &file).map(|(seal, _)| seal)
    }

    /// The KEKs that are stored here, in order of their ids; none of them is opened.
    pub fn list(&self) -> Result<Vec<KeyId>, KeyringError> {
        match Dir::open(&self.dir)? {
            Some(dir) => dir.list(),
            None => Ok(Vec::new()),
        }
    }

    /// Removes a KEK for good. One that is not there is no error.
    pub fn remove(&self, key_id: KeyId) -> Result<(), KeyringError> {
        shared::forget(key_id);
        match Dir::open(&self.dir)? {
            Some(dir) => dir.remove(key_id),
            None => Ok(()),
        }
    }

    fn read(&self, key_id: KeyId) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let file = match Dir::open(&self.dir)? {
            Some(dir) => dir.read(key_id)?,
            None => None,
        };
        file.ok_or(KeyringError::Missing(key_id))
    }

    /// What the first line says, and what follows it.
    fn parse<'a>(&self, key_id: KeyId, file: &'a [u8]) -> Result<(Seal, &'a [u8]), KeyringError> {
        Seal::ALL
            .into_iter()
            .find_map(|seal| Some((seal, file.strip_prefix(header(seal).as_bytes())?)))
            .ok_or_else(|| self.damaged(key_id, "it is not a sealed key of a known format"))
    }

    fn damaged(&self, key_id: KeyId, reason: &'static str) -> KeyringError {
        KeyringError::Damaged {
            path: self.path(key_id),
            reason,
        }
    }

    fn path(&self, key_id: KeyId) -> PathBuf {
        self.dir.join(key_id.to_string())
    }
}

fn not_sealed(source: SealError) -> KeyringError {
    match source {
        SealError::Child(ChildError::TimedOut(_)) => KeyringError::TimedOut,
        source => KeyringError::SealFailed { source },
    }
}

/// A key's file.
fn file(seal: Seal, sealed: &[u8]) -> Zeroizing<Vec<u8>> {
    let header = header(seal).as_bytes();
    let mut file = Zeroizing::new(Vec::with_capacity(header.len() + sealed.len()));
    file.extend_from_slice(header);
    file.extend_from_slice(sealed);
    file
}

/// The line with which a file begins.
fn header(seal: Seal) -> &'static str {
    match seal {
        Seal::HostAndTpm2 => "vtpm-guard-kek 1 systemd-creds host+tpm2\n",
        Seal::Host => "vtpm-guard-kek 1 systemd-creds host\n",
        Seal::RootOnlyFile => "vtpm-guard-kek 1 root-only\n",
    }
}
