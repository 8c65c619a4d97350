//! How a host seals a KEK: with systemd credentials if it has them, otherwise as plain text, which
//! is only for a root-only file.

use std::fmt;
use std::path::PathBuf;

use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::host_key::HostKey;
use crate::clock::Deadline;
use crate::host::dirs::{HOST_KEY, MACHINE_ID};
use crate::host::process::{self, ChildError};
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// The longest sealed text, in bytes. systemd's have about 150 to 1500 bytes.
pub(crate) const MAX_SEALED: usize = 16 * 1024;

/// How a KEK is sealed; the stronger seal is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seal {
    /// Plaintext in a file that only root can read: the host has no systemd credentials.
    RootOnlyFile,
    /// `systemd-creds` with the host's key.
    Host,
    /// `systemd-creds` with the host's key and its TPM 2.0.
    HostAndTpm2,
}

impl Seal {
    /// All seals, the strongest first.
    pub(crate) const ALL: [Self; 3] = [Self::HostAndTpm2, Self::Host, Self::RootOnlyFile];
}

/// What to do if a key cannot be sealed as strongly as this host should be able to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeakerSeal {
    /// It is an error: it may work a moment later.
    Refused,
    /// Use the next weaker seal, down to a plaintext file: an administrator allowed it.
    Allowed,
}

/// A sealed key.
pub(crate) struct Sealed {
    pub(crate) seal: Seal,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Why its seal is weaker than this host's strongest.
    pub(crate) weaker_because: Option<String>,
}

/// As `provider show` and `status` print it.
impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostAndTpm2 => "systemd host+tpm2",
            Self::Host => "systemd host",
            Self::RootOnlyFile => "root-only file",
        })
    }
}

/// Why sealing or unsealing failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The program could not be run to its end.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The program reported an error: its last line.
    #[error("{0}")]
    Refused(String),
    /// The host's key is of another machine ID, and systemd would delete it.
    #[error(
        "{HOST_KEY}, with which this host seals, is of another {MACHINE_ID}, and systemd would delete it: restore that \
         file; or remove {HOST_KEY}, if no key that is needed was sealed with it"
    )]
    OtherMachine,
    /// The result is not the key with this id.
    #[error("the unsealed key is not this key")]
    NotTheKey,
}

/// The program that seals, `systemd-creds`.
#[derive(Debug, Clone)]
pub struct Sealer {
    program: PathBuf,
    /// Whether it can seal keys of this user.
    seals: bool,
    host_key: HostKey,
}

impl Default for Sealer {
    /// The host's program, which uses root's key: keys of other users (in a trial) are not sealed.
    fn default() -> Self {
        Self {
            program: PathBuf::from("systemd-creds"),
            seals: geteuid().is_root(),
            host_key: HostKey::default(),
        }
    }
}

impl Sealer {
    /// A program with the interface of `systemd-creds`.
    #[cfg(test)]
    pub fn at(program: PathBuf) -> Self {
        Self {
            program,
            seals: true,
            host_key: HostKey::default(),
        }
    }

    /// The same on a host with these files of its own.
    #[cfg(test)]
    pub(super) fn on_host(self, host_key: HostKey) -> Self {
        Self { host_key, ..self }
    }

    /// Returns the strongest seal that this host has: with its TPM 2.0, if it has one that systemd can
    /// use; a plaintext file only if systemd credentials are not installed.
    pub(crate) fn strongest(&self, deadline: Deadline) -> Result<Seal, SealError> {
        if !self.seals {
            return Ok(Seal::RootOnlyFile);
        }
        match self.lacking_for_tpm(deadline) {
            Ok(lacking) if lacking.is_empty() => Ok(Seal::HostAndTpm2),
            Ok(_) => Ok(Seal::Host),
            Err(SealError::Child(ChildError::NotInstalled(_))) => Ok(Seal::RootOnlyFile),
            Err(error) => Err(error),
        }
    }

