//! Leases of libvirt secrets to starting guests. Guests made from one template name the same
//! secret; between `prepare`, which sets its value, and `started` or `release` it must not be given
//! to a guest with another key.
//!
//! `/run/vtpm-guard/secrets/SECRET-UUID` lists the starting guests, and is removed with the last of
//! them; `SECRET-UUID.lock` is held only while libvirt is asked. Both are on a tmpfs: no start
//! survives a boot. Guests with the same key share the secret; equal keys are recognised by a salted
//! digest, so that the file contains no key.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use self::record::{Holder, Record, digest, read};
use crate::clock::{Deadline, Timestamp};
use crate::domain::Domain;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};
use crate::host::{self, atomic, poll};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::key::random;
use crate::libvirt::calling_daemon;

mod record;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// How often a secret that is in use is checked again.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a secret could not be leased for a start.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    /// Another guest is being started with it under another key: that guest's name.
    #[error("it is in use for the start of the guest \"{0}\"")]
    InUse(String),
    /// The lease could not be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
    /// Another user could have written the lease.
    #[error(transparent)]
    NotTrusted(Distrust),
}

impl From<Distrust> for LeaseError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            untrusted @ Distrust::Untrusted { .. } => Self::NotTrusted(untrusted),
        }
    }
}

/// One locked secret: nobody else sets or drops it in libvirt until this value is dropped.
pub(super) struct Lease {
    path: PathBuf,
    dir: File,
    record: Record,
    domain: DomainUuid,
    _lock: File,
}

/// Locks `secret` for the start of `domain` with `dek`: waits until no guest with another key is
/// being started with it.
pub(super) fn take(
    dir: &Path,
    secret: SecretUuid,
    domain: DomainUuid,
    dek: &Dek,
    deadline: Deadline,
) -> Result<Lease, LeaseError> {
    loop {
        let lease = Lease::lock(dir, secret, domain, deadline)?;
        let Some(other) = lease.others().next() else {
            return Ok(lease);
        };
        if lease.is_for(dek) {
            return Ok(lease);
        }
        let name = other.name.clone();
        drop(lease);
        if !poll::wait(PAUSE, deadline) {
            return Err(LeaseError::InUse(name));
        }
    }
}

/// Ends the use of `secret` by `domain`, whose start is over. If no other guest is being started
/// with it, `drop_secret` is called with the guest that is in the secret's usage name.
pub(super) fn release<T>(
    dir: &Path,
    secret: SecretUuid,
    domain: DomainUuid,
    deadline: Deadline,
    drop_secret: impl FnOnce(DomainUuid) -> T,
) -> Result<Option<T>, LeaseError> {
    let mut lease = Lease::lock(dir, secret, domain, deadline)?;
    if lease.others().next().is_some() {
        lease
            .record
            .holders
            .retain(|other| other.domain != domain.to_string());
        lease.write()?;
        return Ok(None);
    }
    let defined_for = DomainUuid::parse(&lease.record.defined_for).unwrap_or(domain);
    let done = drop_secret(defined_for);
    lease.remove()?;
    Ok(Some(done))
}

impl Lease {
    /// Returns whether other guests with the same key are being started with it: libvirt has it.
    pub(super) fn is_shared(&self) -> bool {
        self.others().next().is_some()
    }

    /// Records that this guest is being started. `defines`: the secret was defined for it.
    pub(super) fn hold(
        mut self,
        domain: &Domain,
        dek: &Dek,
        defines: bool,
    ) -> Result<(), LeaseError> {
        let uuid = domain.uuid.to_string();
        if defines {
            self.record.defined_for.clone_from(&uuid);
        }
        if !self.is_for(dek) {
            let mut salt = vec![0; 32];
            random::fill(&mut salt).map_err(|error| self.error(io::Error::other(error)))?;
            self.record.digest = digest(&salt, dek);
            self.record.salt = salt;
        }
        self.record.holders.retain(|holder| holder.domain != uuid);
        self.record.holders.push(Holder {
            domain: uuid,
            name: domain.name.clone(),
            daemon: calling_daemon(),
            since: Timestamp::now().0,
        });
        self.write()
    }

    fn others(&self) -> impl Iterator<Item = &Holder> {
        let this = self.domain.to_string();
        let holders = self.record.holders.iter();
        holders.filter(move |holder| holder.domain != this)
    }

    fn is_for(&self, dek: &Dek) -> bool {
        !self.record.salt.is_empty() && digest(&self.record.salt, dek) == self.record.digest
    }

    fn lock(
        dir: &Path,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Self, LeaseError> {
        let path = dir.join(secret.to_string());
        let dir = trusted::make_dir(dir, trusted::RUN_DIR)?;
        let lock = lock(&path.with_extension("lock"), deadline).map_err(PathError::at(&path))?;
        let mut record = read(&path).map_err(PathError::at(&path))?;
        let now = Timestamp::now();
        record.holders.retain(|holder| holder.is_starting(now));
        Ok(Self {
            path,
            dir,
            record,
            domain,
            _lock: lock,
        })
    }

    fn write(&self) -> Result<(), LeaseError> {
        let bytes = serde_json::to_vec(&self.record).map_err(|error| self.error(error.into()))?;
        let name = self.path.file_name().unwrap_or_default();
        atomic::replace(&self.dir, name, &bytes).map_err(|error| self.error(error))
    }

    /// Removes the lease. Others that wait for the lock notice that it is gone, and create a new
    /// one.
    fn remove(self) -> Result<(), LeaseError> {
        for path in [self.path.clone(), self.path.with_extension("lock")] {
            let name = path.file_name().unwrap_or_default();
            atomic::remove(&self.dir, name).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    fn error(&self, source: io::Error) -> LeaseError {
        PathError::new(&*self.path, source).into()
    }
}

/// Whether a guest is being started, as this file says, for fuzzing.
#[cfg(feature = "internals")]
pub(super) fn is_record(bytes: &[u8]) -> bool {
    let (record, now) = (serde_json::from_slice::<Record>(bytes), Timestamp::now());
    record.is_ok_and(|record| record.holders.iter().any(|holder| holder.is_starting(now)))
}

/// The lock, held by this process until the file is closed.
fn lock(path: &Path, deadline: Deadline) -> io::Result<File> {
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        host::lock::lock(&file, deadline)?;
        // The last holder may have removed it.
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}
