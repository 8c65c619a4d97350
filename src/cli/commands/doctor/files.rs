//! The state directory: does it, and all in it, belong to root alone?

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Ailment, unreadable};
use crate::guard::plain_state;
use crate::host::trusted::{Distrust, TrustedDir};

pub(crate) fn ailments(state_dir: &Path) -> Vec<Ailment> {
    let mut found = Vec::new();
    found.extend(way_to(state_dir));
    look_at(state_dir, &plain_state::dir(state_dir), &mut found);
    found
}

/// The directories above: what is wrong with the state directory itself is told below.
fn way_to(state_dir: &Path) -> Option<Ailment> {
    let (path, way_out) = match TrustedDir::open(state_dir.parent()?) {
        Err(Distrust::Owner { path, owner }) => {
            let shown = path.display();
            (
                format!("{shown} belongs to user {owner}"),
                format!("chown root {shown}"),
            )
        }
        Err(Distrust::WritableByOthers { path, mode }) => {
            let shown = path.display();
            (
                format!("{shown} has mode {mode:04o}"),
                format!("chmod go-w {shown}"),
            )
        }
        // What is missing is made; what else there is, reading the store tells.
        Ok(_) | Err(Distrust::Io { .. }) => return None,
    };
    Some(Ailment::fault(
        path,
        "others can change what the state directory's path leads to, and the guard refuses to use it",
        way_out,
    ))
}

/// Looks at a file or directory, and at all in it; but not at files in `plain_states`, which keep
/// the owner that they had as a guest's TPM state, in directories that are root's alone.
fn look_at(path: &Path, plain_states: &Path, found: &mut Vec<Ailment>) {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        // Nothing has been made yet, or SQLite took its own file away meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return found.push(unreadable(path, &error)),
    };
    if file.is_file() && path.starts_with(plain_states) {
        return;
    }
    let user = nix::unistd::geteuid().as_raw();
    let shown = path.display();
    if file.uid() != user {
        found.push(Ailment::fault(
            format!("{shown} belongs to user {}", file.uid()),
            "the guard trusts only files of the user that it runs as, and refuses to use it",
            format!("chown root {shown}"),
        ));
    } else if file.mode() & 0o077 != 0 && !file.is_symlink() {
        found.push(Ailment::fault(
            format!("{shown} has mode {:04o}", file.mode() & 0o7777),
            "others than root have access to keys, or to what the guard decides by",
            format!("chmod go-rwx {shown}"),
        ));
    }
    if !file.is_dir() {
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
    fn a_directory_above_that_others_may_write_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        fs::create_dir(&state_dir).unwrap();
        fs::set_permissions(&state_dir, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(ailments(&state_dir).len(), 0);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(ailments(&state_dir).len(), 1);
    }
}
