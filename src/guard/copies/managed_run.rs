//! A mark on tmpfs, from `started` to `release`, of a transient guest that runs under the guard. libvirt deletes its TPM
//! state at the end: that is saved even if its key references are gone by then, by `key unbind`, by `key prune`, or with
//! a store that was restored meanwhile. An empty file, named by the guest's UUID.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::available::encrypted_and_deleted;
use crate::domain::Domain;
use crate::guard::context::Guard;
use crate::host::{atomic, trusted};

/// `started`: marks the run, if the guard has key references of the guest. What an earlier run has left goes.
pub(in crate::guard) fn mark(guard: &Guard, domain: &Domain, is_managed: bool) {
    if !is_managed || encrypted_and_deleted(guard, domain).is_none() {
        unmark(guard, domain);
    } else if let Err(error) = write(guard, domain) {
        tracing::warn!(domain = domain.name, %error, "its TPM state will be saved only if it has key references then");
    }
}

fn write(guard: &Guard, domain: &Domain) -> io::Result<()> {
    let dir = trusted::make_dir(&guard.run_dir.runs(), trusted::RUN_DIR)?;
    let name = OsString::from(domain.uuid.to_string());
    atomic::replace(&dir, &name, b"")
}

/// Whether the run that is over began under the guard. A mark that cannot be looked for counts as there: a superfluous
/// copy does no harm.
pub(super) fn is_marked(guard: &Guard, domain: &Domain) -> bool {
    path(guard, domain).try_exists().unwrap_or(true)
}

/// The run is over.
pub(in crate::guard) fn unmark(guard: &Guard, domain: &Domain) {
    if let Err(error) = atomic::remove_path(&path(guard, domain)) {
        tracing::warn!(domain = domain.name, %error, "could not remove the mark of a run");
    }
}

fn path(guard: &Guard, domain: &Domain) -> PathBuf {
    guard.run_dir.runs().join(domain.uuid.to_string())
}
