//! The KEKs in the keyring: stored, opened, resealed, removed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::dir::Dir;
use super::error::KeyringError;
use super::places::KekPlace;
use super::seal::{Seal, SealError, Sealed, Sealer, WeakerSeal};
use super::shared;
use crate::clock::Deadline;
use crate::host::process::ChildError;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// The directory of sealed KEKs.
#[derive(Debug, Clone)]
pub struct Keyring {
    pub(super) dir: PathBuf,
    /// The directory on tmpfs.
    pub(super) boot_dir: Option<PathBuf>,
    pub(super) sealer: Sealer,
    pub(super) shares: bool,
}

/// How a KEK was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKek {
    /// How it is sealed.
    pub seal: Seal,
    /// Why its seal is weaker than this host's strongest, if that was allowed.
    pub weaker_because: Option<String>,
}

/// What resealing a KEK changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// How it was sealed before.
    pub before: Seal,
    /// How it is sealed now.
    pub after: Seal,
}

impl Resealed {
    /// Whether it is sealed otherwise than before.
    #[must_use]
    pub fn is_changed(self) -> bool {
        self.before != self.after
    }
}

/// A key that took longer than this to unseal is shared with other hooks, as a key that is sealed
/// to a TPM always is. With the host's key alone systemd needs 5 ms, and below 100 ms on a busy
/// host.
const SLOW: Duration = Duration::from_millis(250);

impl Keyring {
    /// Returns the keyring in `dir` (`STATE-DIR/keys`), which need not exist yet.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self::with_sealer(dir, Sealer::default())
    }

    /// Returns the keyring in `dir`, with another program than the host's `systemd-creds`.
    #[must_use]
    pub fn with_sealer(dir: PathBuf, sealer: Sealer) -> Self {
        Self {
            dir,
            boot_dir: None,
            sealer,
            shares: false,
        }
    }

    /// Has this directory on tmpfs, too.
    #[must_use]
    pub fn with_boot_dir(self, dir: PathBuf) -> Self {
        Self {
            boot_dir: Some(dir),
            ..self
        }
    }

    /// Shares keys that are slow to unseal with other processes of this user, for some seconds.
    #[must_use]
    pub fn sharing(self) -> Self {
        Self {
            shares: true,
            ..self
        }
    }

    /// Seals a KEK and stores it durably. If it is stored already and opens, it stays.
    pub fn store(
        &self,
        kek: &Kek,
        weaker: WeakerSeal,
        deadline: Deadline,
    ) -> Result<StoredKek, KeyringError> {
        self.store_in(KekPlace::Disk, kek, weaker, deadline)
    }

    /// Seals a KEK and keeps it in one place, and in no other. Where it is already and opens, it stays.
    pub fn store_only_in(
        &self,
        place: KekPlace,
        kek: &Kek,
        weaker: WeakerSeal,
        deadline: Deadline,
    ) -> Result<StoredKek, KeyringError> {
        let stored = self.store_in(place, kek, weaker, deadline)?;
        let other = match place {
            KekPlace::Disk => KekPlace::Tmpfs,
            KekPlace::Tmpfs => KekPlace::Disk,
        };
        if let Some(dir) = self.opened(other)? {
            dir.remove(kek.key_id())?;
        }
        Ok(stored)
    }

    fn store_in(
        &self,
        place: KekPlace,
        kek: &Kek,
        weaker: WeakerSeal,
        deadline: Deadline,
    ) -> Result<StoredKek, KeyringError> {
        let key_id = kek.key_id();
        let path = self.dir_of(place).unwrap_or(&self.dir);
        let dir = Dir::create(path)?;
        let here = Self {
            dir: path.clone(),
            boot_dir: None,
            ..self.clone()
        };
        match here.open(key_id, deadline) {
            Ok(_) => {
                return Ok(StoredKek {
                    seal: here.seal(key_id)?,
                    weaker_because: None,
                });
            }
            // The caller has this key, so a file that does not open can be replaced.
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
            weaker_because,
        } = self
            .sealer
            .seal(kek, weaker, deadline)
            .map_err(not_sealed)?;
        dir.replace(key_id, &file(seal, &bytes), deadline)?;
        Ok(StoredKek {
            seal,
            weaker_because,
        })
    }

    /// Returns the strongest seal that this host has now.
    pub fn strongest_seal(&self, deadline: Deadline) -> Result<Seal, KeyringError> {
        self.sealer.strongest(deadline).map_err(not_sealed)
    }

    /// Returns what systemd lacks to seal with this host's TPM 2.0, in its own words; nothing if it
    /// can.
    pub fn lacking_for_tpm(&self, deadline: Deadline) -> Result<Vec<String>, KeyringError> {
        self.sealer.lacking_for_tpm(deadline).map_err(not_sealed)
    }

    /// Reseals a stored KEK if this host has a stronger seal now. The old file stays until the new
    /// one has been unsealed, written and read back.
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
        let found = self.read(key_id)?;
        let dir = Dir::open(self.holder(&found))?.ok_or(KeyringError::Missing(key_id))?;
        dir.replace(key_id, &file(after, &sealed), deadline)?;
        Ok(Resealed { before, after })
    }

    /// Opens a KEK, and verifies that it has this key id. Runs at most one other program.
    ///
    /// A keyring that shares unseals a KEK once for all processes that open it at the same time: one
    /// unseals it, the others wait until the deadline.
    pub fn open(&self, key_id: KeyId, deadline: Deadline) -> Result<Kek, KeyringError> {
        let found = self.read(key_id)?;
        let (seal, sealed) = self.parse(key_id, &found.file)?;
        if !self.shares || seal == Seal::RootOnlyFile {
            return self.unseal(seal, sealed, key_id, deadline);
        }
        if let Some(kek) = shared::get(key_id) {
            return Ok(kek);
        }
        let _turn = Dir::open(self.holder(&found))?
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
                    self.damaged(key_id, "it does not contain the key of its name")
                }
                source => KeyringError::UnsealFailed {
                    path: self.path(key_id),
                    source,
                },
            })
    }

    /// Returns how a stored KEK is sealed.
    pub fn seal(&self, key_id: KeyId) -> Result<Seal, KeyringError> {
        let found = self.read(key_id)?;
        self.parse(key_id, &found.file).map(|(seal, _)| seal)
    }

    /// Removes a KEK. It is not an error if there is none.
    pub fn remove(&self, key_id: KeyId) -> Result<(), KeyringError> {
        shared::stop(key_id);
        for place in KekPlace::ALL {
            if let Some(dir) = self.opened(place)? {
                dir.remove(key_id)?;
            }
        }
        Ok(())
    }

    /// Splits a file into the seal that its first line names and the sealed key.
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
}

fn not_sealed(source: SealError) -> KeyringError {
    match source {
        SealError::Child(ChildError::TimedOut(_)) => KeyringError::TimedOut,
        source => KeyringError::SealFailed { source },
    }
}

/// Returns the content of a key's file.
fn file(seal: Seal, sealed: &[u8]) -> Zeroizing<Vec<u8>> {
    let header = header(seal).as_bytes();
    let mut file = Zeroizing::new(Vec::with_capacity(header.len() + sealed.len()));
    file.extend_from_slice(header);
    file.extend_from_slice(sealed);
    file
}

/// Returns the first line of a file.
fn header(seal: Seal) -> &'static str {
    match seal {
        Seal::HostAndTpm2 => "vtpm-guard-kek 1 systemd-creds host+tpm2\n",
        Seal::Host => "vtpm-guard-kek 1 systemd-creds host\n",
        Seal::RootOnlyFile => "vtpm-guard-kek 1 root-only\n",
    }
}
