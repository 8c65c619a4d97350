//! How a host seals a KEK: systemd credentials where it has them, else a plain text that
//! only a root-only file may hold.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::hex;
use super::id::KeyId;
use super::kek::Kek;
use crate::child::{self, ChildError};
use crate::clock::Deadline;

/// The longest sealed text, in bytes. systemd's are some 150 to 1500 bytes long.
pub(super) const MAX_SEALED: usize = 16 * 1024;

/// How a KEK is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// `systemd-creds` with the host's key and its TPM 2.0.
    HostAndTpm2,
    /// `systemd-creds` with the host's key.
    Host,
    /// In clear in a file that only root can read: the host has no systemd credentials.
    RootOnlyFile,
}

/// As `provider show` and `status` say it.
impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostAndTpm2 => "systemd host+tpm2",
            Self::Host => "systemd host",
            Self::RootOnlyFile => "root-only file",
        })
    }
}

/// Why a sealer did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It could not be run to its end.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It said no: the last line of its words.
    #[error("{0}")]
    Refused(String),
    /// What came out is not the key with this id.
    #[error("what was unsealed is not this key")]
    NotTheKey,
}

/// The program that seals, `systemd-creds`.
#[derive(Debug, Clone)]
pub struct Sealer {
    program: PathBuf,
}

impl Default for Sealer {
    fn default() -> Self {
        Self::at(PathBuf::from("systemd-creds"))
    }
}

impl Sealer {
    /// A program that understands what `systemd-creds` does.
    #[must_use]
    pub fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Seals as strongly as this host can, and believes nothing that did not unseal again.
    pub(super) fn seal(
        &self,
        kek: &Kek,
        deadline: Deadline,
    ) -> Result<(Seal, Zeroizing<Vec<u8>>), SealError> {
        let with_tpm2 = self.has_tpm2(deadline)?.then_some(Seal::HostAndTpm2);
        for seal in with_tpm2.into_iter().chain([Seal::Host]) {
            let sealed = self.encrypt(seal, kek, deadline).and_then(|sealed| {
                self.unseal(seal, &sealed, kek.key_id(), deadline)?;
                Ok(sealed)
            });
            match sealed {
                Ok(sealed) => return Ok((seal, sealed)),
                // Not on this host: no such program, no host key (/var/lib/systemd cannot be
                // written), a TPM that does not do what it says.
                Err(
                    SealError::Child(ChildError::NotInstalled(_))
                    | SealError::Refused(_)
                    | SealError::NotTheKey,
                ) => {}
                Err(error) => return Err(error),
            }
        }
        let mut digits = Zeroizing::new(vec![0; 2 * Kek::LEN + 1]);
        hex::encode(kek.expose(), &mut digits[..2 * Kek::LEN]);
        digits[2 * Kek::LEN] = b'\n';
        Ok((Seal::RootOnlyFile, digits))
    }

    /// Unseals, and makes sure that it is the key with this id.
    pub(super) fn unseal(
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

    fn encrypt(
        &self,
        seal: Seal,
        kek: &Kek,
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let with_key = match seal {
            Seal::HostAndTpm2 => "--with-key=host+tpm2",
            Seal::Host | Seal::RootOnlyFile => "--with-key=host",
        };
        let name = credential_name(kek.key_id());
        // No PCRs: a firmware update must not lock the key away.
        let args = ["encrypt", with_key, "--tpm2-pcrs=", &name, "-", "-"];
        self.run(&args, kek.expose(), deadline)
    }

    /// Whether firmware, driver, system and libraries all support a TPM 2.0: exit status 0.
    fn has_tpm2(&self, deadline: Deadline) -> Result<bool, SealError> {
        match child::run(
            &self.program,
            &["has-tpm2", "--quiet"],
            b"",
            MAX_SEALED,
            deadline,
        ) {
            Ok(output) => Ok(output.status.success()),
            Err(ChildError::NotInstalled(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn run(
        &self,
        args: &[&str],
        input: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let output = child::run(&self.program, args, input, MAX_SEALED, deadline)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        // Notes, such as the one about the host key's medium, come before the reason.
        Err(SealError::Refused(match output.stderr.lines().last() {
            Some(words) => words.trim().to_owned(),
            None => format!("{}: {}", self.program.display(), output.status),
        }))
    }
}

/// The name under which systemd seals it, and without which it does not unseal.
fn credential_name(key_id: KeyId) -> String {
    format!("--name=vtpm-guard-{key_id}")
}
