//! A libvirt on disk, for tests of procedures without root and without a daemon.
//!
//! It keeps its files where a system libvirt does ([`LibvirtDirs`]), so code that reads those files
//! sees the same guests and secrets:
//!
//! | file | what |
//! | --- | --- |
//! | `etc/libvirt/qemu/NAME.xml` | the definition of a persistent guest |
//! | `run/libvirt/qemu/NAME.xml` | a running guest |
//! | `var/lib/libvirt/qemu/save/NAME.save` | its managed save image |
//! | `var/lib/libvirt/qemu/snapshot/NAME/` | its snapshots of when it ran |
//! | `etc/libvirt/secrets/UUID.{xml,base64}` | a secret that is not ephemeral |
//! | `memory/UUID.{xml,value}` | what the daemon holds in its memory: every secret |
//!
//! Each change is on disk when its call returns: a process that is killed leaves what libvirt
//! would have. Clones, and others [`at`](FakeLibvirt::at) the same directory, are the same libvirt.
//! `tests/libvirt_secrets.rs` holds the same rules against a real libvirtd.

mod calls;
mod disk;
mod failures;
mod guests;
mod metadata;
mod secrets;
mod serve;
mod tests;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use self::failures::Failures;
pub(crate) use self::failures::{Call, Failure};
use self::guests::GuestFiles;
use self::secrets::SecretDriver;
use crate::host::dirs::LibvirtDirs;
use crate::libvirt::Daemons;

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

    /// Its daemons: the modular ones where virtqemud has a pid file.
    pub(crate) fn daemons(&self) -> Daemons {
        if self.dirs.pid_file("virtqemud").exists() {
            Daemons::Modular
        } else {
            Daemons::Monolithic
        }
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
}
