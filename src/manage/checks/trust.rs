//! Do the files that root relies on belong to root alone?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, lstat};

use super::finding::unreadable;
use super::{Distrusted, Finding, HostFinding};
use crate::host::trusted::{self, Distrust, Reason};
use crate::host::{dirs, program};
use crate::manage::host::Host;

/// Checks every path of the table of trusted files that is not checked where it is read, as the
/// configuration is, and all that is in the state directory.
pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let (state_dir, run_dir) = (host.state_dir(), host.run_dir());
    let (hook, needed) = (host.libvirt_dirs().present_hook(), Distrusted::Needed);
    let mut found: Vec<Finding> = Vec::new();
    let mut reported = BTreeSet::new();
    for (path, rule, what) in [
        (state_dir.to_path_buf(), trusted::STATE_DIR, needed),
        (run_dir.leases(), trusted::RUN_DIR, needed),
        (run_dir.starts(), trusted::RUN_DIR, needed),
        (run_dir.staged(), trusted::RUN_DIR, needed),
        (
            program::find(Path::new(dirs::HELPER)),
            trusted::HELPER,
            needed,
        ),
        (hook, trusted::HOOK, Distrusted::Hook),
    ] {
        // What is missing is made; a path in the state directory is found below.
        let Err(Distrust::Untrusted { path, reason }) = trusted::find(&path, rule) else {
            continue;
        };
        if !path.starts_with(&**state_dir) && reported.insert(path.clone()) {
            found.push(HostFinding::Untrusted { path, reason, what }.into());
        }
    }
    let kept = [state_dir.plain_states(), state_dir.damaged_states()];
    look_at(state_dir, &kept, &mut found);
    found
}

/// Checks a file or directory, and all in it; but not files in `kept`, which keep the owner and
/// mode that they had as a guest's TPM state, in directories that are root's alone.
fn look_at(path: &Path, kept: &[PathBuf], found: &mut Vec<Finding>) {
    let file = match lstat(path) {
        Ok(file) => file,
        // Nothing has been made yet, or SQLite has removed its own file in the meantime.
        Err(Errno::ENOENT) => return,
        Err(errno) => return found.push(unreadable(path, errno.into())),
    };
    let is = |kind: SFlag| file.st_mode & SFlag::S_IFMT.bits() == kind.bits();
    if is(SFlag::S_IFREG) && kept.iter().any(|dir| path.starts_with(dir)) {
        return;
    }
    if let Err(Distrust::Untrusted { path, reason }) = trusted::IN_STATE_DIR.check_stat(path, &file)
    {
        let what = match reason {
            Reason::Owner(_) => Distrusted::Owner,
            _ => Distrusted::Open,
        };
        found.push(HostFinding::Untrusted { path, reason, what }.into());
    }
    if !is(SFlag::S_IFDIR) {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .for_each(|entry| look_at(&entry.path(), kept, found)),
        Err(error) => found.push(unreadable(path, error)),
    }
}
