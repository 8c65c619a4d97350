//! The state directory: does it, and all in it, belong to root alone?

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Ailment, unreadable};
use crate::guard::plain_state;

pub(super) fn ailments(state_dir: &Path) -> Vec<Ailment> {
    let mut found = Vec::new();
    look_at(state_dir, &plain_state::shelf(state_dir), &mut found);
    found
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
