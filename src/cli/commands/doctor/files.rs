//! Do the files that root relies on belong to root alone?

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, lstat};

use super::{Ailment, unreadable};
use crate::cli::commands::status::hook_link;
use crate::host::dirs::{LibvirtDirs, RunDir, StateDir};
use crate::host::trusted::{self, Distrust, Reason};
use crate::libvirt;
use crate::messages::Arg;

/// Checks every path of the table of trusted files that is not checked where it is read, as the
/// configuration is, and all that is in the state directory.
pub(crate) fn ailments(state_dir: &StateDir, dirs: &LibvirtDirs) -> Vec<Ailment> {
    let run_dir = RunDir::default();
    let guards = "others can change what the guard relies on, and it refuses to use it";
    let mut found = Vec::new();
    for (path, rule, why) in [
        (state_dir.to_path_buf(), trusted::STATE_DIR, guards),
        (run_dir.leases(), trusted::RUN_DIR, guards),
        (run_dir.starts(), trusted::RUN_DIR, guards),
        (run_dir.staged(), trusted::RUN_DIR, guards),
        (libvirt::helper_program(), trusted::HELPER, guards),
        (
            hook_link(dirs),
            trusted::HOOK,
            "libvirt runs the hook as root, and others can change it",
        ),
    ] {
        // What is missing is made; a path in the state directory is found below.
        let Err(Distrust::Untrusted { path, reason }) = trusted::find(&path, rule) else {
            continue;
        };
        let ailment = distrusted(&path, reason, why);
        let is_known = found
            .iter()
            .any(|other: &Ailment| other.what == ailment.what);
        if !path.starts_with(&**state_dir) && !is_known {
            found.push(ailment);
        }
    }
    look_at(state_dir, &state_dir.plain_states(), &mut found);
    found
}

fn distrusted(path: &Path, reason: Reason, why: &'static str) -> Ailment {
    let file = Arg::file(path);
    let fix = match reason {
        Reason::Owner(_) => format!("chown root {file}"),
        Reason::Writable(_) => format!("chmod go-w {file}"),
        Reason::Accessible(_) => format!("chmod go-rwx {file}"),
        Reason::NotAFile | Reason::NotADirectory | Reason::Link(_) | Reason::SecondName => {
            format!("ls -ld {file}")
        }
    };
    let path = path.to_owned();
    Ailment::fault(Distrust::Untrusted { path, reason }.to_string(), why, fix)
}

/// Checks a file or directory, and all in it; but not files in `plain_states`, which keep the
/// owner that they had as a guest's TPM state, in directories that are root's alone.
fn look_at(path: &Path, plain_states: &Path, found: &mut Vec<Ailment>) {
    let file = match lstat(path) {
        Ok(file) => file,
        // Nothing has been made yet, or SQLite has removed its own file meanwhile.
        Err(Errno::ENOENT) => return,
        Err(errno) => return found.push(unreadable(path, &errno.into())),
    };
    let is = |kind: SFlag| file.st_mode & SFlag::S_IFMT.bits() == kind.bits();
    if is(SFlag::S_IFREG) && path.starts_with(plain_states) {
        return;
    }
    if let Err(Distrust::Untrusted { path, reason }) = trusted::IN_STATE_DIR.check_stat(path, &file)
    {
        let why = match reason {
            Reason::Owner(_) => {
                "the guard trusts only files of the user that it runs as, and refuses to use it"
            }
            _ => "others than root have access to keys, or to what the guard decides by",
        };
        found.push(distrusted(&path, reason, why));
    }
    if !is(SFlag::S_IFDIR) {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .for_each(|entry| look_at(&entry.path(), plain_states, found)),
        Err(error) => found.push(unreadable(path, &error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_may_write_is_found_also_above_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path().join("state"));
        let dirs = LibvirtDirs::below(dir.path());
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir(&*state_dir).unwrap();
        set_mode(&state_dir, 0o700);
        let found = || ailments(&state_dir, &dirs);
        assert_eq!(found().len(), 0);
        set_mode(dir.path(), 0o775);
        assert_eq!(found().len(), 1);
        set_mode(dir.path(), 0o755);
        fs::create_dir_all(dirs.hooks()).unwrap();
        let hook = dirs.hook_link();
        fs::write(&hook, "").unwrap();
        assert_eq!(found().len(), 0);
        set_mode(&hook, 0o775);
        let [ailment] = &found()[..] else {
            panic!("no hook that others may write is found");
        };
        assert_eq!(ailment.command, format!("chmod go-w {}", hook.display()));
    }
}
