//! A libvirt on disk, for tests of procedures without root and without a daemon.
//!
//! It keeps its files where a system libvirt does ([`LibvirtDirs`]), so code that reads those files
//! sees the same guests and secrets:
//!
//! | file | what |
//! | --- | --- |
//! | `etc/qemu/NAME.xml` | the definition of a persistent guest |
//! | `run/qemu/NAME.xml` | a running guest |
//! | `state/qemu/save/NAME.save` | its managed save image |
//! | `state/qemu/snapshot/NAME/` | its snapshots of when it ran |
//! | `etc/secrets/UUID.{xml,base64}` | a secret that is not ephemeral |
//! | `memory/UUID.{xml,value}` | what the daemon holds in its memory: every secret |
//!
//! Each change is on disk when its call returns: a process that is killed leaves what libvirt
//! would have. Clones, and others [`at`](FakeLibvirt::at) the same directory, are the same libvirt.
//! `tests/libvirt_secrets.rs` holds the same rules against a real libvirtd.

mod failures;
mod guests;
mod secrets;
mod tests;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use self::failures::Failures;
pub(crate) use self::failures::{Call, Failure};
use self::guests::GuestFiles;
use self::secrets::SecretDriver;
use super::files::value_on_disk;
use super::guests::{Guest, Libvirt, SavedRuns};
use super::secret::{
    HostSecrets, LibvirtSecret, Provided, Purpose, SecretDefinition, SecretError, SecretValue,
    definition,
};
use crate::clock::Deadline;
use crate::host::crash;
use crate::host::dirs::LibvirtDirs;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::verdict::Over;

/// A fake libvirt.
#[derive(Clone)]
pub(crate) struct FakeLibvirt {
    dirs: LibvirtDirs,
    /// The guests, for a test to define, start, stop and save.
    pub(crate) guests: GuestFiles,
    /// The secrets, for a test to define and to read as a start does.
    pub(crate) secrets: SecretDriver,
    failures: Arc<Mutex<Failures>>,
}

impl FakeLibvirt {
    /// The libvirt in this directory, which is made if it is missing.
    pub(crate) fn at(root: &Path) -> Self {
        let dirs = LibvirtDirs::below(root);
        let memory = root.join("memory");
        for dir in [
            dirs.definitions(),
            dirs.running(),
            dirs.managed_saves(),
            dirs.snapshots(),
            dirs.tpm_states(),
        ] {
            fs::create_dir_all(dir).unwrap();
        }
        for dir in [dirs.secrets(), memory.clone()] {
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
        }
        Self {
            guests: GuestFiles::of(&dirs),
            secrets: SecretDriver::new(memory, dirs.secrets()),
            failures: Arc::default(),
            dirs,
        }
    }

    /// Where it keeps its files.
    pub(crate) fn dirs(&self) -> &LibvirtDirs {
        &self.dirs
    }

    /// Lets the `nth` call from now (1 is the next) fail.
    pub(crate) fn fail_at(&self, nth: usize, failure: Failure) {
        self.failures().fail_at(nth, failure);
    }

    /// Lets every call of this kind fail from now on.
    pub(crate) fn fail_each(&self, call: Call, failure: Failure) {
        self.failures().fail_each(call, failure);
    }

    /// Lets every call fail from now on, as where no daemon runs.
    pub(crate) fn go_down(&self) {
        self.failures().go_down();
    }

    /// Lets no call fail any more.
    pub(crate) fn recover(&self) {
        self.failures().recover();
    }

    /// Returns how many calls were made, failed ones included.
    pub(crate) fn calls(&self) -> usize {
        self.failures().calls()
    }

    /// Returns how many calls of this kind were made, failed ones included.
    pub(crate) fn calls_of(&self, call: Call) -> usize {
        self.failures().calls_of(call)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap()
    }

    /// Serves one call, unless it is to fail.
    fn serve<T>(
        &self,
        call: Call,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        let failure = self.failures().next(call);
        crash::point();
        if deadline.has_passed() {
            return Err(failures::no_answer());
        }
        let answer = match failure {
            None => work(),
            Some(failure) => failure.happen(work),
        };
        crash::point();
        answer
    }