    /// Returns what systemd lacks to seal with this host's TPM 2.0, in its own words ("driver",
    /// "libraries"); nothing if it can.
    pub(crate) fn lacking_for_tpm(&self, deadline: Deadline) -> Result<Vec<String>, SealError> {
        let output = process::run(&self.program, &["has-tpm2"], b"", MAX_SEALED, deadline)?;
        let words = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => Ok(Vec::new()),
            // systemd before 251 does not know this command, and answers nothing.
            Some(_) if words.is_empty() => Ok(vec!["systemd 251 or later".to_owned()]),
            Some(_) => {
                let lacking = words.lines().filter_map(|line| line.strip_prefix('-'));
                // Firmware counts only where it started the host by UEFI. Under a BIOS sealing
                // works just the same (tried with systemd 257).
                let lacking = lacking.filter(|word| *word != "firmware");
                Ok(lacking.map(str::to_owned).collect())
            }
            None => Err(SealError::Refused(format!(
                "{}: {}",
                self.program.display(),
                output.status
            ))),
        }
    }

    /// Seals as strongly as this host can, and verifies that the result unseals.
    ///
    /// If the host key cannot be made or read now (a full or read-only disk), or the TPM is busy or
    /// locked out, the key must not be left less protected forever: this is an error, unless a weaker
    /// seal was allowed.
    pub(crate) fn seal(
        &self,
        kek: &Kek,
        weaker: WeakerSeal,
        deadline: Deadline,
    ) -> Result<Sealed, SealError> {
        let strongest = match self.strongest(deadline) {
            Err(SealError::Refused(_)) if weaker == WeakerSeal::Allowed => Seal::Host,
            strongest => strongest?,
        };
        let mut weaker_because = None;
        for seal in Seal::ALL.into_iter().filter(|seal| *seal <= strongest) {
            match self.seal_with(seal, kek, deadline) {
                Ok(bytes) => {
                    return Ok(Sealed {
                        seal,
                        bytes,
                        weaker_because,
                    });
                }
                Err(error) if weaker == WeakerSeal::Allowed => {
                    let first = || format!("{seal}: {error}");
                    weaker_because = Some(weaker_because.unwrap_or_else(first));
                }
                Err(error) => return Err(error),
            }
        }
        Err(SealError::Refused(weaker_because.unwrap_or_default()))
    }

    /// Seals with this seal, and verifies that the result unseals.
    pub(crate) fn seal_with(
        &self,
        seal: Seal,
        kek: &Kek,
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let with_key = match seal {
            Seal::HostAndTpm2 => "--with-key=host+tpm2",
            Seal::Host => "--with-key=host",
            Seal::RootOnlyFile => {
                let mut digits = Zeroizing::new(vec![0; 2 * Kek::LEN + 1]);
                hex::encode(kek.expose(), &mut digits[..2 * Kek::LEN]);
                digits[2 * Kek::LEN] = b'\n';
                return Ok(digits);
            }
        };
        let name = credential_name(kek.key_id());
        // No PCRs: a firmware update must not lock the key away.
        let args = ["encrypt", with_key, "--tpm2-pcrs=", &name, "-", "-"];
        let sealed = self.run(&args, kek.expose(), deadline)?;
        self.unseal(seal, &sealed, kek.key_id(), deadline)?;
        Ok(sealed)
    }

    /// Unseals, and verifies that it is the key with this id.
    pub(crate) fn unseal(
        &self,
        seal: Seal,
        sealed: &[u8],
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Kek, SealError> {
        let kek = match seal {
            Seal::RootOnlyFile => {
                let digits = sealed.trim_ascii();
                Kek::made_by(|bytes| hex::decode(digits, bytes).ok_or(())).ok()
            }
            Seal::Host | Seal::HostAndTpm2 => {
                let name = credential_name(key_id);
                let bytes = self.run(&["decrypt", &name, "-", "-"], sealed, deadline)?;
                Kek::from_slice(&bytes)
            }
        };
        kek.filter(|kek| kek.key_id() == key_id)
            .ok_or(SealError::NotTheKey)
    }

    fn run(
        &self,
        args: &[&str],
        input: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if self.host_key.is_of_another_machine() {
            return Err(SealError::OtherMachine);
        }
        let output = process::run(&self.program, args, input, MAX_SEALED, deadline)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        // Notes, such as the one about the host key's storage medium, come before the reason.
        Err(SealError::Refused(match output.stderr.lines().last() {
            Some(line) => line.trim().to_owned(),
            None => format!("{}: {}", self.program.display(), output.status),
        }))
    }
}

/// The name with which systemd seals it, and which unsealing needs.
fn credential_name(key_id: KeyId) -> String {
    format!("--name=vtpm-guard-{key_id}")
}