    fn look_up(&self, secret: SecretUuid) -> Option<LibvirtSecret> {
        let definition = self.secrets.definition(secret)?;
        let value = match self.secrets.value(secret) {
            _ if definition.is_private => SecretValue::Private,
            None => SecretValue::None,
            Some(value) => SecretValue::Disclosed(Dek::from_bytes(value.into())),
        };
        Some(LibvirtSecret { definition, value })
    }

    /// Undefines the secret where `may_go` says so. Returns whether it did.
    fn undefine_if(
        &self,
        secret: SecretUuid,
        may_go: impl FnOnce(&SecretDefinition) -> bool,
    ) -> bool {
        let found = self.secrets.definition(secret);
        found.is_some_and(|found| may_go(&found)) && self.secrets.undefine(secret)
    }

    fn give(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
    ) -> Result<Provided, SecretError> {
        let Some(found) = self.secrets.definition(secret) else {
            self.define_with(secret, domain, dek)?;
            return Ok(Provided::Defined);
        };
        if found.purpose == Purpose::Other {
            let usage = found.usage;
            let words = format!("it is not one for a vTPM; its usage is \"{usage}\"");
            return Err(SecretError::Conflict(words));
        }
        match (over, found.guards_domain().is_some()) {
            (Over::GuardsOwn, true) | (Over::ForeignDefinition, false) => {
                self.secrets.undefine(secret);
                self.define_with(secret, domain, dek)?;
            }
            (Over::ForeignValue, false) if found.is_ephemeral && found.is_private => {
                self.secrets.set_value(secret, dek.expose())?;
            }
            _ => return Err(SecretError::Changed),
        }
        Ok(Provided::Set)
    }

    fn define_with(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
    ) -> Result<(), SecretError> {
        self.secrets.define(&definition(secret, domain))?;
        let set = self.secrets.set_value(secret, dek.expose());
        if set.is_err() {
            self.secrets.undefine(secret);
        }
        set
    }
}

impl HostSecrets for FakeLibvirt {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        self.serve(Call::Inspect, deadline, || {
            let mut found = self.look_up(secret);
            if let Some(LibvirtSecret { definition, value }) = &mut found
                && definition.is_private
                && !definition.is_ephemeral
            {
                *value = value_on_disk(&self.dirs.secrets(), secret);
            }
            Ok(found)
        })
    }

    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        if over == Over::TheSame {
            return Ok(Provided::LeftAsIs);
        }
        self.serve(Call::Provide, deadline, || {
            self.give(secret, domain, dek, over)
        })
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::DropOwn, deadline, || {
            Ok(self.undefine_if(secret, |found| found.guards_domain() == Some(domain)))
        })
    }
}

impl Libvirt for FakeLibvirt {
    fn guests(&self, deadline: Deadline) -> Result<Vec<Guest>, SecretError> {
        self.serve(Call::Guests, deadline, || Ok(self.guests.all()))
    }

    fn guests_called(
        &self,
        name_or_uuid: &str,
        deadline: Deadline,
    ) -> Result<Vec<Guest>, SecretError> {
        self.serve(Call::GuestsCalled, deadline, || {
            Ok(self.guests.called(name_or_uuid))
        })
    }

    fn saved_runs(&self, domain: DomainUuid, deadline: Deadline) -> Result<SavedRuns, SecretError> {
        self.serve(Call::SavedRuns, deadline, || self.guests.saved_runs(domain))
    }

    fn encrypt_vtpm(
        &self,
        domain: DomainUuid,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::EncryptVtpm, deadline, || {
            self.guests.encrypt_vtpm(domain, secret)
        })
    }

    fn reveal(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        self.serve(Call::Reveal, deadline, || Ok(self.look_up(secret)))
    }

    fn undefine(&self, secret: SecretUuid, deadline: Deadline) -> Result<bool, SecretError> {
        self.serve(Call::Undefine, deadline, || {
            match self.secrets.definition(secret) {
                Some(found) if found.purpose != Purpose::Vtpm => {
                    let words = format!("the secret {secret} is not one for vTPMs alone");
                    Err(SecretError::Conflict(words))
                }
                found => Ok(found.is_some() && self.secrets.undefine(secret)),
            }
        })
    }

    fn drop_staged(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::DropStaged, deadline, || {
            Ok(self.undefine_if(secret, |found| {
                found.guards_domain() == Some(domain) && found.is_staged()
            }))
        })
    }
}

/// Writes a file of libvirt's, mode 0600, in one step.
fn write(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(&new, path).unwrap();
}
